"""How cases were sampled: in words, and as keys of the JSON report."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from kernelprof.results import Sampling
from kernelprof.units import counted, magnitude


def sampled(how: Sampling) -> str:
    """The rounds of a case, what ended them, and what speaks against them."""
    said = counted(how.rounds, "round")
    if how.processes > 1:
        said += f" in {how.processes} processes"
    if how.disturbed:
        outcome = "too many to be left out" if how.unavoidable else "left out"
        said += f", of which {how.disturbed} disturbed and {outcome}"
    said += f", ended by: {how.stopped_by or 'interruption'}"
    if how.unmet:
        said += f" ({magnitude(how.half_width)} known, {magnitude(how.asked_half_width)} asked for)"
    return said


def sampling_verdict(all_of_them: Sequence[Sampling]) -> list[str]:
    """What there is to say about the samples of a whole run."""
    rounds = sum(how.rounds for how in all_of_them)
    disturbed = sum(how.disturbed for how in all_of_them)
    noisy = sum(how.unavoidable for how in all_of_them)
    unmet = [how for how in all_of_them if how.unmet]
    sentences = []
    if disturbed:
        left_out = (
            "left out of the results"
            if not noisy
            else (
                f"left out of the results, but for {counted(noisy, 'case')} with too many of them"
            )
        )
        sentences.append(
            f"Disturbed from outside: {disturbed} of {counted(rounds, 'round')}, {left_out}."
        )
    if unmet:
        worst = max(how.half_width for how in unmet)
        sentences.append(
            f"Known less well than to the {magnitude(unmet[0].asked_half_width)} that was asked "
            f"for: {len(unmet)} of {counted(len(all_of_them), 'case')}, the worst to "
            f"{magnitude(worst)}; the {_enders(unmet)} came first."
        )
    return sentences


def _enders(unmet: Sequence[Sampling]) -> str:
    """What ended the rounds of cases that are not known well enough."""
    names = {"budget": "time budget", "rounds": "limit of rounds"}
    found = dict.fromkeys(names.get(how.stopped_by, "interruption") for how in unmet)
    return " or the ".join(found)


def sampling_json(how: Sampling) -> dict[str, Any]:
    """The keys of a case in the JSON report."""
    return {
        "rounds": how.rounds,
        "processes": how.processes,
        "disturbed_rounds": how.disturbed,
        "disturbed_unavoidably": how.unavoidable,
        "stopped_by": how.stopped_by,
        "half_width": how.half_width,
        "asked_half_width": how.asked_half_width,
    }
