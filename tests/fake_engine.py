"""An engine of known truth: right results, planned durations, and faults on demand.

An adapter given by path, so it is loaded into the package of the probes and imports from there.
A kernel takes FAKE_KERNEL_NS + flop / FAKE_FLOP_PER_NS; a network the sum of its kernels and
FAKE_CALL_NS + FAKE_DISPATCH_NS for each of them, FAKE_COPY_NS before those of convolutions, and
FAKE_SLOW_NS for those of the layer FAKE_SLOW_LAYER; one that is no chain waits FAKE_FEED_NS for
its input.  Each call prints FAKE_PRINTS where oneDNN would print.  Its profiler takes
FAKE_PROFILER_NS for each operation, fails if FAKE_PROFILER is "none", and crashes if it is "crash".

FAKE_CRASH, FAKE_HANG, FAKE_UNSUPPORTED, FAKE_WRONG and FAKE_MEMORY name the kind of a primitive
whose kernels crash, hang, ...; for FAKE_MEMORY it may be "network".  FAKE_CRASH_TURN and
FAKE_HANG_TURN count the turns of training; FAKE_PARAMETERS is added to the parameter count;
FAKE_NOISE counts megabytes of banner; FAKE_BUILD_S are the seconds that building a network takes.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

from .data import Arrays, NetworkData
from .decompose import Kernel, kernels
from .device import CPU, require_cpu
from .engine import Call, Engine, Unsupported, WholeNetwork
from .network import Network
from .numpy_network import NumpyNetwork
from .on_numpy import NumpyEngine
from .primitive import UPDATE as UPDATE_PASS
from .spans import COPY, KERNEL, UPDATE, ProfiledCall, Span

SCOPES_OF_BUILDING = 2  # a subject is built in one scope and warmed up in another


def start(device: str = CPU) -> Engine:
    """The engine in this process, on a device."""
    require_cpu(device, "fake")
    if os.environ.get("FAKE_ABSENT"):
        raise ImportError("No module named 'fake'")
    return FakeEngine()


def number(name: str, default: int = 0) -> int:
    """A number that a variable holds."""
    return int(os.environ.get(f"FAKE_{name}", default))


def kernel_ns(kernel: Kernel) -> int:
    """How long a kernel shall take."""
    return number("KERNEL_NS", 30_000) + kernel.flop // number("FLOP_PER_NS", 100)


def wait(duration_ns: int, result: Any = None) -> Any:
    """Keep the CPU busy for so long."""
    end = time.perf_counter_ns() + duration_ns
    while time.perf_counter_ns() < end:
        pass
    return result


def crash() -> None:
    """End as an engine ends that the kernel kills."""
    sys.stderr.write("a fake crash\n")
    sys.stderr.flush()
    os.kill(os.getpid(), signal.SIGKILL)


def hang() -> None:
    """Never come back."""
    time.sleep(3600)


def refuse() -> None:
    """Say that there is no such kernel."""
    raise Unsupported("fake has no such kernel")


def run_out() -> None:
    """Find no memory."""
    raise MemoryError("no room for it")


FAULTS = {"CRASH": crash, "HANG": hang, "UNSUPPORTED": refuse, "MEMORY": run_out}


def has_kind(kernel: Kernel, variable: str) -> bool:
    """Whether a variable names the kind of one of the kernel's primitives."""
    return os.environ.get(variable) in {primitive.kind for primitive in kernel.primitives}


class FakeEngine(Engine):
    """Computes each result once, with the reference kernels, and then only passes the time."""

    def __init__(self) -> None:
        self.reference = NumpyEngine()
        self.training_scopes = 0

    def facts(self) -> dict[str, Any]:
        return {"version": "1.0", "home": os.environ.get("HOME", "")}

    def threads(self) -> int | None:
        return self.reference.threads()

    def scope(self, training: bool) -> AbstractContextManager[object]:
        sys.stdout.write("x" * 1_000_000 * number("NOISE"))
        self.training_scopes += training
        for name, strike in (("CRASH_TURN", crash), ("HANG_TURN", hang)):
            turn = number(name)
            if training and turn and self.training_scopes == turn + SCOPES_OF_BUILDING:
                strike()
        return nullcontext()

    def kernel(self, kernel: Kernel, arrays: list[Arrays], training: bool) -> Call:
        for name, strike in FAULTS.items():
            if has_kind(kernel, f"FAKE_{name}"):
                strike()
        own = [{name: array.copy() for name, array in each.items()} for each in arrays]
        result = self.reference.kernel(kernel, own, training)()
        return partial(wait, kernel_ns(kernel), result)

    def fetch(self, kernel: Kernel, result: Any) -> Arrays:
        fetched = self.reference.fetch(kernel, result)
        if has_kind(kernel, "FAKE_WRONG"):
            return {name: array + 1 for name, array in fetched.items()}
        return fetched

    def network(self, network: Network, mode: str, data: NetworkData) -> WholeNetwork:
        return FakeNetwork(network, mode, data)


class FakeNetwork(WholeNetwork):
    """Takes as long as its kernels, and what calling them costs."""

    def __init__(self, network: Network, mode: str, data: NetworkData) -> None:
        if os.environ.get("FAKE_MEMORY") == "network":
            run_out()
        time.sleep(float(os.environ.get("FAKE_BUILD_S", "0")))
        self.kernels = kernels(network, data.batch, mode, FakeEngine.fusion)
        self.prints = os.environ.get("FAKE_PRINTS", "") if "ONEDNN_VERBOSE" in os.environ else ""
        self.feed_ns = 0 if network.name.startswith("chain-") else number("FEED_NS")
        self.reference = NumpyNetwork(network, mode, data)
        self.parameters = self.reference.parameters + number("PARAMETERS")
        self.ns = self.planned(0)[-1].end_ns

    def call(self) -> Any:
        if self.prints:
            sys.stdout.write(f"{self.prints}\n")
            sys.stdout.flush()
        return wait(self.ns)

    def profile(self, calls: int) -> list[ProfiledCall]:
        if os.environ.get("FAKE_PROFILER") == "none":
            raise Unsupported("fake's profiler is gone")
        if os.environ.get("FAKE_PROFILER") == "crash":
            crash()
        spans = self.planned(number("PROFILER_NS", 2_000))
        return [ProfiledCall(spans[-1].end_ns, spans[:-1]) for _ in range(calls)]

    def planned(self, profiler_ns: int) -> list[Span]:
        """What happens when, and at last the end of all."""
        spans: list[Span] = []
        now = number("CALL_NS", 100_000) + self.feed_ns
        for kernel in self.kernels:
            now += number("DISPATCH_NS", 5_000) + profiler_ns
            kind = kernel.primitives[0].kind
            slow_ns = number("SLOW_NS") if os.environ.get("FAKE_SLOW_LAYER") == kernel.layer else 0
            what = UPDATE if kernel.passes == (UPDATE_PASS,) else KERNEL
            parts = [(what, kernel_ns(kernel) + slow_ns)]
            if kind == "conv2d" and number("COPY_NS"):
                parts.insert(0, (COPY, number("COPY_NS")))
            for what, ns in parts:
                spans.append(Span(kind, kernel.layer, what, now, now + ns))
                now += ns
        return [*spans, Span("end", "", KERNEL, now, now)]

    def evaluate(self) -> Arrays:
        return self.reference.evaluate()

    def weights(self) -> Arrays:
        return self.reference.weights()
