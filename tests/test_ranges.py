"""NVTX ranges nest in the order of their names, through the package or NVIDIA's own library."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from types import ModuleType

import pytest

from kernelprof.probes import ranges as ranges_module
from kernelprof.probes.ranges import CLOCK_DOMAIN, DOMAIN, READINGS, REPEATS, Ranges, cost_ns

Event = tuple[str | int, ...]


class Recorder(ModuleType):
    """Stands in for the nvtx package: writes down what it is told."""

    def __init__(self) -> None:
        super().__init__("nvtx")
        self.events: list[Event] = []

    def push_range(self, message: str, domain: str, payload: int | None = None) -> None:
        told = () if payload is None else (payload,)
        self.events.append(("push", domain, message, *told))

    def pop_range(self, domain: str) -> None:
        self.events.append(("pop", domain))

    def get_domain(self, name: str) -> object:
        return object()


class DummyDomain:
    """What newer packages give where no tool wants a domain."""


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> Recorder:
    """The stand-in as the nvtx package of this process."""
    module = Recorder()
    monkeypatch.setitem(sys.modules, "nvtx", module)
    return module


def test_first_name_is_outermost(recorder: Recorder) -> None:
    with Ranges().range("network", "layer", "primitive"):
        recorder.events.append(("run",))
    assert recorder.events == [
        ("push", DOMAIN, "network"),
        ("push", DOMAIN, "layer"),
        ("push", DOMAIN, "primitive"),
        ("run",),
        ("pop", DOMAIN),
        ("pop", DOMAIN),
        ("pop", DOMAIN),
    ]
    assert DOMAIN == "kernelprof"


def test_the_clock_is_told_by_the_payload_of_a_range(recorder: Recorder) -> None:
    readings = iter(range(963139876590, 963139876599))
    Ranges().tell_clock(lambda: next(readings))
    pushed = [event for event in recorder.events if event[0] == "push"]
    assert pushed == [
        ("push", CLOCK_DOMAIN, "clock", 963139876590 + each) for each in range(READINGS)
    ]
    assert len(recorder.events) == 2 * len(pushed)


def test_ranges_close_when_the_body_fails(recorder: Recorder) -> None:
    with pytest.raises(RuntimeError, match="broken"), Ranges().range("network", "layer"):
        raise RuntimeError("broken")
    assert recorder.events[2:] == [("pop", DOMAIN), ("pop", DOMAIN)]


def test_nothing_happens_without_package_and_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "nvtx", None)  # makes its import fail
    monkeypatch.setattr("kernelprof.probes.nvtx_library.FILE", "/nonexistent/libnvtx.so")
    ran = []
    ranges = Ranges()
    with ranges.range("network", "layer"):
        ran.append(True)
    assert ran == [True]
    assert ranges.facts()["nvtx"] == ranges.facts()["nvtx_tool"] == "none"


def test_they_can_be_turned_off(recorder: Recorder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NVTX_DISABLE", "1")
    ranges = Ranges()
    with ranges.range("network"):
        pass
    assert recorder.events == []
    assert ranges.facts()["nvtx"] == "none"


def test_the_real_package_takes_the_ranges() -> None:
    ranges = Ranges()
    with ranges.range("network", "layer"), ranges.range("network"):
        pass
    assert ranges.emitter == "package 0.2.11"


@pytest.mark.parametrize(
    ("domain", "loaded", "tool"),
    [
        (object(), True, "libtool.so"),
        (object(), False, "none"),
        (DummyDomain(), True, "none"),  # of a package that asks the tool
        (None, True, "none"),  # of the library
    ],
)
def test_the_tool_is_the_one_that_takes_them(
    domain: object,
    loaded: bool,
    tool: str,
    recorder: Recorder,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = "/opt/tool/libtool.so"
    monkeypatch.setattr(recorder, "get_domain", lambda name: domain)
    monkeypatch.setattr(ranges_module, "loaded_libraries", lambda name: [path] if loaded else [])
    monkeypatch.setenv("NVTX_INJECTION64_PATH", path)
    assert Ranges().tool == tool
    monkeypatch.delenv("NVTX_INJECTION64_PATH")
    assert Ranges().tool == "none"


def readings(costs: list[int]) -> Iterator[int]:
    """A clock that is read before and after each cost, and stands still between two."""
    now = 0
    for cost in costs:
        yield now
        now += cost
        yield now


def test_the_cost_is_the_median(recorder: Recorder) -> None:
    clock = readings([90_000, *range(100, 100 + REPEATS - 1)])
    assert cost_ns(Ranges("elsewhere"), lambda: next(clock)) == 105
    assert next(clock, None) is None
    assert recorder.events == REPEATS * [
        ("push", "elsewhere", "network"),
        ("push", "elsewhere", "layer"),
        ("push", "elsewhere", "primitive"),
        *3 * [("pop", "elsewhere")],
    ]


def test_finding_the_cost_leaves_no_trace_in_the_domain(recorder: Recorder) -> None:
    ranges = Ranges()
    first = ranges.facts()["nvtx_ranges_ns"]
    assert first > 0
    assert ranges.facts()["nvtx_ranges_ns"] == first
    assert recorder.events
    assert not [event for event in recorder.events if event[1] == DOMAIN]
