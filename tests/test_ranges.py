"""NVTX ranges nest in the order of their names, and cost nothing where the package is missing."""

from __future__ import annotations

import sys
from types import ModuleType, TracebackType

import pytest

from kernelprof.probes.ranges import DOMAIN, Ranges

Event = tuple[str, str]


class Annotation:
    """Stands in for ``nvtx.annotate``: writes down when it is entered and left."""

    made: list[tuple[str, str]]
    events: list[Event]

    def __init__(self, message: str, domain: str) -> None:
        self.message = message
        self.made.append((message, domain))

    def __enter__(self) -> Annotation:
        self.events.append(("push", self.message))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.events.append(("pop", self.message))


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> type[Annotation]:
    """The stand-in as the nvtx package of this process."""
    recording = type("Recording", (Annotation,), {"made": [], "events": []})
    module = ModuleType("nvtx")
    module.annotate = recording  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "nvtx", module)
    return recording


def test_first_name_is_outermost(recorder: type[Annotation]) -> None:
    with Ranges().range("network", "layer", "primitive"):
        recorder.events.append(("run", ""))
    assert recorder.events == [
        ("push", "network"),
        ("push", "layer"),
        ("push", "primitive"),
        ("run", ""),
        ("pop", "primitive"),
        ("pop", "layer"),
        ("pop", "network"),
    ]


def test_ranges_close_when_the_body_fails(recorder: type[Annotation]) -> None:
    with pytest.raises(RuntimeError, match="broken"), Ranges().range("network", "layer"):
        raise RuntimeError("broken")
    assert recorder.events[2:] == [("pop", "layer"), ("pop", "network")]


def test_a_name_is_registered_once_in_the_domain(recorder: type[Annotation]) -> None:
    ranges = Ranges()
    for layer in ("conv1", "conv2", "conv1"):
        with ranges.range("network", layer):
            pass
    assert recorder.made == [("network", DOMAIN), ("conv1", DOMAIN), ("conv2", DOMAIN)]
    assert DOMAIN == "kernelprof"
    assert len(recorder.events) == 12


def test_nothing_happens_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "nvtx", None)  # makes its import fail
    ran = []
    with Ranges().range("network", "layer"):
        ran.append(True)
    assert ran == [True]


def test_the_real_package_takes_the_ranges() -> None:
    ranges = Ranges()
    with ranges.range("network", "layer"), ranges.range("network"):
        pass
