"""Hold an engine against the float64 oracle: one kernel by itself, or a whole network."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Callable

import numpy as np

from .data import Arrays, NetworkData, primitive_arrays
from .decompose import Kernel
from .engine import Engine, WholeNetwork
from .network import TRAIN, Network
from .numpy_network import NumpyNetwork
from .oracle import Check, relative_error
from .primitive import BACKWARD_DATA, BACKWARD_WEIGHTS

CHECKED_STEPS = 2  # momentum does not show in the first one: there is no velocity yet
# Of a weight's size, in a step: 40,000 times what float32 rounds off, so that parameters that move
# much less still stand out, and so little that the second step starts close to where the first
# one did, and no rounding is carried on into units that switch.
VISIBLE_MOVEMENT = 0.005
# Of the largest gradient of a layer: what is smaller even in float64 has cancelled out, as has that
# of an attention's key bias, which changes no softmax, or of a bias before a batch norm.  Engines
# have nothing but rounding there, which may be so large a share.
CANCELLED = 1e-9
ROUNDED = 0.01


def kernel_error(engine: Engine, kernel: Kernel, seed: int = 0) -> float:
    """The relative error of a kernel's results on fresh random data.

    Raises:
        Unsupported: the engine has no such kernel.
        WrongResultError: it is off by more than is accepted.
    """
    engine.require_dtypes(kernel)
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

    A gradient that has cancelled out is held against those of its layer.

    Raises:
        Unsupported: the engine cannot build the network.
    """
    data = NetworkData(network, batch, seed)
    got = engine.network(network, mode, data).evaluate()
    want = NumpyNetwork(network, mode, data, "float64").evaluate()
    least = {name: _least(name, want) for name in want}
    return {
        name: relative_error(got[name], right, least[name]) if name in got else float("inf")
        for name, right in want.items()
    }


def _least(name: str, results: Arrays) -> float:
    """What the error of a result is held against at least: 0, unless it has cancelled out."""
    largest = _largest_of_layer(name, results)
    return ROUNDED * largest if np.max(np.abs(results[name])) < CANCELLED * largest else 0.0


def _largest_of_layer(name: str, results: Arrays) -> float:
    """The largest element of all results of the layer that a result belongs to."""
    layer = name.partition(".")[0]
    return max(
        float(np.max(np.abs(array)))
        for other, array in results.items()
        if other.partition(".")[0] == layer
    )


def update_errors(engine: Engine, network: Network, batch: int, seed: int = 0) -> dict[str, float]:
    """How far training steps move each parameter, held against the oracle's steps.

    Two steps, so that momentum shows.  An error is the norm of the deviation, beyond what float32
    rounds off the weights themselves, relative to the norm of the movement: the largest deviation
    would tell of the one unit among a million whose ReLU rounding switched.

    Raises:
        Unsupported: the engine cannot build the network.
    """
    rate = _visible_learning_rate(network, batch, seed)
    network = replace(network, learning_rate=rate)
    data = NetworkData(network, batch, seed)
    before = {".".join(map(str, key)): array.copy() for key, array in data.parameters.items()}
    want = _moved(NumpyNetwork(network, TRAIN, data, "float64"), before)
    got = _moved(engine.network(network, TRAIN, data), before, engine.finish)
    return {
        name: _beyond_rounding(got[name] - want[name], array) / (_norm(want[name]) or 1.0)
        for name, array in before.items()
    }


def _beyond_rounding(deviation: Any, weights: Any) -> float:
    """The norm of what a deviation has beyond the float32 rounding of the weights."""
    rounding = CHECKED_STEPS * np.finfo(np.float32).eps * np.abs(weights)
    return _norm(np.maximum(np.abs(deviation) - rounding, 0.0))


def _norm(array: Any) -> float:
    return float(np.linalg.norm(array.ravel()))


def _visible_learning_rate(network: Network, batch: int, seed: int) -> float:
    """At which the parameter that moves most moves by a part of its own size."""
    data = NetworkData(network, batch, seed)
    gradients = NumpyNetwork(network, TRAIN, data, "float64").evaluate()
    sizes = [
        np.max(np.abs(array)) / np.max(np.abs(gradients[".".join(map(str, key))]))
        for key, array in data.parameters.items()
    ]
    return float(VISIBLE_MOVEMENT * min(sizes))


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
