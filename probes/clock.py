"""How a block of calls is timed.

The clock is a parameter everywhere, so that tests count on a fake one instead of sleeping.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any, Callable

Now = Callable[[], int]

UNROLLED = (100, 10)  # calls in a turn of the loops; what is left over is called one by one
HARNESS_SHARE = 1e-3  # of a sample; blocks are made long enough to keep below it
MARGIN = 2.0  # for calls that turn out faster later on
STEADY_SHARE = 0.05  # warm once a call is not faster than the best before by more than this


@dataclass(frozen=True)
class ClockFacts:
    """What the clock and the harness cost, in nanoseconds.

    ``block_ns`` is the time of an empty block; ``loop_ns`` is that of a turn of a loop.
    """

    resolution_ns: int
    block_ns: float
    loop_ns: float

    def harness_ns(self, calls: int) -> float:
        """The harness's own share of a sample of ``calls`` calls."""
        return self.block_ns + self.loop_ns * turns(calls)


def turns(calls: int) -> int:
    """How often the loops of ``time_block`` turn."""
    many, few = UNROLLED
    left = calls - 1
    return left // many + left % many // few + left % few


def time_block(
    call: Callable[[], Any],
    calls: int,
    held: list[Any],
    place: int,
    releases: tuple[int, ...] = (),
    finish: Callable[[], object] | None = None,
    now: Now = time.perf_counter_ns,
) -> int:
    """Nanoseconds that ``calls`` calls take, with what the network does after each.

    The last result is kept in ``held[place]`` and the results at ``releases`` are dropped, inside
    the timed block: to free memory is part of a network's work.  ``finish`` waits for an engine
    that works asynchronously.
    """
    many, few = UNROLLED
    left = calls - 1
    start = now()
    for _ in range(left // many):
        call(), call(), call(), call(), call(), call(), call(), call(), call(), call()
        call(), call(), call(), call(), call(), call(), call(), call(), call(), call()
        call(), call(), call(), call(), call(), call(), call(), call(), call(), call()
        call(), call(), call(), call(), call(), call(), call(), call(), call(), call()
        call(), call(), call(), call(), call(), call(), call(), call(), call(), call()
        call(), call(), call(), call(), call(), call(), call(), call(), call(), call()
        call(), call(), call(), call(), call(), call(), call(), call(), call(), call()
        call(), call(), call(), call(), call(), call(), call(), call(), call(), call()
        call(), call(), call(), call(), call(), call(), call(), call(), call(), call()
        call(), call(), call(), call(), call(), call(), call(), call(), call(), call()
    for _ in range(left % many // few):
        call(), call(), call(), call(), call(), call(), call(), call(), call(), call()
    for _ in range(left % few):
        call()
    held[place] = call()
    for other in releases:
        held[other] = None
    if finish is not None:
        finish()
    return now() - start


def clock_facts(now: Now = time.perf_counter_ns) -> ClockFacts:
    """Measure the clock's resolution and the cost of the harness.

    Raises:
        RuntimeError: the clock stands still.
    """
    steps = [later - earlier for earlier, later in _successive(now, 2000)]
    ticks = [step for step in steps if step > 0]
    if not ticks:
        raise RuntimeError("the clock does not advance; no sample can be timed with it")
    held: list[Any] = [None]
    blocks = sorted(time_block(_nothing, 1, held, 0, now=now) for _ in range(501))
    return ClockFacts(min(ticks), float(blocks[250]), _loop_ns(now))


def _successive(now: Now, count: int) -> list[tuple[int, int]]:
    readings = [now() for _ in range(count)]
    return list(zip(readings, readings[1:]))


def _loop_ns(now: Now) -> float:
    count = 4096
    times = []
    for _ in range(11):
        start = now()
        for _ in range(count):
            pass
        times.append(now() - start)
    return sorted(times)[5] / count


def _nothing() -> None:
    return None


def calls_per_sample(call_ns: float, facts: ClockFacts) -> int:
    """How many calls make a sample in which the harness stays below its share.

    Loops cost their own share of every call; more calls only make the block's share smaller.  They
    turn least often for whole turns, and one call after them.
    """
    many, few = UNROLLED
    for turn, most in ((1, few), (few, many)):
        calls = _calls_in_turns(max(call_ns, 1.0), facts, turn)
        if calls <= most:
            return calls
    return _calls_in_turns(max(call_ns, 1.0), facts, many)


def _calls_in_turns(call_ns: float, facts: ClockFacts, turn: int) -> int:
    """How many calls a sample needs if a loop makes ``turn`` of them in a turn."""
    left = max(HARNESS_SHARE - MARGIN * facts.loop_ns / turn / call_ns, HARNESS_SHARE / 2)
    least_ns = max(MARGIN * facts.block_ns / left, 100.0 * facts.resolution_ns)
    calls = max(1, int(-(-least_ns // call_ns)))
    return 1 + -(-(calls - 1) // turn) * turn


def warm_up(call: Callable[[], int], budget_ns: int, steady: int = 3) -> list[int]:
    """Time single calls until ``steady`` in a row bring no better time, or the budget is spent.

    ``call`` returns its own duration.  At least two durations come back.
    """
    durations = [call()]
    since_best = 0
    while since_best < steady and (sum(durations) < budget_ns or len(durations) < 2):
        best = min(durations)
        durations.append(call())
        since_best = 0 if durations[-1] < best * (1 - STEADY_SHARE) else since_best + 1
    return durations
