"""A whole network on the reference kernels, in any floating-point type.

On NumPy's in float32 it is the numpy engine's network; in float64 the oracle of every other
engine's.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Iterable, Iterator
from functools import lru_cache, partial
from typing import Any, Callable

import numpy as np

from .data import Arrays, NetworkData, Parameters
from .engine import Call, WholeNetwork
from .layers import Layer
from .memory_bound import Add, SgdUpdate
from .network import TRAIN, Network
from .primitive import BACKWARD_DATA, BACKWARD_WEIGHTS, FORWARD, UPDATE, Primitive
from .reference import KERNELS, Kernels, run
from .spans import DISPATCH, KERNEL, ProfiledCall, Span
from .spans import UPDATE as UPDATING

Step = Callable[[str, Primitive, str, Arrays], Arrays]  # a layer's primitive in one pass


class NumpyNetwork(WholeNetwork):
    """Layers in order, then backwards; values flow through dictionaries, one per primitive."""

    def __init__(
        self,
        network: Network,
        mode: str,
        data: NetworkData,
        dtype: str = "float32",
        table: Kernels = KERNELS,
    ) -> None:
        """A network on the kernels of a table; what is constant is worked out once."""
        self.run: Step = partial(_run, table)
        self.network = network
        self.forwards: Iterable[Layer] = network.layers[1:]
        self.backwards: Iterable[Layer] = tuple(reversed(network.layers[1:]))
        self.mode = mode
        self.dtype = dtype
        self.data = self.placed(_cast(data.input, dtype))
        self.trained: Parameters = {
            key: self.placed(_cast(array, dtype)) for key, array in data.parameters.items()
        }
        self.updates = {
            key: SgdUpdate(int(array.size), network.momentum, network.learning_rate)
            for key, array in self.trained.items()
        }
        self.velocity = {
            key: self.placed(np.zeros(update.operand("v").shape, dtype))
            for key, update in self.updates.items()
        }
        self.primitives = {
            layer.name: network.primitives(layer, data.batch, mode) for layer in network.layers
        }
        self.passes = {
            (layer.name, member): network.passes(layer, primitive, TRAIN)
            for layer in network.layers
            for member, primitive in enumerate(self.primitives[layer.name])
        }
        self.fixed = {
            (primitive, name): self.placed(_cast(array, dtype))
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
        self.read_last = _read_last(network)

    def placed(self, array: Any) -> Any:
        """An array where the kernels find it."""
        return array

    def fetched(self, array: Any) -> Any:
        """An array of the kernels as NumPy has it."""
        return array

    def call(self) -> Any:
        if self.mode != TRAIN:
            return self._forward()[0]
        gradients = self._gradients()[1]
        for key, gradient in gradients.items():
            self._update(key, gradient)
        return None

    def evaluate(self) -> Arrays:
        if self.mode != TRAIN:
            return {"output": self.fetched(self._forward()[0])}
        loss, gradients = self._gradients()
        return {"loss": self.fetched(loss), **self._named(gradients)}

    def profile(self, calls: int) -> list[ProfiledCall]:
        stopwatch, twin = Stopwatch(self.run), copy.copy(self)
        twin.run = stopwatch.run
        twin.forwards = Laps(stopwatch, self.forwards)
        twin.backwards = Laps(stopwatch, self.backwards)
        return [stopwatch.call(twin.call) for _ in range(calls)]

    def weights(self) -> Arrays:
        return self._named({key: array.copy() for key, array in self.trained.items()})

    def _named(self, arrays: Parameters) -> Arrays:
        return {".".join(map(str, key)): self.fetched(array) for key, array in arrays.items()}

    def _forward(self) -> tuple[Any, dict[str, list[Arrays]]]:
        """The output of the last layer, and all values for the way back."""
        outputs: Arrays = {self.network.input.name: self.data}
        states: dict[str, list[Arrays]] = {}
        for layer in self.forwards:
            states[layer.name], outputs[layer.name] = self._run_layer(layer, outputs)
            for name in self.read_last[layer.name]:
                outputs.pop(name, None)
        return outputs[self.network.layers[-1].name], states

    def _run_layer(self, layer: Layer, outputs: Arrays) -> tuple[list[Arrays], Any]:
        values = [outputs[name] for name in layer.inputs]
        states = []
        for member, primitive in enumerate(self.primitives[layer.name]):
            state = self._operands(layer, member, primitive)
            state.update(zip(primitive.inputs, values))
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

    def _gradients(self) -> tuple[Any, Parameters]:
        loss, states = self._forward()
        gradients: Parameters = {}
        arriving: Arrays = {}
        for layer in self.backwards:
            gradient = arriving.pop(layer.name, None)
            for member in reversed(range(len(self.primitives[layer.name]))):
                primitive = self.primitives[layer.name][member]
                state = states[layer.name][member]
                if gradient is not None:
                    state[f"d{primitive.output}"] = gradient
                for pass_ in (BACKWARD_DATA, BACKWARD_WEIGHTS):
                    if pass_ in self.passes[layer.name, member]:
                        state.update(self.run(layer.name, primitive, pass_, state))
                if BACKWARD_DATA in primitive.passes:
                    gradient = state.get(f"d{primitive.input}")
                for name in primitive.parameters:
                    gradients[layer.name, member, name] = state[f"d{name}"]
            if gradient is not None:
                self._hand_on(layer, states[layer.name][0], gradient, arriving)
            states.pop(layer.name)
        return loss, gradients

    def _hand_on(self, layer: Layer, state: Arrays, gradient: Any, arriving: Arrays) -> None:
        """To each input its own gradient; a join hands the same to both."""
        first = self.primitives[layer.name][0]
        for operand, name in zip(first.inputs, layer.inputs):
            own = state.get(f"d{operand}", gradient)
            if name in arriving:
                both = {"x": arriving[name].reshape(-1), "other": own.reshape(-1)}
                arriving[name] = self.run(name, _sum(int(own.size)), FORWARD, both)["y"]
            elif name in self.needing_gradients:
                arriving[name] = own

    def _update(self, key: tuple[str, int, str], gradient: Any) -> None:
        weights = self.trained[key].reshape(-1)
        state = {"w": weights, "dw": gradient.reshape(-1), "v": self.velocity[key]}
        self.run(key[0], self.updates[key], UPDATE, state)


def _run(table: Kernels, layer: str, primitive: Primitive, pass_: str, state: Arrays) -> Arrays:
    return run(primitive, pass_, state, table)


@lru_cache(maxsize=1024)
def _sum(elements: int) -> Add:
    return Add(elements)


def _read_last(network: Network) -> dict[str, list[str]]:
    """For each layer the outputs that it reads and no later one does: an engine forgets them."""
    found: dict[str, list[str]] = {}
    read: set[str] = set()
    for layer in reversed(network.layers):
        found[layer.name] = [name for name in layer.inputs if name not in read]
        read.update(layer.inputs)
    return found


class Stopwatch:
    """Times the steps of a network, for NumPy has no profiler."""

    def __init__(self, step: Step) -> None:
        self.step = step
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
        results = self.step(layer, primitive, pass_, state)
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


def _cast(array: Any, dtype: str) -> Any:
    return array.astype(dtype, copy=False) if array.dtype.kind == "f" else array
