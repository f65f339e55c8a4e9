"""Let a worker time the kernels of a network, without a run file."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from kernelprof.disturbance import Sample, Time, times_of
from kernelprof.launch import Worker
from kernelprof.probes.network import INFER, Network

PATIENCE_S = 300.0
WARM_UP_S = 1.0
STARTED, DURATION = 1, 2  # places in a sample as a worker answers it


@dataclass(frozen=True)
class Turn:
    """The samples of some rounds by round and place, and what they took together."""

    times: dict[int, dict[int, Time]]
    sampled_ns: int
    turn_ns: int

    def and_then(self, later: Turn) -> Turn:
        """Both together."""
        return Turn(
            {**self.times, **later.times},
            self.sampled_ns + later.sampled_ns,
            self.turn_ns + later.turn_ns,
        )


def build(worker: Worker, network: Network) -> None:
    """Build the kernels of a network, forward, and bring them to a steady state."""
    worker.ask(
        "build",
        PATIENCE_S,
        network=network.to_json(),
        batch=1,
        subjects={INFER: {"mode": INFER, "whole": False}},
        seed=1,
        warm_up_s=WARM_UP_S,
    )


def turn(worker: Worker, rounds: Iterable[int]) -> Turn:
    """One turn of what was built."""
    told = worker.ask("turn", PATIENCE_S, subject=INFER, rounds=list(rounds))
    samples = [
        (sample, round_["round"], int(place))
        for round_ in told["rounds"]
        for place, sample in round_["kernels"].items()
    ]
    samples.sort(key=lambda found: found[0][STARTED])
    return Turn(
        times_of(_sample(sample, round_, place) for sample, round_, place in samples),
        sum(sample[DURATION] for sample, _, _ in samples),
        told["turn_ns"],
    )


def _sample(sample: Sequence[int], round_: int, place: int) -> Sample:
    calls, _, *counters = sample
    return Sample(round_, place, 0, calls, *counters[: len(Sample._fields) - 4])
