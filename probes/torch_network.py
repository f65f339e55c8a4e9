"""Networks written in torch: operators one after another under autograd."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterable
from functools import partial
from typing import Any, Callable, NamedTuple

import torch

from .data import Arrays, NetworkData
from .engine import Unsupported, WholeNetwork
from .layers import Layer
from .network import TRAIN, Network
from .primitive import FORWARD, Primitive, Shape
from .spans import ProfiledCall, moving_layers
from .spans_torch import Recorded, profiled_calls
from .torch_layout import Layout
from .torch_operators import OPERATORS, Chain, Tensors, complete

# What works element by element, or channel by channel, takes images as they come.
ANY_SHAPE = ("activation", "add", "batch_norm", "copy", "dropout", "lrn", "pad_channels", "scale")


class Step(NamedTuple):
    """One layer of a network: what to call, on which values, and which values to drop after."""

    operator: Callable[[Tensors], Any]
    constants: Tensors
    inputs: tuple[tuple[str, str, Shape | None], ...]  # operand, layer, shape to view it in
    layer: str
    drops: tuple[str, ...]


def _forks(steps: Iterable[Step]) -> dict[str, str]:
    """The one before each layer that other layers read too, if there is one."""
    sources = [(step.layer, source) for step in steps for _, source, _ in step.inputs]
    readers = Counter(source for _, source in sources)
    return {layer: source for layer, source in sources if readers[source] > 1}


class TorchNetwork(WholeNetwork):
    """The functions of the kernels one after another; autograd and torch.optim.SGD do the rest."""

    def __init__(
        self,
        network: Network,
        mode: str,
        data: NetworkData,
        layout: Layout,
        device: Any,
        finish: Callable[[], object] | None = None,
    ) -> None:
        """Place everything on a device; ``finish`` waits for what it does, if it does not wait."""
        self.mode = mode
        self.data = data
        self.device = device
        self.finish = finish
        self.view = layout.view
        self.trained = {
            key: layout.place(self._tensor(array)).requires_grad_(mode == TRAIN)
            for key, array in data.parameters.items()
        }
        self.parameters = sum(tensor.numel() for tensor in self.trained.values())
        self.input = network.input.name, layout.place(self._tensor(data.input))
        self.steps: Iterable[Step] = self._steps(network, data.batch)
        self.moving = moving_layers(network, data.batch, mode)
        if mode == TRAIN:
            self.optimizer = torch.optim.SGD(
                list(self.trained.values()), lr=network.learning_rate, momentum=network.momentum
            )

    def _tensor(self, array: Any) -> Any:
        return torch.from_numpy(array).to(self.device)

    def _steps(self, network: Network, batch: int) -> list[Step]:
        active = [layer for layer in network.layers if network.primitives(layer, batch, self.mode)]
        alias = {network.input.name: network.input.name}
        steps: list[Step] = []
        for layer in network.layers[1:]:
            alias[layer.name] = layer.name if layer in active else alias[layer.inputs[0]]
        for place, layer in enumerate(active):
            later = {alias[name] for other in active[place + 1 :] for name in other.inputs}
            sources = [alias[name] for name in layer.inputs]
            primitives = network.primitives(layer, batch, self.mode)
            steps.append(self._step(layer, primitives, sources, tuple(set(sources) - later)))
        return steps

    def _step(
        self, layer: Layer, primitives: Chain, sources: list[str], drops: tuple[str, ...]
    ) -> Step:
        kinds = tuple(primitive.kind for primitive in primitives)
        if kinds not in OPERATORS:
            raise Unsupported(f"layer {layer.name}: no operator for {' + '.join(kinds)}")
        constants: Tensors = {}
        for member, primitive in enumerate(primitives):
            constants.update(self._constants(layer, member, primitive))
        complete(primitives, constants)
        first = primitives[0]
        inputs = tuple(
            (name, source, None if first.kind in ANY_SHAPE else first.operand(name).shape)
            for name, source in zip(first.inputs, sources)
        )
        return Step(partial(OPERATORS[kinds], primitives), constants, inputs, layer.name, drops)

    def _constants(self, layer: Layer, member: int, primitive: Primitive) -> Tensors:
        """Parameters, labels and the zero state that a primitive reads beside its input."""
        tensors: Tensors = {}
        for name in primitive.reads[FORWARD]:
            if (layer.name, member, name) in self.trained:
                tensors[name] = self.trained[layer.name, member, name]
            elif (fixed := self.data.fixed(primitive, name)) is not None:
                tensors[name] = self._tensor(fixed)
        return tensors

    def call(self) -> Any:
        if self.mode != TRAIN:
            return self._forward()
        self._forward().backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        return None

    def _forward(self) -> Any:
        values, view = dict([self.input]), self.view
        for operator, constants, inputs, layer, drops in self.steps:
            tensors = dict(constants)
            for name, source, shape in inputs:
                value = values[source]
                tensors[name] = value if shape is None else view(value, shape)
            values[layer] = operator(tensors)
            for source in drops:
                del values[source]
        return values[layer]

    def evaluate(self) -> Arrays:
        if self.mode != TRAIN:
            with torch.inference_mode():
                return {"output": self._forward().cpu().numpy()}
        loss = self._forward()
        loss.backward()
        gradients = {
            ".".join(map(str, key)): tensor.grad.cpu().numpy()
            for key, tensor in self.trained.items()
        }
        self.optimizer.zero_grad()
        return {"loss": loss.detach().cpu().numpy(), **gradients}

    def profile(self, calls: int) -> list[ProfiledCall]:
        twin = copy.copy(self)
        twin.steps = Recorded(self.steps)
        return profiled_calls(twin.call, calls, self.moving, _forks(self.steps), self.finish)

    def weights(self) -> Arrays:
        return {
            ".".join(map(str, key)): tensor.detach().cpu().numpy().copy()
            for key, tensor in self.trained.items()
        }
