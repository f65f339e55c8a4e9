"""An adapter that makes one layer of another engine slower: for studies of what a comparison finds.

``SLOWED_ENGINE`` names the engine, ``SLOWED_LAYER`` the layer, and ``SLOWED_SHARE`` by which share
of its own time each call of its kernels takes longer, in a loop.  A call of the whole network takes
longer by what its kernels of that layer do together.  The chains of a calibration stay healthy.
"""

from __future__ import annotations

import os
import time
from typing import Any

from .data import Arrays, NetworkData
from .decompose import Kernel
from .device import CPU
from .engine import Call, Engine, WholeNetwork
from .engine import start as start_engine
from .network import Network
from .planted import CHAIN
from .spans import ProfiledCall


def start(device: str = CPU) -> Engine:
    """The engine in this process, with a layer that is slower."""
    engine = start_engine(os.environ["SLOWED_ENGINE"], device)
    layer, share = os.environ["SLOWED_LAYER"], float(os.environ["SLOWED_SHARE"])
    build_kernel, build_network = engine.kernel, engine.network
    slowed: list[SlowedCall] = []  # of the network that is being built: kernels come first

    def kernel(kernel: Kernel, arrays: list[Arrays], training: bool) -> Call:
        call = build_kernel(kernel, arrays, training)
        if kernel.layer != layer:
            return call
        slowed.append(SlowedCall(call, share))
        return slowed[-1]

    def network(network: Network, mode: str, data: NetworkData) -> WholeNetwork:
        own = [*slowed]
        slowed.clear()
        if not network.name.startswith(CHAIN):
            return SlowedNetwork(build_network(network, mode, data), own)
        for call in own:
            call.share = 0.0
        return build_network(network, mode, data)

    engine.kernel = kernel  # type: ignore[method-assign]  # of this one engine, on purpose
    engine.network = network  # type: ignore[method-assign]  # likewise
    return engine


class SlowedCall:
    """A call that takes longer by a share of its own time.  It returns when its result is ready."""

    def __init__(self, call: Call, share: float) -> None:
        self.call = call
        self.share = share
        self.added_ns = 0  # to the last call

    def __call__(self) -> Any:
        began = time.perf_counter_ns()
        result = self.call()
        done = time.perf_counter_ns()
        self.added_ns = int(self.share * (done - began))
        _loop_until(done + self.added_ns)
        return result


class SlowedNetwork(WholeNetwork):
    """Another network, whose calls take longer by what its slowed kernels do."""

    def __init__(self, healthy: WholeNetwork, slowed: list[SlowedCall]) -> None:
        self.healthy = healthy
        self.slowed = slowed
        self.parameters = healthy.parameters

    def call(self) -> Any:
        result = self.healthy.call()
        _loop_until(time.perf_counter_ns() + sum(call.added_ns for call in self.slowed))
        return result

    def evaluate(self) -> Arrays:
        return self.healthy.evaluate()

    def weights(self) -> Arrays:
        return self.healthy.weights()

    def profile(self, calls: int) -> list[ProfiledCall]:
        return self.healthy.profile(calls)


def _loop_until(moment_ns: int) -> None:
    while time.perf_counter_ns() < moment_ns:
        pass
