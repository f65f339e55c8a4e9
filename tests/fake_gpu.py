"""A GPU of known truth: calls queue up in a stream, and nothing but time passes in it.

Beside what ``fake_engine`` tells of its variables: to launch a kernel keeps the CPU busy for
FAKE_LAUNCH_NS; the GPU works for FAKE_KERNEL_NS + flop / FAKE_FLOP_PER_NS when it has done all
before.  A network's call costs the CPU FAKE_CALL_NS, and FAKE_DISPATCH_NS for each kernel beside
its launch.  Each call that is recorded plays back without the CPU; FAKE_UNRECORDED names the kind
of a primitive that cannot be.

FAKE_CLOCK=host hides the stream's marks.  FAKE_LOST names the kind of a primitive whose kernels
take the GPU's context down, and FAKE_FULL that of one for which the card has no room; it may be the
mode of a network.  FAKE_FULL_TURN counts the turns of training until the card is full.
FAKE_NO_DEVICE makes the GPU one that the engine refuses.
"""

from __future__ import annotations

import importlib.util
import os
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any

from .decompose import Kernel
from .device import EVENTS, HOST, NoDeviceError, Stream
from .engine import Call, Engine, Unsupported
from .spans import DEVICE_THREAD, DISPATCH, KERNEL, ProfiledCall, Span

SCOPES_OF_BUILDING = 3  # a subject is built in one, warmed up in another, recorded in a third
BESIDE = Path(__file__).with_name("fake_engine.py")
_spec = importlib.util.spec_from_file_location(f"{__package__}.fake_engine", BESIDE)
fake: Any = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(fake)


class OutOfMemoryError(RuntimeError):
    """As torch's."""


def start(device: str = "cuda:0") -> Engine:
    """The engine in this process, on its GPU."""
    if device == "cpu" or os.environ.get("FAKE_NO_DEVICE"):
        raise NoDeviceError(f"fake does not compute on {device}")
    return FakeGpuEngine()


class FakeStream(Stream):
    """Knows when the GPU will have done all that was launched."""

    clock = HOST if os.environ.get("FAKE_CLOCK") == HOST else EVENTS

    def __init__(self) -> None:
        self.done_ns = 0
        self.worked_ns = 0  # in all
        self.recording: list[int] | None = None

    def launch(self, duration_ns: int, result: Any = None) -> Any:
        """Hand a kernel over."""
        if self.recording is not None:
            self.recording.append(duration_ns)
            return result
        fake.wait(fake.number("LAUNCH_NS", 4_000))
        self.queue(duration_ns)
        return result

    def queue(self, duration_ns: int) -> None:
        """Work for the GPU, once it has done all before."""
        self.done_ns = max(self.done_ns, time.perf_counter_ns()) + duration_ns
        self.worked_ns += duration_ns

    def mark(self) -> int:
        now = time.perf_counter_ns()
        return now if self.clock == HOST else max(self.done_ns, now)

    def elapsed_ns(self, first: int, last: int) -> int:
        assert time.perf_counter_ns() >= last, "the GPU has not passed the mark yet"
        return last - first

    def finish(self) -> None:
        assert self.recording is None, "no waiting while a graph is recorded"
        fake.wait(self.done_ns - time.perf_counter_ns())

    def graph(self, call: Call, calls: int) -> Callable[[], object]:
        if self.clock == HOST:
            raise Unsupported("no stream is shown, so nothing is recorded in it")
        self.recording = []
        try:
            for _ in range(calls):
                call()
            durations = self.recording
        finally:
            self.recording = None
        return partial(self.play, sum(durations))

    def play(self, duration_ns: int) -> None:
        """Hand a recorded graph over."""
        fake.wait(fake.number("LAUNCH_NS", 4_000))
        self.queue(duration_ns)


class FakeGpuEngine(fake.FakeEngine):  # type: ignore[misc]
    """Computes each result once, and then only lets the time pass in its stream."""

    def __init__(self) -> None:
        super().__init__()
        self.stream = FakeStream()
        self.released = 0

    def facts(self) -> dict[str, Any]:
        device = {"name": "Fake", "visible": os.environ["CUDA_VISIBLE_DEVICES"]}
        return {**super().facts(), "device": device, "released": self.released}

    def threads(self) -> int | None:
        return 1

    def scope(self, training: bool) -> AbstractContextManager[object]:
        inner: AbstractContextManager[object] = super().scope(training)
        turn = fake.number("FULL_TURN")
        if training and turn and self.training_scopes == turn + SCOPES_OF_BUILDING:
            raise OutOfMemoryError("CUDA out of memory. Tried 2 GiB")
        return inner

    def release(self) -> None:
        self.released += 1

    def kernel(self, kernel: Kernel, arrays: Any, training: bool) -> Call:
        if fake.has_kind(kernel, "FAKE_LOST"):
            raise RuntimeError("CUDA error: an illegal memory access was encountered\nat fake")
        if fake.has_kind(kernel, "FAKE_FULL"):
            raise OutOfMemoryError("CUDA out of memory. Tried 2 GiB")
        result = super().kernel(kernel, arrays, training)()
        return partial(self.run, kernel, result)

    def run(self, kernel: Kernel, result: Any) -> Any:
        """One call of a kernel."""
        if self.stream.recording is not None and fake.has_kind(kernel, "FAKE_UNRECORDED"):
            raise Unsupported("no graph of this")
        return self.stream.launch(fake.kernel_ns(kernel), result)

    def profile(self, call: Call, calls: int) -> list[ProfiledCall]:
        return [self._profiled(call) for _ in range(calls)]

    def _profiled(self, call: Call) -> ProfiledCall:
        began_ns, worked_ns = time.perf_counter_ns(), self.stream.worked_ns
        call()
        self.stream.finish()
        done_ns = time.perf_counter_ns() - began_ns
        busy_ns = self.stream.worked_ns - worked_ns
        work = Span("kernel", "", KERNEL, done_ns - busy_ns, done_ns, DEVICE_THREAD)
        return ProfiledCall(done_ns, [Span("launch", "", DISPATCH, 0, done_ns), work])

    def network(self, network: Any, mode: str, data: Any) -> Any:
        if os.environ.get("FAKE_FULL") == mode:
            raise OutOfMemoryError("CUDA out of memory. Tried 2 GiB")
        return FakeGpuNetwork(self, network, mode, data)


class FakeGpuNetwork(fake.FakeNetwork):  # type: ignore[misc]
    """Launches its kernels one after another."""

    def __init__(self, engine: FakeGpuEngine, network: Any, mode: str, data: Any) -> None:
        super().__init__(network, mode, data)
        self.stream = engine.stream
        self.lasts_ns = [fake.kernel_ns(kernel) for kernel in self.kernels]

    def call(self) -> Any:
        fake.wait(fake.number("CALL_NS", 100_000))
        for duration_ns in self.lasts_ns:
            fake.wait(fake.number("DISPATCH_NS", 5_000))
            self.stream.launch(duration_ns)
