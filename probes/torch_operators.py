"""The operators of torch: from the operands of a chain of primitives to the output of its last one.

They take whatever device the operands are on.
"""

from __future__ import annotations

from typing import Any, Callable

import torch
import torch.nn.functional as F  # noqa: N812  the name that every torch user knows
from torch.backends.cudnn.rnn import get_cudnn_mode

from .attention import LayerNorm, Scale, Transpose
from .compute_bound import BatchedGemm, Conv2d, Gemm, LstmCell
from .memory_bound import (
    Activation,
    BatchNorm,
    Dropout,
    LocalResponseNorm,
    PadChannels,
    Pool2d,
)
from .primitive import Primitive

Tensors = dict[str, Any]  # operand name -> torch.Tensor
Chain = tuple[Primitive, ...]


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
    """The fused LSTM; torch wants two biases, so the second stays zero.

    cuDNN goes back only where it was told to train.
    """
    trains = not t["x"].is_cpu and torch.is_grad_enabled()
    weights = [t["wx"], t["wh"], t["bias"], t["recurrent_bias"]]
    state = [t["h0"].unsqueeze(0), t["c0"].unsqueeze(0)]
    return torch.lstm(t["x"], state, weights, True, 1, 0.0, trains, False, False)[0]


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
    p = chain[0]
    if isinstance(p, LstmCell):
        tensors["recurrent_bias"] = torch.zeros_like(tensors["bias"])
        _flatten(p, [tensors[name] for name in ("wx", "wh", "bias", "recurrent_bias")])


def _flatten(p: LstmCell, weights: list[Any]) -> None:
    """Weights as parts of one buffer, as those of torch.nn.LSTM are.

    cuDNN, where it computes the LSTM, would copy them together for each call.
    """
    if torch.backends.cudnn.is_acceptable(weights[0]):
        sizes = p.input_size, get_cudnn_mode("LSTM"), p.hidden_size
        with torch.no_grad():
            torch._cudnn_rnn_flatten_weight(weights, len(weights), *sizes, 0, 1, False, False)
