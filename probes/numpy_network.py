"""A whole network on the NumPy reference kernels, in any floating-point type.

In float32 it is the numpy engine's network; in float64 the oracle of every other engine's.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Iterable, Iterator
from typing import Any, Callable

import numpy as np

from .data import Arrays, NetworkData, Parameters
from .engine import Call, WholeNetwork
from .layers import Layer
from .memory_bound import Add, SgdUpdate
from .network import TRAIN, Network
from .primitive import BACKWARD_DATA, BACKWARD_WEIGHTS, FORWARD, UPDATE, Primitive
from .reference import run
from .spans import DISPATCH, KERNEL, ProfiledCall, Span
from .spans import UPDATE as UPDATING


class NumpyNetwork(WholeNetwork):
    """Layers in order, then backwards; values flow through dictionaries, one per primitive."""

    def __init__(self, network: Network, mode: str, data: NetworkData, dtype: str = "float32"):
        self.run: Callable[[str, Primitive, str, Arrays], Arrays] = _run
        self.network = network
        self.forwards: Iterable[Layer] = network.layers[1:]
        self.backwards: Iterable[Layer] = tuple(reversed(network.layers[1:]))
        self.mode = mode
        self.dtype = dtype
        self.data = _cast(data.input, dtype)
        self.trained: Parameters = {k: _cast(v, dtype) for k, v in data.parameters.items()}
        self.velocity = {
            key: np.zeros(array.size if network.momentum else 0, dtype)
            for key, array in self.trained.items()
        }
        self.primitives = {
            layer.name: network.primitives(layer, data.batch, mode) for layer in network.layers
        }
        self.fixed = {
            (primitive, name): _cast(array, dtype)
            for primitives in self.primitives.values()
            for primitive in primitives
            for name in primitive.reads[FORWARD]
            for array in [data.fixed(primitive, name)]
            if array is not None
        }
        self.parameters = sum(array.size for array in self.trained.values())
        self.needing_gradients = {
            layer.name for layer in network.layers if network.needs_gradient(layer)
        }

    def call(self) -> Any:
        if self.mode != TRAIN:
            return self._forward()[0]
        gradients = self._gradients()[1]
        for key, gradient in gradients.items():
            self._update(key, gradient)
        return None

    def evaluate(self) -> Arrays:
        if self.mode != TRAIN:
            return {"output": self._forward()[0]}
        loss, gradients = self._gradients()
        return {"loss": loss, **{".".join(map(str, key)): g for key, g in gradients.items()}}

    def profile(self, calls: int) -> list[ProfiledCall]:
        stopwatch, twin = Stopwatch(), copy.copy(self)
        twin.run = stopwatch.run
        twin.forwards = Laps(stopwatch, self.forwards)
        twin.backwards = Laps(stopwatch, self.backwards)
        return [stopwatch.call(twin.call) for _ in range(calls)]

    def weights(self) -> Arrays:
        return {".".join(map(str, key)): array.copy() for key, array in self.trained.items()}

    def _forward(self) -> tuple[Any, dict[str, list[Arrays]]]:
        """The output of the last layer, and all values for the way back."""
        outputs: Arrays = {self.network.input.name: self.data}
        states: dict[str, list[Arrays]] = {}
        for layer in self.forwards:
            states[layer.name], outputs[layer.name] = self._run_layer(layer, outputs)
            self._drop_unread(layer, outputs)
        return outputs[self.network.layers[-1].name], states

    def _run_layer(self, layer: Layer, outputs: Arrays) -> tuple[list[Arrays], Any]:
        values = [outputs[name] for name in layer.inputs]
        states = []
        for member, primitive in enumerate(self.primitives[layer.name]):
            state = self._operands(layer, member, primitive)
            for name, value in zip(primitive.inputs, values):
                state[name] = value.reshape(primitive.operand(name).shape)
            state.update(self.run(layer.name, primitive, FORWARD, state))
            values = [state[primitive.output]]
            states.append(state if self.mode == TRAIN else {})
        return states, values[0]

    def _operands(self, layer: Layer, member: int, primitive: Primitive) -> Arrays:
        """Parameters, labels and the zero state that a primitive reads beside its input."""
        state: Arrays = {}
        for name in primitive.reads[FORWARD]:
            if (layer.name, member, name) in self.trained:
                state[name] = self.trained[layer.name, member, name]
            elif (primitive, name) in self.fixed:
                state[name] = self.fixed[primitive, name]
        return state

    def _drop_unread(self, layer: Layer, outputs: Arrays) -> None:
        """Forget outputs that no later layer reads, as an engine does."""
        rest = self.network.layers[self.network.layers.index(layer) + 1 :]
        read = {name for later in rest for name in later.inputs}
        for name in layer.inputs:
            if name not in read:
                outputs.pop(name, None)

    def _gradients(self) -> tuple[Any, Parameters]:
        loss, states = self._forward()
        gradients: Parameters = {}
        arriving: Arrays = {}
        for layer in self.backwards:
            gradient = arriving.pop(layer.name, None)
            for member in reversed(range(len(self.primitives[layer.name]))):
                primitive = self.primitives[layer.name][member]
                state = states[layer.name][member]
                gradient = self._backward(layer, primitive, state, gradient)
                for name in primitive.parameters:
                    gradients[layer.name, member, name] = state[f"d{name}"]
            if gradient is not None:
                self._hand_on(layer, states[layer.name][0], gradient, arriving)
            states.pop(layer.name)
        return loss, gradients

    def _backward(self, layer: Layer, primitive: Primitive, state: Arrays, gradient: Any) -> Any:
        """Run the backward passes that training asks for; the gradient of the input, if any."""
        if gradient is not None:
            shape = primitive.operand(primitive.output).shape
            state[f"d{primitive.output}"] = gradient.reshape(shape)
        passes = self.network.passes(layer, primitive, TRAIN)
        for pass_ in (BACKWARD_DATA, BACKWARD_WEIGHTS):
            if pass_ in passes:
                state.update(self.run(layer.name, primitive, pass_, state))
        if BACKWARD_DATA in primitive.passes:
            return state.get(f"d{primitive.input}")
        return gradient

    def _hand_on(self, layer: Layer, state: Arrays, gradient: Any, arriving: Arrays) -> None:
        """To each input its own gradient; a join hands the same to both."""
        first = self.primitives[layer.name][0]
        for operand, name in zip(first.inputs, layer.inputs):
            own = state.get(f"d{operand}", gradient)
            if name in arriving:
                both = {"x": arriving[name].reshape(-1), "other": own.reshape(-1)}
                arriving[name] = self.run(name, Add(own.size), FORWARD, both)["y"]
            elif name in self.needing_gradients:
                arriving[name] = own

    def _update(self, key: tuple[str, int, str], gradient: Any) -> None:
        update = SgdUpdate(gradient.size, self.network.momentum, self.network.learning_rate)
        weights = self.trained[key].reshape(-1)
        state = {"w": weights, "dw": gradient.reshape(-1), "v": self.velocity[key]}
        self.run(key[0], update, UPDATE, state)


class Stopwatch:
    """Times the steps of a network, for NumPy has no profiler."""

    def __init__(self) -> None:
        self.began_ns = 0
        self.spans: list[Span] = []

    def call(self, call: Call) -> ProfiledCall:
        """Call a network that runs its passes here."""
        self.spans = []
        self.began_ns = time.perf_counter_ns()
        call()
        return ProfiledCall(time.perf_counter_ns() - self.began_ns, self.spans)

    def run(self, layer: str, primitive: Primitive, pass_: str, state: Arrays) -> Arrays:
        """One pass of a layer's primitive."""
        started = time.perf_counter_ns()
        results = _run(layer, primitive, pass_, state)
        what = UPDATING if pass_ == UPDATE else KERNEL
        self.stop(f"{primitive.kind} {pass_}", layer, what, started)
        return results

    def stop(self, name: str, layer: str, what: str, started: int) -> None:
        """End a span that was started at that reading of the clock."""
        ended = time.perf_counter_ns()
        began = self.began_ns
        self.spans.append(Span(name, layer, what, started - began, ended - began))


class Laps:
    """Layers, timed while their turn lasts: what their passes leave of it calls those."""

    def __init__(self, stopwatch: Stopwatch, layers: Iterable[Layer]) -> None:
        self.stopwatch = stopwatch
        self.layers = layers

    def __iter__(self) -> Iterator[Layer]:
        for layer in self.layers:
            started = time.perf_counter_ns()
            yield layer
            self.stopwatch.stop("layer", layer.name, DISPATCH, started)


def _run(layer: str, primitive: Primitive, pass_: str, state: Arrays) -> Arrays:
    return run(primitive, pass_, state)


def _cast(array: Any, dtype: str) -> Any:
    return array.astype(dtype, copy=False) if array.dtype.kind == "f" else array
