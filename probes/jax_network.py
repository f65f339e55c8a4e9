"""A network in JAX: one program for an inference, one for a whole training step."""

from __future__ import annotations

from functools import partial
from typing import Any, Callable, NamedTuple

import jax
import numpy as np

from .channels_last import (
    flattening,
    turned,
    turned_back,
    turned_data,
    turned_shape,
    value_shape,
)
from .data import Arrays, NetworkData
from .engine import WholeNetwork
from .jax_operators import KEY, OPERATORS, Tensors, sgd
from .layers import Layer, is_image
from .network import TRAIN, Network
from .primitive import FORWARD, Primitive, Shape
from .scopes import scope_of
from .spans import ProfiledCall
from .spans_jax import UPDATING, profiled_calls

# What works element by element, or channel by channel, takes values as they come.
ANY_SHAPE = ("activation", "add", "batch_norm", "copy", "dropout", "lrn", "pad_channels", "scale")


class Parameter(NamedTuple):
    """What is trained: an operand of a primitive of a layer."""

    layer: str
    member: int
    primitive: Primitive
    operand: str

    @property
    def name(self) -> str:
        """As it is called in what a network evaluates to."""
        return f"{self.layer}.{self.member}.{self.operand}"


class Member(NamedTuple):
    """One primitive of a layer: the names of what it reads beside values, by operand."""

    primitive: Primitive
    operands: dict[str, str]
    inputs: tuple[tuple[str, Shape | None], ...]  # operands, and the shapes to view them in


class Step(NamedTuple):
    """One layer of a network: its primitives, and the layers that it reads."""

    layer: str
    scope: str  # of its operations' names
    members: tuple[Member, ...]
    sources: tuple[str, ...]
    shape: Shape  # of its output


