"""What engines without a stream of their own have: the CPU's clock, and the environment's words."""

from __future__ import annotations

import time

import pytest

from kernelprof.probes.device import HOST
from kernelprof.probes.engine import Unsupported
from kernelprof.probes.gpu_settings import allows_tf32, searches_algorithms
from kernelprof.probes.host_stream import HostStream


def test_marks_are_moments_of_the_cpu() -> None:
    stream = HostStream(lambda: None)
    before = time.perf_counter_ns()
    first, last = stream.mark(), stream.mark()
    after = time.perf_counter_ns()
    assert stream.clock == HOST
    assert 0 <= stream.elapsed_ns(first, last) <= after - before
    assert stream.elapsed_ns(3, 10) == 7


def test_finishing_is_the_engine_s_own() -> None:
    waited = []
    HostStream(lambda: waited.append(1)).finish()
    assert waited == [1]


def test_calls_cannot_be_recorded() -> None:
    with pytest.raises(Unsupported, match="shows no stream"):
        HostStream(lambda: None).graph(lambda: None, 1)


@pytest.mark.parametrize(
    ("value", "allowed"), [(None, False), ("", False), ("0", False), ("1", True)]
)
def test_tf32_is_off_unless_asked_for(
    monkeypatch: pytest.MonkeyPatch, value: str | None, allowed: bool
) -> None:
    monkeypatch.delenv("KERNELPROF_TF32", raising=False)
    if value is not None:
        monkeypatch.setenv("KERNELPROF_TF32", value)
    assert allows_tf32() == allowed


@pytest.mark.parametrize(("value", "searches"), [(None, True), ("", True), ("off", False)])
def test_algorithms_are_searched_unless_that_is_off(
    monkeypatch: pytest.MonkeyPatch, value: str | None, searches: bool
) -> None:
    monkeypatch.delenv("KERNELPROF_ALGORITHM_SEARCH", raising=False)
    if value is not None:
        monkeypatch.setenv("KERNELPROF_ALGORITHM_SEARCH", value)
    assert searches_algorithms() == searches


def test_another_word_is_refused_in_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KERNELPROF_TF32", "on")
    with pytest.raises(ValueError, match="KERNELPROF_TF32 is 'on'; a GPU's engine takes '1'"):
        allows_tf32()
