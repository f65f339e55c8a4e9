"""What tests share: real workers, and the rule that CI skips nothing."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from kernelprof.engines import ENGINES, GPU_ONLY, environment
from kernelprof.launch import Worker
from kernelprof.machine import usable_cpus
from tests.cupy_engine import cupy_device, on_cupy  # noqa: F401  fixtures of several files

ON_CPU = sorted(set(ENGINES) - set(GPU_ONLY))


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    """In CI a skipped test is a failed one: a silent gap must not pass for a check."""
    outcome = yield
    report = outcome.get_result()  # type: ignore[attr-defined]
    if report.skipped and os.environ.get("CI") == "true" and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"skipped in CI: {report.longrepr}"


def engine_worker(name: str, cpus: int = 1, variables: dict[str, str] | None = None) -> Worker:
    """A running worker of an engine; the test is skipped by name where it is not installed."""
    found = environment(name)
    if found is None:
        pytest.skip(f"engine {name} is not installed: `kernelprof engines install {name}`")
    usable = usable_cpus()
    if len(usable) < cpus:
        pytest.skip(f"{cpus} CPUs are needed, {len(usable)} can be used")
    return Worker(found, usable[:cpus], variables)


@pytest.fixture(scope="module", params=ON_CPU)
def worker(request: pytest.FixtureRequest) -> Iterator[Worker]:
    """A worker of each engine in turn, on one CPU."""
    running = engine_worker(request.param)
    yield running
    running.close()
