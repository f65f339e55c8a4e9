"""Hold an engine against the float64 oracle: one kernel by itself, or a whole network."""

from __future__ import annotations

import numpy as np

from .data import NetworkData, primitive_arrays
from .decompose import Kernel
from .engine import Engine
from .network import Network
from .numpy_network import NumpyNetwork
from .oracle import Check, relative_error
from .primitive import BACKWARD_DATA, BACKWARD_WEIGHTS


def kernel_error(engine: Engine, kernel: Kernel, seed: int = 0) -> float:
    """The relative error of a kernel's results on fresh random data.

    Raises:
        Unsupported: the engine has no such kernel.
        WrongResultError: it is off by more than is accepted.
    """
    random = np.random.default_rng(seed)
    arrays = [primitive_arrays(primitive, random) for primitive in kernel.primitives]
    training = bool({BACKWARD_DATA, BACKWARD_WEIGHTS} & set(kernel.passes))
    with engine.scope(training):
        call = engine.kernel(kernel, arrays, training)
        check = Check(kernel, arrays)
        return check.verify(engine.fetch(kernel, call()))


def network_errors(
    engine: Engine, network: Network, batch: int, mode: str, seed: int = 0
) -> dict[str, float]:
    """The relative error of each result of a whole network: its output, or loss and gradients.

    Raises:
        Unsupported: the engine cannot build the network.
    """
    data = NetworkData(network, batch, seed)
    got = engine.network(network, mode, data).evaluate()
    want = NumpyNetwork(network, mode, data, "float64").evaluate()
    return {
        name: relative_error(got[name], right) if name in got else float("inf")
        for name, right in want.items()
    }
