"""Attention layers: what they compute, what they refuse, that engines agree or say no."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from kernelprof.errors import WorkerError
from kernelprof.launch import Worker
from kernelprof.probes.compute_bound import BatchedGemm
from kernelprof.probes.data import NetworkData
from kernelprof.probes.error_function import erf
from kernelprof.probes.layers import Heads
from kernelprof.probes.network import INFER, MODES, TRAIN, Builder, Network, NetworkError
from kernelprof.probes.numpy_network import NumpyNetwork
from kernelprof.probes.transformer_networks import transformer_encoder

PATIENCE_S = 120.0
TOLERANCE = 1e-4
STEPS, KEYS, FEATURES, SIZE = 5, 5, 6, 4

# Engines that have no heads, and what they say.
WITHOUT_HEADS = {"caffe": "no layer for", "cntk": "heads are neither samples nor steps"}


def attending() -> Network:
    """All kinds of layers that transformers have, at sizes that suit no vector unit."""
    net = Builder()
    data = net.input(STEPS, FEATURES)
    query, key, value = (net.fully_connected(name, data, 12) for name in ("query", "key", "value"))
    x = net.attention("attention", query, key, value, head_size=SIZE)
    x = net.layer_norm("norm", net.add("join", x, query))
    x = net.add("join2", net.softmax("shares", net.gelu("gelu", x)), net.scale("half", x, 0.5))
    net.softmax_loss(net.fully_connected("classes", x, 7))
    return Network("attending", "made up", tuple(net.layers), 4, 2, momentum=0.9)


def reading() -> Network:
    """Attention over embedded tokens, to heads that are given up to a vector."""
    net = Builder()
    x = net.embedding("embedding", net.input(7, vocabulary=11), 11, 6)
    heads = net.split_heads("heads", x, 3)
    weights = net.softmax("weights", net.matmul("scores", heads, heads, transposed=True))
    x = net.matmul("mixed", weights, net.gelu("bent", heads))
    net.softmax_loss(net.fully_connected("classes", x, 5))
    return Network("reading", "made up", tuple(net.layers), 4, 2)


def attention_alone() -> Network:
    net = Builder()
    data = net.input(STEPS, FEATURES)
    query, key, value = (net.fully_connected(name, data, 12) for name in ("query", "key", "value"))
    net.attention("attention", query, key, value, head_size=SIZE)
    return Network("alone", "made up", tuple(net.layers), 4, 2)


def defined_attention(data: NetworkData) -> Any:
    """Section 3.2 of arXiv:1706.03762, sample by sample and head by head; steps come first."""
    x = data.input.astype(np.float64)
    query, key, value = (
        x @ data.parameters[name, 0, "b"].T + data.parameters[name, 1, "bias"]
        for name in ("query", "key", "value")
    )
    result = np.empty_like(query)
    for sample in range(x.shape[1]):
        for first in range(0, query.shape[2], SIZE):
            head = np.s_[:, sample, first : first + SIZE]
            powers = np.exp(query[head] @ key[head].T / SIZE**0.5)
            result[head] = powers / powers.sum(axis=1, keepdims=True) @ value[head]
    return result


def test_attention_is_its_definition() -> None:
    data = NetworkData(attention_alone(), 3, seed=1)
    got = NumpyNetwork(attention_alone(), INFER, data, "float64").evaluate()["output"]
    want = defined_attention(data)
    np.testing.assert_allclose(got.reshape(want.shape), want, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("network", [attending(), reading()], ids=lambda network: network.name)
def test_gradients_of_a_network_are_finite_differences(network: Network) -> None:
    """Those of both inputs of a product flow on, and meet again where a layer branches."""
    data = NetworkData(network, 2, seed=2)
    whole = NumpyNetwork(network, TRAIN, data, "float64")
    gradients = whole.evaluate()
    for (layer, member, name), weights in whole.trained.items():
        gradient = gradients[f"{layer}.{member}.{name}"].reshape(-1)
        flat = weights.reshape(-1)
        for place in {0, flat.size // 2, flat.size - 1}:
            slope = 0.0
            for step in (1e-5, -2e-5):
                flat[place] += step
                slope += np.sign(step) * float(whole.evaluate()["loss"][0])
            flat[place] += 1e-5
            assert slope / 2e-5 == pytest.approx(gradient[place], rel=1e-5, abs=1e-9)


def test_shapes_between_the_layers() -> None:
    shapes = attending().shapes
    assert shapes["attention_query"] == Heads(3, STEPS, SIZE)
    assert shapes["attention_weights"] == Heads(3, STEPS, KEYS)
    assert shapes["attention"] == shapes["norm"] == (STEPS, 12)


def test_attention_may_look_at_another_sequence() -> None:
    net = Builder()
    query = net.input(3, 8)
    longer = net.lstm("lstm", query, 8)
    x = net.matmul(
        "scores", net.split_heads("q", query, 4), net.split_heads("k", longer, 4), transposed=True
    )
    network = Network("cross", "made up", tuple(net.layers), 4, 2)
    assert network.shapes[x] == Heads(2, 3, 3)


def test_products_of_the_encoder() -> None:
    """One for each head of each sample: 12 heads, 16 samples."""
    network = transformer_encoder()
    products = [
        primitive
        for layer in network.layers
        for primitive in network.primitives(layer, network.batch, TRAIN)
        if isinstance(primitive, BatchedGemm)
    ]
    assert products == [
        BatchedGemm(192, 128, 128, 64, trans_b=True),
        BatchedGemm(192, 128, 64, 128),
    ]


def split_unevenly(net: Builder) -> None:
    net.split_heads("heads", net.input(5, 6), 4)


def split_into_nothing(net: Builder) -> None:
    net.split_heads("heads", net.input(5, 6), 0)


def split_an_image(net: Builder) -> None:
    net.split_heads("heads", net.input(3, 5, 6), 3)


def merge_an_image(net: Builder) -> None:
    net.merge_heads("merged", net.input(3, 5, 6))


def multiply_what_does_not_fit(net: Builder) -> None:
    heads = net.split_heads("heads", net.input(5, 6), 3)
    net.matmul("product", heads, heads)


def multiply_sequences(net: Builder) -> None:
    data = net.input(5, 6)
    net.matmul("product", data, data)


def normalise_an_image(net: Builder) -> None:
    net.layer_norm("norm", net.input(3, 5, 6))


def convolve_heads(net: Builder) -> None:
    net.convolution("conv", net.split_heads("heads", net.input(5, 6), 3), 4, 3)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (split_unevenly, "layer 'heads': 6 features cannot be split into heads of 4"),
        (split_into_nothing, "layer 'heads': 6 features cannot be split into heads of 0"),
        (split_an_image, "layer 'heads': a sequence .* is needed"),
        (merge_an_image, "layer 'merged': heads are needed, .* got shape"),
        (
            multiply_what_does_not_fit,
            r"layer 'product': .* \(2, 5, 3\) do not fit those of \(2, 5, 3\)",
        ),
        (multiply_sequences, "layer 'product': heads are needed"),
        (normalise_an_image, "layer 'norm': layer_norm needs a vector, a sequence or heads"),
        (convolve_heads, "layer 'conv': an image .* is needed"),
    ],
)
def test_what_does_not_fit_is_refused(wrong: Any, message: str) -> None:
    with pytest.raises(NetworkError, match=message):
        wrong(Builder())


def test_sequences_come_steps_first() -> None:
    assert NetworkData(attending(), 3).input.shape == (STEPS, 3, FEATURES)


def test_error_function_of_both_precisions() -> None:
    """Known values: Abramowitz & Stegun, table 7.1; odd, and 1 far out."""
    x = np.array([0.0, 0.5, 1.0, 2.0, 9.0])
    known = np.array([0.0, 0.5204998778, 0.8427007929, 0.9953222650, 1.0])
    np.testing.assert_allclose(erf(x), known, atol=1e-10)
    single = erf(x.astype(np.float32))
    assert single.dtype == np.float32
    np.testing.assert_allclose(single, known, atol=5e-7)
    np.testing.assert_array_equal(erf(-x.astype(np.float32)), -single)
    assert np.isnan(erf(np.array([np.nan], np.float32)))


NETWORKS = {"attending": attending, "reading": reading, "transformer-encoder": transformer_encoder}


def errors_of(worker: Worker, verb: str, name: str, **asked: Any) -> dict[str, float]:
    """The errors of the network in an engine; none from one that has no heads, and says so."""
    network = NETWORKS[name]().to_json()
    refusal = WITHOUT_HEADS.get(worker.environment.engine)
    if refusal is None:
        answer = worker.ask(verb, PATIENCE_S, network=network, batch=3, seed=5, **asked)
        found: dict[str, float] = answer["errors"]
        return found
    with pytest.raises(WorkerError, match=refusal) as refused:
        worker.ask(verb, PATIENCE_S, network=network, batch=3, seed=5, **asked)
    assert refused.value.kind == "unsupported"
    return {}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", NETWORKS)
def test_engine_agrees_with_the_oracle(worker: Worker, name: str, mode: str) -> None:
    """The output; or the loss and the gradient of every parameter."""
    errors = errors_of(worker, "check_network", name, mode=mode)
    assert max(errors.values(), default=0.0) < TOLERANCE, errors


@pytest.mark.parametrize("name", NETWORKS)
def test_engine_trains_as_the_oracle_does(worker: Worker, name: str) -> None:
    errors = errors_of(worker, "check_update", name)
    assert max(errors.values(), default=0.0) < 1e-3, errors
