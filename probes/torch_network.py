"""Networks written in torch: its operators, and a network of them under autograd."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterable
from functools import partial
from typing import Any, Callable, NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812  the name that every torch user knows

from .attention import LayerNorm, Scale, Transpose
from .compute_bound import BatchedGemm, Conv2d, Gemm
from .data import Arrays, NetworkData
from .engine import Unsupported, WholeNetwork
from .layers import Layer
from .memory_bound import (
    Activation,
    BatchNorm,
    Dropout,
    LocalResponseNorm,
    PadChannels,
    Pool2d,
)
from .network import TRAIN, Network
from .primitive import FORWARD, Primitive, Shape
from .spans import ProfiledCall, moving_layers
from .spans_torch import Recorded, profiled_calls
from .torch_layout import Layout

Tensors = dict[str, Any]  # operand name -> torch.Tensor
Chain = tuple[Primitive, ...]

# What works element by element, or channel by channel, takes images as they come.
ANY_SHAPE = ("activation", "add", "batch_norm", "copy", "dropout", "lrn", "pad_channels", "scale")

# Operators: from the operands of a chain of primitives to the output of its last one.


def _conv2d(chain: Chain, t: Tensors) -> Any:
    p = chain[0]
    assert isinstance(p, Conv2d)
    x, padding = _padded(t["x"], p.padding)
    return F.conv2d(x, t["w"], t.get("bias"), p.stride, padding, p.dilation, p.groups)


def _padded(x: Any, padding: tuple[int, int, int, int], value: float = 0.0) -> tuple[Any, Any]:
    """The image, and the symmetric padding that the operator itself can add."""
    top, bottom, left, right = padding
    if top == bottom and left == right:
        return x, (top, left)
    return F.pad(x, (left, right, top, bottom), value=value), (0, 0)


def _gemm(chain: Chain, t: Tensors) -> Any:
    p = chain[0]
    assert isinstance(p, Gemm)
    a, b = (t["a"].t() if p.trans_a else t["a"]), t["b"]
    if "bias" in t:
        return F.linear(a, b if p.trans_b else b.t(), t["bias"])
    return torch.mm(a, b.t() if p.trans_b else b)


def _batched_gemm(chain: Chain, t: Tensors) -> Any:
    p = chain[0]
    assert isinstance(p, BatchedGemm)
    a, b = t["a"], t["b"]
    return torch.bmm(a.mT if p.trans_a else a, b.mT if p.trans_b else b)


def _lstm_cell(chain: Chain, t: Tensors) -> Any:
    """The fused LSTM; torch wants two biases, so the second stays zero."""
    weights = [t["wx"], t["wh"], t["bias"], t["recurrent_bias"]]
    state = [t["h0"].unsqueeze(0), t["c0"].unsqueeze(0)]
    return torch.lstm(t["x"], state, weights, True, 1, 0.0, False, False, False)[0]


def _bias(chain: Chain, t: Tensors) -> Any:
    return t["x"] + t["bias"].view(1, -1, 1)


def _activation(chain: Chain, t: Tensors) -> Any:
    p = chain[0]
    assert isinstance(p, Activation)
    return F.gelu(t["x"]) if p.function == "gelu" else getattr(torch, p.function)(t["x"])


def _pool2d(chain: Chain, t: Tensors) -> Any:
    p = chain[0]
    assert isinstance(p, Pool2d)
    pool, fill = (F.max_pool2d, float("-inf")) if p.function == "max" else (F.avg_pool2d, 0.0)
    if p.padding[0] * 2 > p.kernel[0] or p.padding[2] * 2 > p.kernel[1]:  # torch refuses that
        x, padding = F.pad(t["x"], p.padding[2:] + p.padding[:2], value=fill), (0, 0)
    else:
        x, padding = _padded(t["x"], p.padding, fill)
    y = pool(x, p.kernel, p.stride, padding, ceil_mode=p.ceil)
    if x is t["x"]:
        return y
    rows, columns = p.extent  # a window that starts in the trailing frame is none
    return y[:, :, :rows, :columns]


def _lrn(chain: Chain, t: Tensors) -> Any:
    p = chain[0]
    assert isinstance(p, LocalResponseNorm)
    return F.local_response_norm(t["x"], p.size, p.alpha, p.beta, p.k)


def _batch_norm(chain: Chain, t: Tensors) -> Any:
    p = chain[0]
    assert isinstance(p, BatchNorm)
    running = (None, None) if p.training else (t["running_mean"], t["running_variance"])
    return F.batch_norm(t["x"], *running, t["gamma"], t["beta"], p.training, 0.1, p.epsilon)


def _dropout(chain: Chain, t: Tensors) -> Any:
    p = chain[0]
    assert isinstance(p, Dropout)
    return F.dropout(t["x"], p.rate)


def _softmax(chain: Chain, t: Tensors) -> Any:
    return F.softmax(t["x"], dim=-1)


def _layer_norm(chain: Chain, t: Tensors) -> Any:
    p = chain[0]
    assert isinstance(p, LayerNorm)
    return F.layer_norm(t["x"], (p.features,), t["gamma"], t["beta"], p.epsilon)


def _transpose(chain: Chain, t: Tensors) -> Any:
    """By way of a flat view: without one the gradient would be a view, for which nothing moves."""
    p = chain[0]
    assert isinstance(p, Transpose)
    return t["x"].view(-1).view(p.rows, p.columns, p.size).transpose(0, 1).contiguous()


def _scale(chain: Chain, t: Tensors) -> Any:
    p = chain[0]
    assert isinstance(p, Scale)
    return t["x"] * p.factor


def _softmax_loss(chain: Chain, t: Tensors) -> Any:
    return F.cross_entropy(t["x"], t["labels"])


def _embedding(chain: Chain, t: Tensors) -> Any:
    return F.embedding(t["ids"], t["table"])


def _add(chain: Chain, t: Tensors) -> Any:
    x, other = t["x"], t["other"]
    return x + (other if other.shape == x.shape else other.view(x.shape))  # steps times samples


def _pad_channels(chain: Chain, t: Tensors) -> Any:
    p = chain[0]
    assert isinstance(p, PadChannels)
    within_channels = (0, 0) * (t["x"].dim() - 2)
    return F.pad(t["x"], (*within_channels, 0, p.added))


def _copy(chain: Chain, t: Tensors) -> Any:
    return t["x"].clone()


OPERATORS: dict[tuple[str, ...], Callable[[Chain, Tensors], Any]] = {
    ("conv2d",): _conv2d,
    ("conv2d", "bias"): _conv2d,
    ("gemm",): _gemm,
    ("gemm", "bias"): _gemm,
    ("batched_gemm",): _batched_gemm,
    ("lstm_cell",): _lstm_cell,
    ("bias",): _bias,
    ("activation",): _activation,
    ("pool2d",): _pool2d,
    ("lrn",): _lrn,
    ("batch_norm",): _batch_norm,
    ("dropout",): _dropout,
    ("softmax",): _softmax,
    ("layer_norm",): _layer_norm,
    ("transpose",): _transpose,
    ("scale",): _scale,
    ("softmax_loss",): _softmax_loss,
    ("embedding",): _embedding,
    ("add",): _add,
    ("pad_channels",): _pad_channels,
    ("copy",): _copy,
}


def complete(chain: Chain, tensors: Tensors) -> None:
    """Add what torch wants and the primitive does not have: an LSTM's second bias."""
    if chain[0].kind == "lstm_cell":
        tensors["recurrent_bias"] = torch.zeros_like(tensors["bias"])


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

    def __init__(self, network: Network, mode: str, data: NetworkData, layout: Layout) -> None:
        self.mode = mode
        self.data = data
        self.view = layout.view
        self.trained = {
            key: layout.place(torch.from_numpy(array)).requires_grad_(mode == TRAIN)
            for key, array in data.parameters.items()
        }
        self.parameters = sum(tensor.numel() for tensor in self.trained.values())
        self.input = network.input.name, layout.place(torch.from_numpy(data.input))
        self.steps: Iterable[Step] = self._steps(network, data.batch)
        self.moving = moving_layers(network, data.batch, mode)
        if mode == TRAIN:
            self.optimizer = torch.optim.SGD(
                list(self.trained.values()), lr=network.learning_rate, momentum=network.momentum
            )

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
                tensors[name] = torch.from_numpy(fixed)
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
                return {"output": self._forward().numpy()}
        loss = self._forward()
        loss.backward()
        gradients = {
            ".".join(map(str, key)): tensor.grad.numpy() for key, tensor in self.trained.items()
        }
        self.optimizer.zero_grad()
        return {"loss": loss.detach().numpy(), **gradients}

    def profile(self, calls: int) -> list[ProfiledCall]:
        twin = copy.copy(self)
        twin.steps = Recorded(self.steps)
        return profiled_calls(twin.call, calls, self.moving, _forks(self.steps))

    def weights(self) -> Arrays:
        return {
            ".".join(map(str, key)): tensor.detach().numpy().copy()
            for key, tensor in self.trained.items()
        }
