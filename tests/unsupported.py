"""What an engine truly cannot do: the sample of the contract test, and what its refusal says."""

from __future__ import annotations

from itertools import product
from typing import Any

BATCHED_GEMMS = [
    "batched_gemm batch=1 m=1 n=1 k=1",
    *[
        f"batched_gemm batch=5 m=37 n=41 k=43{trans_a}{trans_b}"
        for trans_a, trans_b in product(("", " trans_a"), ("", " trans_b"))
    ],
]
TRANSPOSES = ["transpose 1x1x1", "transpose 17x13x1", "transpose 5x7x11"]
GELUS = ["activation gelu 1", "activation gelu 1009"]
LAYER_NORMS = ["layer_norm 1x3", "layer_norm 17x13", "layer_norm 7x5"]

UNSUPPORTED: dict[str, dict[str, str]] = {
    "tensorflow": {"lrn 3x5x1 size=4": "no window of 4 channels"},
    "mxnet": {
        "lrn 3x5x1 size=4": "LRN window of an even number",
        "lrn 1x1x1 size=5": "LRN gradient of one channel of one pixel",
    },
    "caffe": {
        "gemm m=37 n=41 k=43 trans_a": "transposes its input",
        "gemm m=37 n=41 k=43 trans_a trans_b": "transposes its input",
        "gemm m=1 n=1 k=1 trans_a + bias 1x1x1": "transposes its input",
        "lrn 3x5x1 size=4": "odd size",
        **dict.fromkeys(GELUS, "no error function"),
        **dict.fromkeys([*BATCHED_GEMMS, *TRANSPOSES, *LAYER_NORMS], "no layer for"),
    },
    "cntk": {
        "conv2d 3x6x7x11 to 9, 2x3 stride=1x2 pad=0x1x1x1 dilation=2x1 groups=3": "dilated",
        "conv2d 2x5x13x11 to 5, 3x3 pad=2 dilation=2 groups=5": "dilated",
        **dict.fromkeys(GELUS, "no error function"),
    },
}

# TensorFlow turns oneDNN on only where the processor has what it was tuned for.
TENSORFLOW_WITHOUT_ONEDNN = dict.fromkeys(
    (
        "conv2d 3x6x7x11 to 9, 2x3 stride=1x2 pad=0x1x1x1 dilation=2x1 groups=3",
        "conv2d 2x5x13x11 to 5, 3x3 pad=2 dilation=2 groups=5",
    ),
    "dilation",
)


def refusals(engine: str, facts: dict[str, Any]) -> dict[str, str]:
    """What an engine with these facts cannot do: labels of samples, and what it says."""
    if engine == "tensorflow" and not facts["onednn"]:
        return {**UNSUPPORTED[engine], **TENSORFLOW_WITHOUT_ONEDNN}
    return UNSUPPORTED.get(engine, {})
