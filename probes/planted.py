"""An adapter that plants a fault in another engine: for studies of what a diagnosis finds.

``PLANTED_ENGINE`` names the engine.  ``PLANTED_SLEEP_NS`` and ``PLANTED_LOOP_NS`` pass before each
call of a network, asleep or in a loop of Python, as if its input came late; ``PLANTED_SCALE`` is
what the numbers that it is fed are multiplied with.  The chains of a calibration stay healthy.
"""

from __future__ import annotations

import os
import time
from typing import Any

from .data import Arrays, NetworkData
from .device import CPU
from .engine import Engine, WholeNetwork
from .engine import start as start_engine
from .network import Network
from .spans import ProfiledCall

CHAIN = "chain-"  # what the names of chains begin with


def start(device: str = CPU) -> Engine:
    """The engine in this process, whose networks are fed late, or with other numbers."""
    engine = start_engine(os.environ["PLANTED_ENGINE"], device)
    build = engine.network

    def network(network: Network, mode: str, data: NetworkData) -> WholeNetwork:
        if network.name.startswith(CHAIN):
            return build(network, mode, data)
        data.input *= data.input.dtype.type(os.environ.get("PLANTED_SCALE", "1"))
        return PlantedNetwork(build(network, mode, data))

    engine.network = network  # type: ignore[method-assign]  # of this one engine, on purpose
    return engine


class PlantedNetwork(WholeNetwork):
    """Another network, whose input comes late."""

    def __init__(self, planted_in: WholeNetwork) -> None:
        self.planted_in = planted_in
        self.parameters = planted_in.parameters
        self.sleep_ns = int(os.environ.get("PLANTED_SLEEP_NS", "0"))
        self.loop_ns = int(os.environ.get("PLANTED_LOOP_NS", "0"))

    def call(self) -> Any:
        self._feed()
        return self.planted_in.call()

    def _feed(self) -> int:
        """Let the time pass, and tell how much did."""
        began = time.perf_counter_ns()
        if self.sleep_ns:
            time.sleep(self.sleep_ns * 1e-9)
        while self.loop_ns and time.perf_counter_ns() - began < self.loop_ns:
            pass
        return time.perf_counter_ns() - began

    def profile(self, calls: int) -> list[ProfiledCall]:
        return [self._later(self._feed()) for _ in range(calls)]

    def _later(self, fed_ns: int) -> ProfiledCall:
        """A call that began with the feeding."""
        (call,) = self.planted_in.profile(1)
        spans = [
            span._replace(start_ns=span.start_ns + fed_ns, end_ns=span.end_ns + fed_ns)
            for span in call.spans
        ]
        return ProfiledCall(call.duration_ns + fed_ns, spans)

    def evaluate(self) -> Arrays:
        return self.planted_in.evaluate()

    def weights(self) -> Arrays:
        return self.planted_in.weights()
