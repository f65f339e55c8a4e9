"""Hold an engine against the float64 oracle: one kernel by itself, or a whole network."""

from __future__ import annotations

from dataclasses import replace
from typing import Callable

import numpy as np

from .data import Arrays, NetworkData, primitive_arrays
from .decompose import Kernel
from .engine import Engine, WholeNetwork
from .network import TRAIN, Network
from .numpy_network import NumpyNetwork
from .oracle import Check, relative_error
from .primitive import BACKWARD_DATA, BACKWARD_WEIGHTS

CHECKED_STEPS = 2
CHECKED_LEARNING_RATE = 0.1


def kernel_error(engine: Engine, kernel: Kernel, seed: int = 0) -> float:
    """The relative error of a kernel's results on fresh random data.

    Raises:
        Unsupported: the engine has no such kernel.
        WrongResultError: it is off by more than is accepted.
    """
    random = np.random.RandomState(seed)
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


def update_errors(engine: Engine, network: Network, batch: int, seed: int = 0) -> dict[str, float]:
    """How far training steps move each parameter, held against the oracle's steps.

    Two steps, so that momentum shows, at a learning rate at which they stand out from the
    rounding of the weights.  An error is relative to the largest movement that is wanted.

    Raises:
        Unsupported: the engine cannot build the network.
    """
    network = replace(network, learning_rate=CHECKED_LEARNING_RATE)
    data = NetworkData(network, batch, seed)
    before = {".".join(map(str, key)): array.copy() for key, array in data.parameters.items()}
    want = _moved(NumpyNetwork(network, TRAIN, data, "float64"), before)
    got = _moved(engine.network(network, TRAIN, data), before, engine.finish)
    return {name: relative_error(got[name], want[name]) for name in want}


def _moved(
    whole: WholeNetwork, before: Arrays, finish: Callable[[], object] | None = None
) -> Arrays:
    """What CHECKED_STEPS steps add to each parameter."""
    for _ in range(CHECKED_STEPS):
        whole.call()
    if finish is not None:
        finish()
    after = whole.weights()
    return {name: after[name].astype(np.float64) - array for name, array in before.items()}