class JaxNetwork(WholeNetwork):
    """The forward pass as a function of the weights; ``jax.value_and_grad`` and SGD do the rest.

    A training step takes over the memory of what it changes: weights, velocities, and the key of
    the random numbers where there are dropouts.
    """

    def __init__(
        self,
        network: Network,
        mode: str,
        data: NetworkData,
        take: Callable[[Any], Any],
        finish: Callable[[], object] | None = None,
    ) -> None:
        """Compile; ``take`` is done with what comes of a call, and ``finish`` waits for a GPU."""
        self.take = take
        self.finish = finish
        self.definition = network
        self.mode = mode
        self.data = data
        self.input = on_device(turned_data(data.input))
        self.trained: dict[str, Parameter] = {}
        self.fixed: Tensors = {}
        self.steps = self._steps()
        weights = {name: self._placed(parameter) for name, parameter in self.trained.items()}
        self.parameters = sum(array.size for array in weights.values())
        velocities = {
            name: jax.numpy.zeros_like(array) if network.momentum else None
            for name, array in weights.items()
        }
        draws = any(member.primitive.kind == "dropout" for s in self.steps for member in s.members)
        self.state = weights, velocities, jax.random.key(0) if draws else None
        if mode == TRAIN:
            step = jax.jit(self._train, donate_argnums=0)
            self.program = step.lower(self.state, self.input, self.fixed).compile()
        else:
            forward = jax.jit(self._forward)
            self.program = forward.lower(weights, self.input, self.fixed).compile()

    def call(self) -> Any:
        if self.mode != TRAIN:
            return self.take(self.program(self.state[0], self.input, self.fixed))
        self.state, loss = self.program(self.state, self.input, self.fixed)
        return self.take(loss)  # all of a program's results are there at once

    def profile(self, calls: int) -> list[ProfiledCall]:
        about = self.program.as_text(), self.definition, self.mode
        return profiled_calls(self.call, calls, *about, self.finish)

    def evaluate(self) -> Arrays:
        weights, _, key = self.state
        if self.mode != TRAIN:
            output = np.array(self.call())
            shape = self.definition.shapes[self.steps[-1].layer]
            return {"output": np.moveaxis(output, 3, 1) if is_image(shape) else output}
        gradients_of = jax.jit(jax.value_and_grad(self._forward))
        loss, gradients = gradients_of(weights, self.input, self.fixed, key)
        return {"loss": np.array(loss), **self._named(gradients)}

    def weights(self) -> Arrays:
        return self._named(self.state[0])

    def _steps(self) -> list[Step]:
        network, batch = self.definition, self.data.batch
        active = [layer for layer in network.layers if network.primitives(layer, batch, self.mode)]
        alias = {network.input.name: network.input.name}
        for layer in network.layers[1:]:
            alias[layer.name] = layer.name if layer in active else alias[layer.inputs[0]]
        return [
            Step(
                layer.name,
                scope_of(network, layer.name),
                self._members(layer),
                tuple(alias[name] for name in layer.inputs),
                value_shape(network.shapes[layer.name], batch),
            )
            for layer in active
        ]

    def _members(self, layer: Layer) -> tuple[Member, ...]:
        members = []
        primitives = self.definition.primitives(layer, self.data.batch, self.mode)
        for place, primitive in enumerate(primitives):
            as_it_comes = place > 0 or primitive.kind in ANY_SHAPE
            inputs = tuple(
                (name, None if as_it_comes else turned_shape(primitive, name))
                for name in primitive.inputs
            )
            members.append(Member(primitive, self._operands(layer, place, primitive), inputs))
        return tuple(members)

    def _operands(self, layer: Layer, place: int, primitive: Primitive) -> dict[str, str]:
        """Parameters, labels and the zero state that a primitive reads beside its input."""
        names = {}
        for operand in primitive.reads[FORWARD]:
            parameter = Parameter(layer.name, place, primitive, operand)
            if (layer.name, place, operand) in self.data.parameters:
                self.trained[parameter.name] = parameter
            elif (array := self.data.fixed(primitive, operand)) is not None:
                self.fixed[parameter.name] = on_device(turned(primitive, operand, array))
            else:
                continue
            names[operand] = parameter.name
        return names

    def _placed(self, parameter: Parameter) -> Any:
        layer, member, primitive, operand = parameter
        array = turned(primitive, operand, self.data.parameters[layer, member, operand])
        return on_device(flattening(self.definition, layer, operand).turned(array))

    def _named(self, tensors: Tensors) -> Arrays:
        """Arrays of the parameters' shapes, as the definition has them."""
        found = {}
        for name, (layer, _, primitive, operand) in self.trained.items():
            rows = flattening(self.definition, layer, operand)
            array = rows.turned_back(np.array(tensors[name]))
            found[name] = turned_back(primitive, operand, array)
        return found

    def _forward(self, weights: Tensors, x: Any, fixed: Tensors, key: Any = None) -> Any:
        given = {**weights, **fixed}
        values = {self.definition.input.name: x}
        for place, (layer, scope, members, sources, shape) in enumerate(self.steps):
            with jax.named_scope(scope):
                taken = [values[source] for source in sources]
                for primitive, operands, inputs in members:
                    tensors = {operand: given[name] for operand, name in operands.items()}
                    for (operand, view), value in zip(inputs, taken):
                        tensors[operand] = value if view is None else value.reshape(view)
                    if primitive.kind == "dropout":
                        tensors[KEY] = jax.random.fold_in(key, place)
                    taken = [OPERATORS[primitive.kind](primitive, tensors)]
                values[layer] = taken[0].reshape(shape)
        return values[self.steps[-1].layer]

    def _train(self, state: Any, x: Any, fixed: Tensors) -> Any:
        weights, velocities, key = state
        if key is not None:
            key, own = jax.random.split(key)
        else:
            own = None
        loss, gradients = jax.value_and_grad(self._forward)(weights, x, fixed, own)
        step = partial(sgd, self.definition.momentum, self.definition.learning_rate)
        weights, velocities = dict(weights), dict(velocities)
        for name, (layer, *_) in self.trained.items():
            with jax.named_scope(scope_of(self.definition, layer)), jax.named_scope(UPDATING):
                changed = step(weights[name], gradients[name], velocities[name])
            weights[name], velocities[name] = changed
        return (weights, velocities, key), loss


def on_device(array: Any) -> Any:
    """The array in JAX's own memory: what it shares with others it could not take over."""
    if array.dtype == np.int64:
        array = array.astype(np.int32)  # JAX's integers
    return jax.device_put(array, may_alias=False)
