"""Networks drawn at random: the same from the same seed, unlike one another, and of a sane size."""

from __future__ import annotations

import json

import pytest

from kernelprof.probes.decompose import Fusion, kernels
from kernelprof.probes.network import MODES, Network
from kernelprof.studies.random_networks import (
    BATCHES,
    KINDS,
    MOST_PARAMETERS,
    STEP_FLOP,
    random_networks,
)

SEEDS = range(20)
DRAWN = [
    ("random-cnn-1-1", 4, 571012),
    ("random-cnn-1-2", 118, 229148),
    ("random-mlp-1-3", 25, 8209023),
    ("random-lstm-1-4", 6, 2009642),
    ("random-resnet-1-5", 4, 537191),
]
every_seed = pytest.mark.parametrize("seed", SEEDS)


def kinds(network: Network) -> set[str]:
    return {layer.kind for layer in network.layers}


@every_seed
def test_same_seed_same_networks(seed: int) -> None:
    """However many are asked for."""
    assert random_networks(seed) == random_networks(seed, 9)[:5]


def test_a_seed_means_the_same_everywhere() -> None:
    """Worked out once; another version of Python must not draw other networks."""
    found = [(n.name, n.batch, n.parameters()) for n in random_networks(1)]
    assert found == DRAWN


@every_seed
def test_five_kinds(seed: int) -> None:
    """Two convolutional networks, a perceptron, an LSTM and a residual one, in this order."""
    first, second, mlp, lstm, residual = map(kinds, random_networks(seed))
    for cnn in (first, second):
        assert {"convolution", "pooling"} <= cnn
        assert not {"lstm", "add"} & cnn
    assert {"fully_connected", "activation"} <= mlp
    assert not {"convolution", "lstm"} & mlp
    assert {"embedding", "lstm"} <= lstm
    assert {"convolution", "batch_norm", "add"} <= residual


@every_seed
def test_sizes_are_sane(seed: int) -> None:
    for network in random_networks(seed):
        assert BATCHES[0] <= network.batch == network.quick_batch <= BATCHES[1]
        assert 1000 < network.parameters() <= MOST_PARAMETERS
        step = network.flop(network.batch, "train")
        rounding = 1 + 0.5 / network.batch
        assert STEP_FLOP[0] / rounding <= step <= STEP_FLOP[1] * rounding


@every_seed
@pytest.mark.parametrize("mode", MODES)
def test_networks_come_apart_and_travel(seed: int, mode: str) -> None:
    for network in random_networks(seed):
        assert Network.from_json(json.loads(json.dumps(network.to_json()))) == network
        found = kernels(network, network.batch, mode, Fusion())
        assert sum(k.compute_flop for k in found) == network.flop(network.batch, mode)


def test_networks_are_diverse() -> None:
    """No two are alike, and every option of the generator turns up."""
    networks = [network for seed in SEEDS for network in random_networks(seed)]
    definitions = {json.dumps([layer.to_json() for layer in n.layers]) for n in networks}
    assert len(definitions) == len(networks) == len(SEEDS) * len(KINDS)
    assert len({network.batch for network in networks}) > len(SEEDS)
    layers = [layer.to_json() for network in networks for layer in network.layers]
    assert {layer.get("function") for layer in layers} >= {"relu", "sigmoid", "max", "average"}
    assert {layer.get("groups") for layer in layers} >= {1, 2}
    assert {layer["kind"] for layer in layers} >= {"lrn", "dropout", "pad_channels"}
    assert {network.momentum for network in networks} == {0.0, 0.9}
