"""Whether a machine is fit to measure: what each check found, and what to do about it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

PASS = "pass"
WARN = "warn"
BLOCK = "block"
OUTCOMES = (PASS, WARN, BLOCK)  # from good to bad


@dataclass(frozen=True)
class Check:
    """One question, its answer in a line, and what to do where the answer is bad."""

    name: str
    outcome: str
    reason: str
    remedy: str = ""

    def to_json(self) -> dict[str, str]:
        """A JSON object, for the run file and for scripts."""
        return {
            "name": self.name,
            "outcome": self.outcome,
            "reason": self.reason,
            "try": self.remedy,
        }

    @classmethod
    def from_json(cls, data: dict[str, str]) -> Check:
        """The reverse of ``to_json``."""
        return cls(data["name"], data["outcome"], data["reason"], data["try"])


@dataclass(frozen=True)
class Fitness:
    """All checks of a machine, and whether it was measured on although one of them blocks."""

    checks: tuple[Check, ...]
    forced: bool = False

    @property
    def blocks(self) -> list[Check]:
        """The checks that speak against measuring at all."""
        return [check for check in self.checks if check.outcome == BLOCK]

    @property
    def warnings(self) -> list[Check]:
        """The checks that say what may disturb."""
        return [check for check in self.checks if check.outcome == WARN]

    def with_earlier(self, earlier: Fitness) -> Fitness:
        """The worse outcome of each check: what a run is worth that was measured in two goes."""
        return Fitness(
            worst([*self.checks, *earlier.checks]),
            forced=self.forced or earlier.forced,
        )

    def to_json(self) -> dict[str, Any]:
        """A JSON object, for the run file and for scripts."""
        return {
            "fit": not self.blocks,
            "forced": self.forced,
            "checks": [check.to_json() for check in self.checks],
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Fitness:
        """The reverse of ``to_json``."""
        return cls(tuple(map(Check.from_json, data["checks"])), data["forced"])


@dataclass(frozen=True)
class Started:
    """A worker of an engine at a placement, and what it told of itself; or why there is none.

    ``pool`` is the size that its pool should have, None where the user decides that.
    """

    engine: str
    cpus: tuple[int, ...]
    facts: dict[str, Any]
    pool: int | None = None
    failure: str = ""


def worst(checks: Iterable[Check]) -> tuple[Check, ...]:
    """Each check once, by its worst outcome; the first of those that are as bad."""
    found: dict[str, Check] = {}
    for check in checks:
        known = found.setdefault(check.name, check)
        if OUTCOMES.index(check.outcome) > OUTCOMES.index(known.outcome):
            found[check.name] = check
    return tuple(found.values())
