"""A whole network on the cupy engine's kernels: weights stay on the GPU, results are fetched."""

from __future__ import annotations

from typing import Any

from .data import NetworkData
from .engine import Unsupported
from .network import Network
from .numpy_network import NumpyNetwork
from .reference import Kernels
from .spans import ProfiledCall


class CupyNetwork(NumpyNetwork):
    """What NumPy's does, with other kernels and on other arrays."""

    def __init__(
        self, network: Network, mode: str, data: NetworkData, tools: Any, table: Kernels
    ) -> None:
        self.tools = tools
        super().__init__(network, mode, data, table=table)

    def placed(self, array: Any) -> Any:
        return self.tools.place(array)

    def fetched(self, array: Any) -> Any:
        return self.tools.fetch(array)

    def profile(self, calls: int) -> list[ProfiledCall]:
        raise Unsupported("CuPy has no profiler, and the CPU's clock sees no kernel on a GPU")
