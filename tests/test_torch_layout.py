"""Torch with the channels of images innermost: the same results, told as another layout."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from itertools import product

import pytest

from kernelprof.errors import WorkerError
from kernelprof.launch import Worker
from kernelprof.probes.compute_bound import Conv2d
from kernelprof.probes.memory_bound import BatchNorm, Bias, LocalResponseNorm, PadChannels, Pool2d
from kernelprof.probes.network import MODES
from kernelprof.probes.primitive import BACKWARD_WEIGHTS, FORWARD, Primitive
from tests.conftest import engine_worker
from tests.test_engine_contract import (
    PATIENCE_S,
    TOLERANCE,
    assert_agrees,
    branching_network,
    residual_network,
)

LAYOUT = "KERNELPROF_LAYOUT"
CONVOLUTION = Conv2d(3, 6, 7, 11, 9, (2, 3), (1, 2), (0, 1, 1, 1), (2, 1), groups=3)
OF_IMAGES: list[Primitive] = [
    CONVOLUTION,
    Conv2d(2, 3, 17, 23, 7, (5, 3), (2, 3)),
    Conv2d(1, 1, 1, 1, 1, (1, 1)),
    Pool2d("max", 2, 3, 13, 11, (3, 3), (2, 2), (1, 1, 1, 1)),
    Pool2d("average", 2, 3, 12, 8, (3, 3), (2, 2), ceil=True),
    LocalResponseNorm(2, 7, 11, alpha=0.5),
    BatchNorm(5, 3, 7, training=True),
    PadChannels(3, 5, 11, added=7),
]


@pytest.fixture(scope="module")
def channels_last() -> Iterator[Worker]:
    with closing(engine_worker("torch", variables={LAYOUT: "channels_last"})) as running:
        yield running


def test_the_layout_is_told(channels_last: Worker) -> None:
    assert channels_last.ask("facts", PATIENCE_S)["layout"] == "NHWC"


@pytest.mark.parametrize("primitive", OF_IMAGES, ids=lambda primitive: primitive.label)
def test_kernels_agree_with_the_oracle(channels_last: Worker, primitive: Primitive) -> None:
    for pass_ in primitive.passes:
        assert_agrees(channels_last, (primitive,), pass_)


@pytest.mark.parametrize("pass_", [FORWARD, BACKWARD_WEIGHTS])
def test_fused_bias_agrees_with_the_oracle(channels_last: Worker, pass_: str) -> None:
    bias = Bias(3, 9, CONVOLUTION.extent[0] * CONVOLUTION.extent[1])
    assert_agrees(channels_last, (CONVOLUTION, bias), pass_)


@pytest.mark.parametrize(
    ("made", "mode"),
    list(product((branching_network, residual_network), MODES)),
    ids=lambda given: getattr(given, "__name__", given),
)
def test_networks_agree_with_the_oracle(channels_last: Worker, made: type, mode: str) -> None:
    asked = {"network": made().to_json(), "batch": 3, "mode": mode, "seed": 5}
    errors = channels_last.ask("check_network", PATIENCE_S, **asked)["errors"]
    assert max(errors.values()) < TOLERANCE, errors


def test_an_unknown_layout_is_one_line() -> None:
    with pytest.raises(WorkerError, match=f"{LAYOUT} is 'sideways'; torch takes") as refused:
        engine_worker("torch", variables={LAYOUT: "sideways"})
    assert "\n" not in refused.value.args[0]
