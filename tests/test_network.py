"""Networks: built, joined, refused when they do not fit, and computed by the NumPy kernels."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from kernelprof.probes.data import NetworkData
from kernelprof.probes.layer_kinds import LAYERS, layer_from_json
from kernelprof.probes.layers import Activate, FullyConnected, Input
from kernelprof.probes.network import Builder, Network, NetworkError
from kernelprof.probes.numpy_network import NumpyNetwork


def residual(momentum: float = 0.0) -> Network:
    """Two branches with different windows that join, and a third reader of the stem."""
    net = Builder()
    stem = net.convolution("stem", net.input(3, 8, 6), 4, kernel=3, padding=1)
    left = net.convolution("left", stem, 4, kernel=(3, 1), padding=(1, 1, 0, 0), groups=2)
    right = net.convolution("right", stem, 4, kernel=1, bias=False)
    x = net.add("join", net.add("inner", net.sigmoid("bend", left), right), stem)
    x = net.pool("pool", net.batch_norm("norm", x), "average", kernel=3, stride=2, ceil=True)
    net.softmax_loss(net.fully_connected("classes", net.lrn("lrn", x), 5))
    return Network("residual", "made up", tuple(net.layers), 4, 2, momentum)


def test_shapes_of_a_graph_with_branches() -> None:
    assert residual().shapes == {
        "data": (3, 8, 6),
        "stem": (4, 8, 6),
        "left": (4, 8, 6),
        "right": (4, 8, 6),
        "bend": (4, 8, 6),
        "inner": (4, 8, 6),
        "join": (4, 8, 6),
        "norm": (4, 8, 6),
        "pool": (4, 4, 3),
        "lrn": (4, 4, 3),
        "classes": (5,),
        "loss": (),
    }


def test_parameters_of_a_graph_with_branches() -> None:
    network = residual()
    counted = {layer.name: network.parameters(layer) for layer in network.layers}
    assert {name: count for name, count in counted.items() if count} == {
        "stem": 4 * 3 * 9 + 4,
        "left": 4 * 2 * 3 + 4,
        "right": 4 * 4,
        "norm": 2 * 4,
        "classes": 48 * 5 + 5,
    }
    assert network.parameters() == sum(counted.values())


def test_consumers_are_all_readers() -> None:
    names = [layer.name for layer in residual().consumers("stem")]
    assert names == ["left", "right", "join"]


def test_data_gradient_is_needed_after_the_first_trained_layer() -> None:
    net = Builder()
    x = net.relu("early", net.input(3, 4, 4))
    x = net.convolution("first", x, 2, kernel=3)
    net.fully_connected("second", net.relu("late", x), 2)
    network = Network("plain", "made up", tuple(net.layers), 1, 1)
    needed = {layer.name: network.needs_data_gradient(layer) for layer in network.layers}
    assert needed == {"data": False, "early": False, "first": False, "late": True, "second": True}


def test_every_branch_after_the_stem_needs_a_data_gradient() -> None:
    network = residual()
    needed = {layer.name for layer in network.layers if network.needs_data_gradient(layer)}
    assert needed == set(network.shapes) - {"data", "stem"}


def test_gradients_of_a_fork_add_up() -> None:
    """All gradients of the graph, float64, against finite differences of its loss."""
    network = residual()
    data = NetworkData(network, batch=3, seed=1)
    whole = NumpyNetwork(network, "train", data, "float64")
    gradients = whole.evaluate()
    for key, weights in whole.trained.items():
        gradient = gradients[".".join(map(str, key))]
        flat = weights.reshape(-1)
        for place in {0, flat.size // 2, flat.size - 1}:
            before = flat[place]
            flat[place] = before + 1e-5
            above = float(whole.evaluate()["loss"][0])
            flat[place] = before - 1e-5
            below = float(whole.evaluate()["loss"][0])
            flat[place] = before
            slope = (above - below) / 2e-5
            assert gradient.reshape(-1)[place] == pytest.approx(slope, rel=1e-5, abs=1e-8)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_training_steps_move_the_weights(momentum: float) -> None:
    """By the learning rate along the gradient, and with momentum along the earlier ones too."""
    network = residual(momentum)
    data = NetworkData(network, batch=3, seed=1)
    whole = NumpyNetwork(network, "train", data, "float64")
    weights = {key: array.copy() for key, array in whole.trained.items()}
    velocity = {key: np.zeros_like(array) for key, array in weights.items()}
    for _ in range(2):
        gradients = whole.evaluate()
        for key, array in weights.items():
            velocity[key] = momentum * velocity[key] + gradients[".".join(map(str, key))]
            array -= 1e-4 * velocity[key]
        whole.call()
    for key, array in weights.items():
        np.testing.assert_allclose(whole.trained[key], array, rtol=1e-12, atol=1e-15)


def with_dropout() -> Network:
    net = Builder()
    x = net.dropout("drop", net.fully_connected("fc1", net.input(5), 7), rate=0.25)
    net.softmax_loss(net.fully_connected("fc2", x, 3))
    return Network("dropout", "made up", tuple(net.layers), 4, 2)


def test_inference_skips_dropout_and_loss() -> None:
    network = with_dropout()
    kinds = {
        mode: [
            primitive.kind
            for layer in network.layers
            for primitive in network.primitives(layer, 4, mode)
        ]
        for mode in ("infer", "train")
    }
    assert kinds["infer"] == ["gemm", "bias", "gemm", "bias"]
    assert kinds["train"] == ["gemm", "bias", "dropout", "gemm", "bias", "softmax_loss"]


def perceptron(*layers: Any) -> Network:
    return Network("broken", "made up", (Input("data", (), (6,)), *layers), 1, 1)


def test_duplicate_name_is_refused() -> None:
    with pytest.raises(NetworkError, match="broken: two layers are called 'fc'"):
        perceptron(FullyConnected("fc", ("data",), 3), FullyConnected("fc", ("data",), 3))


@pytest.mark.parametrize("source", ["late", "fc", "dtaa"])
def test_unknown_or_later_input_is_refused(source: str) -> None:
    with pytest.raises(NetworkError, match=f"broken: layer 'fc' reads '{source}'"):
        perceptron(FullyConnected("fc", (source,), 3), Activate("late", ("fc",), "relu"))


def refused(build: Any, *shape: int) -> str:
    """The message with which one layer after the data is refused, as it is added."""
    net = Builder()
    x = net.input(*shape)
    with pytest.raises(NetworkError) as error:
        build(net, x)
    return str(error.value)


@pytest.mark.parametrize(
    ("build", "shape", "message"),
    [
        (lambda net, x: net.convolution("odd", x, 4, kernel=3), (6,), "an image"),
        (lambda net, x: net.convolution("odd", x, 4, kernel=3), (5, 6), "an image"),
        (lambda net, x: net.convolution("odd", x, 4, kernel=7), (3, 5, 5), "does not fit"),
        (lambda net, x: net.convolution("odd", x, 4, kernel=3, groups=2), (3, 5, 5), "groups=2"),
        (lambda net, x: net.pool("odd", x, "max", 2, 2), (6,), "an image"),
        (lambda net, x: net.pool("odd", x, "median", 2, 2), (3, 5, 5), "median"),
        (lambda net, x: net.pool("odd", x, "max", 2, 2, padding=2), (3, 5, 5), "padding"),
        (lambda net, x: net.lrn("odd", x), (6,), "an image"),
        (lambda net, x: net.lstm("odd", x, 4), (3, 5, 5), "a sequence"),
        (lambda net, x: net.lstm("odd", x, 4), (5,), "a sequence"),
        (lambda net, x: net.lstm("odd", x, 0), (4, 5), "hidden_size"),
        (lambda net, x: net.embedding("odd", x, 9, 4), (4, 5), "token ids"),
        (lambda net, x: net.fully_connected("odd", x, 0), (6,), "n must be a whole number"),
        (lambda net, x: net.dropout("odd", x, rate=1.0), (6,), "rate"),
        (lambda net, x: net.add("odd", x, net.fully_connected("fc", x, 4)), (6,), "one shape"),
    ],
)
def test_layers_that_do_not_fit_are_refused(
    build: Any, shape: tuple[int, ...], message: str
) -> None:
    """The message names the layer, and what is wrong."""
    text = refused(build, *shape)
    assert text.startswith("layer 'odd': ")
    assert message in text


def test_a_network_checks_what_no_builder_did() -> None:
    with pytest.raises(NetworkError, match="broken: layer 'odd': gemm: n must be"):
        perceptron(FullyConnected("odd", ("data",), -3))


@pytest.mark.parametrize("shape", [(), (0,), (3, -8, 8), (2.0,)])
def test_a_sample_has_sizes(shape: tuple[Any, ...]) -> None:
    with pytest.raises(NetworkError, match="layer 'data': the sizes of a sample"):
        Builder().input(*shape)


@pytest.mark.parametrize("batches", [(0, 1), (1, -1), (2.0, 1)])
def test_a_batch_has_samples(batches: tuple[Any, Any]) -> None:
    with pytest.raises(NetworkError, match=r"broken: (quick_)?batch must be a whole number from 1"):
        Network("broken", "made up", (Input("data", (), (6,)),), *batches)


def test_json_round_trip() -> None:
    for network in (residual(momentum=0.5), with_dropout()):
        back = Network.from_json(json.loads(json.dumps(network.to_json())))
        assert back == network


def test_every_kind_of_layer_is_registered_under_its_own_name() -> None:
    for kind, layer in LAYERS.items():
        assert layer.kind == kind


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"kind": "conv", "name": "x", "inputs": []}, "unknown kind of layer 'conv'; known: input"),
        ({"name": "x", "inputs": []}, "unknown kind of layer None"),
        ({"kind": "activation", "name": "x", "inputs": []}, "activation: .*function"),
        ({"kind": "lrn", "name": "x", "inputs": [], "depth": 1}, "lrn: .*depth"),
    ],
)
def test_json_of_no_layer_is_refused(data: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        layer_from_json(data)
