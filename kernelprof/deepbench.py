"""The problem sizes of Baidu's DeepBench, as primitives in float32.

What counts is what DeepBench counts.  Of a recurrent layer that is the product with its own state,
as its input product is skipped there (cuDNN's CUDNN_SKIP_INPUT); an LSTM has no peepholes.
DeepBench adds a matrix product to what C holds (beta = 1), kernelprof overwrites it.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from kernelprof.errors import UsageError
from kernelprof.probes.compute_bound import Conv2d, Gemm, LstmCell
from kernelprof.probes.primitive import Primitive

PROBLEMS = Path(__file__).with_name("deepbench.json")  # sizes only, and where they are from
PARTS = {
    "deepbench": "training",
    "deepbench-server": "inference_server",
    "deepbench-device": "inference_device",
}
SKIPPED_INPUT = 1  # wide: an input product that is 1 part in ``hidden`` of the state's
OTHER_CELLS = {"gru": "GRU", "vanilla": "vanilla RNN"}


@dataclass(frozen=True)
class ProblemSet:
    """Problems, each once, and how many there are that no primitive of kernelprof stands for."""

    primitives: tuple[Primitive, ...]
    left_out: Mapping[str, int]


def problem_set(name: str, kind: str | None = None) -> ProblemSet:
    """A set by its name: its problems of one kind of primitive, or all.

    Raises:
        UsageError: there is no such set, or it has nothing of this kind.
    """
    if name not in PARTS:
        raise UsageError(f"unknown set {name!r}; known: {', '.join(PARTS)}")
    sets = {"gemm": _products(name), "conv2d": _convolutions(name), "lstm_cell": _cells(name)}
    if kind is not None and kind not in sets:
        raise UsageError(f"the set {name} has no {kind}; it has {', '.join(sets)}")
    chosen = [own for own_kind, own in sets.items() if kind in (None, own_kind)]
    return ProblemSet(
        tuple(primitive for own in chosen for primitive in own.primitives),
        {what: count for own in chosen for what, count in own.left_out.items()},
    )


def _products(name: str) -> ProblemSet:
    """Matrix products; DeepBench stores by columns, kernelprof by rows.

    By rows the same memory is the product of the transposes.  So A, which holds the weights, is
    our B, and M and N change places.
    """
    products = (
        Gemm(p["N"], p["M"], p["K"], trans_a=p["b_t"], trans_b=p["a_t"])
        for p in _problems(name, "gemm")
    )
    sparse = len(_problems(name, "sparse_gemm"))
    return ProblemSet(_each_once(products), {"sparse GEMM": sparse} if sparse else {})


def _convolutions(name: str) -> ProblemSet:
    """Convolutions of images in NCHW; a filter is R high and S wide."""
    convolutions = (
        Conv2d(
            *(p["N"], p["C"], p["H"], p["W"], p["K"], (p["R"], p["S"])),
            stride=(p["stride_h"], p["stride_w"]),
            padding=(p["pad_h"], p["pad_h"], p["pad_w"], p["pad_w"]),
        )
        for p in _problems(name, "conv")
    )
    return ProblemSet(_each_once(convolutions), {})


def _cells(name: str) -> ProblemSet:
    """The LSTMs among the recurrent layers."""
    layers = _problems(name, "rnn")
    cells = (
        LstmCell(p["batch"], SKIPPED_INPUT, p["hidden"], p["timesteps"])
        for p in layers
        if p["type"] == "lstm"
    )
    others = Counter(OTHER_CELLS[p["type"]] for p in layers if p["type"] != "lstm")
    return ProblemSet(_each_once(cells), others)


def _each_once(primitives: Iterable[Primitive]) -> tuple[Primitive, ...]:
    return tuple(dict.fromkeys(primitives))


def _problems(name: str, family: str) -> list[dict[str, Any]]:
    stored = _stored()
    columns = stored["columns"][family]
    return [dict(zip(columns, row, strict=True)) for row in stored[PARTS[name]][family]]


@cache
def _stored() -> dict[str, Any]:
    stored: dict[str, Any] = json.loads(PROBLEMS.read_text(encoding="utf-8"))
    return stored
