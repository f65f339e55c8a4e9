"""The known networks have the sizes of their definitions (reference/networks.md, by section)."""

from __future__ import annotations

import json
from collections import Counter

import pytest

from kernelprof.probes.compute_bound import Conv2d, Gemm, LstmCell
from kernelprof.probes.memory_bound import Dropout, LocalResponseNorm, PadChannels
from kernelprof.probes.network import MODES, Network
from kernelprof.probes.networks import AS_RUN, CANONICAL, FURTHER, LATER, NETWORKS
from kernelprof.probes.primitive import Primitive, product


def convolutions_of_resnet_50() -> list[tuple[str, int, int, int, int]]:
    """Name, input and output channels, kernel and output size: Table 1 of arXiv:1512.03385.

    The image is halved by the 3 x 3 convolution, as in fb.resnet.torch (section 1.7).
    """
    found = [("conv1", 3, 64, 7, 112)]
    channels, before = 64, 56
    for stage, (width, blocks, size) in enumerate(
        [(64, 3, 56), (128, 4, 28), (256, 6, 14), (512, 3, 7)], start=2
    ):
        for block in range(1, blocks + 1):
            place = f"{stage}_{block}"
            found.append((f"reduce{place}", channels, width, 1, before))
            found.append((f"conv{place}", width, width, 3, size))
            found.append((f"expand{place}", width, 4 * width, 1, size))
            if block == 1:
                found.append((f"project{place}", channels, 4 * width, 1, size))
            channels, before = 4 * width, size
    return found


def convolutions_of_resnet_56() -> list[tuple[str, int, int, int, int]]:
    """Section 4.2 of arXiv:1512.03385: 6 n + 2 weighted layers, n = 9."""
    found = [("conv1", 3, 16, 3, 32)]
    channels = 16
    for stage, (width, size) in enumerate([(16, 32), (32, 16), (64, 8)], start=2):
        for place in (f"{stage}_{block}{half}" for block in range(1, 10) for half in "ab"):
            found.append((f"conv{place}", channels, width, 3, size))
            channels = width
    return found


def residual_parameters(
    convolutions: list[tuple[str, int, int, int, int]], bias: bool, classifier: int
) -> dict[str, int]:
    """Each convolution with its normalisation's gamma and beta, and the classifier."""
    counts = {}
    for name, inputs, outputs, kernel, _ in convolutions:
        counts[name] = inputs * outputs * kernel**2 + (outputs if bias else 0)
        counts[f"{name}_norm"] = 2 * outputs
    return {**counts, "fc": classifier}


def residual_macs(
    convolutions: list[tuple[str, int, int, int, int]], classifier: int
) -> dict[str, int]:
    counts = {
        name: inputs * outputs * kernel**2 * size**2
        for name, inputs, outputs, kernel, size in convolutions
    }
    return {**counts, "fc": classifier}


# Parameters of every layer that has any.
PARAMETERS = {
    "fcn-s": {  # section 1.1
        "fc1": 54_790_144,
        "fc2": 4_196_352,
        "fc3": 4_196_352,
        "fc4": 54_814_848,
    },
    "fcn-r": {"fc1": 1_607_680, "fc2": 8_392_704, "fc3": 4_195_328, "fc4": 10_250},  # 1.3
    "alexnet-s": {  # section 1.4, nominal
        "conv1": 34_944,
        "conv2": 614_656,
        "conv3": 885_120,
        "conv4": 1_327_488,
        "conv5": 884_992,
        "fc6": 37_752_832,
        "fc7": 16_781_312,
        "fc8": 4_097_000,
    },
    "alexnet-s@caffe": {  # as written
        "conv1": 34_944,
        "conv2": 614_656,
        "conv3": 885_120,
        "conv4": 1_327_488,
        "conv5": 884_992,
        "fc6": 4_198_400,
        "fc7": 16_781_312,
        "fc8": 4_097_000,
    },
    "alexnet-s@mxnet": {
        "conv1": 34_944,
        "conv2": 614_656,
        "conv3": 885_120,
        "fc8": 9_601_000,
    },
    "alexnet-s@tensorflow": {
        "conv1": 34_944,
        "conv2": 614_656,
        "conv3": 885_120,
        "conv4": 1_327_488,
        "conv5": 884_992,
        "fc6": 51_384_320,
        "fc7": 16_781_312,
        "fc8": 4_097_000,
    },
    "alexnet-r": {"conv1": 2_432, "conv2": 25_632, "conv3": 51_264, "fc4": 5_770},  # 1.5, floor
    "lstm": {  # section 1.6
        "embedding": 2_560_000,
        "lstm1": 525_312,
        "lstm2": 525_312,
        "output": 2_570_000,
    },
    "fcn-8": {  # section 1.2: six hidden layers
        "fc1": 54_790_144,
        **{f"fc{number}": 4_196_352 for number in range(2, 7)},
        "fc7": 54_814_848,
    },
    "alexnet-bvlc": {  # section 1.4: half of the nominal weights where there are two groups
        "conv1": 34_944,
        "conv2": 307_456,
        "conv3": 885_120,
        "conv4": 663_936,
        "conv5": 442_624,
        "fc6": 37_752_832,
        "fc7": 16_781_312,
        "fc8": 4_097_000,
    },
    "resnet-50": residual_parameters(convolutions_of_resnet_50(), False, 2048 * 1000 + 1000),
    "resnet-56": residual_parameters(convolutions_of_resnet_56(), True, 64 * 10 + 10),
    "transformer-encoder": {  # 7,087,872 without the classes: a twelfth of BERT-base's layers
        **dict.fromkeys(("query", "key", "value", "attention_output"), 768 * 768 + 768),
        **dict.fromkeys(("attention_norm", "outer_norm"), 2 * 768),
        "inner": 768 * 3072 + 3072,
        "outer": 3072 * 768 + 768,
        "classes": 768 * 9 + 9,
    },
}
TOTALS = {
    "fcn-s": 117_997_696,
    "fcn-r": 14_205_962,
    "alexnet-s": 62_378_344,
    "alexnet-s@caffe": 28_823_912,
    "alexnet-s@mxnet": 11_135_720,
    "alexnet-s@tensorflow": 76_009_832,
    "alexnet-r": 85_098,
    "lstm": 6_180_624,
    "fcn-8": 130_586_752,
    "alexnet-bvlc": 60_965_224,
    "resnet-50": 25_557_032,
    "resnet-56": 855_050,
    "transformer-encoder": 7_087_872 + 6_921,
}

# Multiply-adds of one forward pass of one sample, layer by layer.
MACS = {
    "fcn-s": {  # section 1.1
        "fc1": 54_788_096,
        "fc2": 4_194_304,
        "fc3": 4_194_304,
        "fc4": 54_788_096,
    },
    "fcn-r": {  # section 1.3: the parameters without the biases
        "fc1": 1_605_632,
        "fc2": 8_388_608,
        "fc3": 4_194_304,
        "fc4": 10_240,
    },
    "alexnet-s": {  # section 1.4, column Torch
        "conv1": 105_415_200,
        "conv2": 447_897_600,
        "conv3": 149_520_384,
        "conv4": 224_280_576,
        "conv5": 149_520_384,
        "fc6": 37_748_736,
        "fc7": 16_777_216,
        "fc8": 4_096_000,
    },
    "alexnet-s@caffe": {
        "conv1": 101_616_768,
        "conv2": 325_017_600,
        "conv3": 71_663_616,
        "conv4": 65_028_096,
        "conv5": 22_118_400,
        "fc6": 4_194_304,
        "fc7": 16_777_216,
        "fc8": 4_096_000,
    },
    "alexnet-s@mxnet": {
        "conv1": 101_616_768,
        "conv2": 353_894_400,
        "conv3": 107_053_056,
        "fc8": 9_600_000,
    },
    "alexnet-s@tensorflow": {
        "conv1": 109_283_328,
        "conv2": 481_689_600,
        "conv3": 173_408_256,
        "conv4": 260_112_384,
        "conv5": 173_408_256,
        "fc6": 51_380_224,
        "fc7": 16_777_216,
        "fc8": 4_096_000,
    },
    "alexnet-r": {  # section 3, as products; 10,732,160 in all (section 1.5)
        "conv1": 32 * 1024 * 75,
        "conv2": 32 * 225 * 800,
        "conv3": 64 * 49 * 800,
        "fc4": 10 * 576,
    },
    "lstm": {  # sections 1.6 and 3: 32 steps
        "lstm1": 32 * 1024 * 512,
        "lstm2": 32 * 1024 * 512,
        "output": 32 * 10_000 * 256,
    },
    "fcn-8": {  # section 1.2: 130,547,712 in all
        "fc1": 54_788_096,
        **{f"fc{number}": 4_194_304 for number in range(2, 7)},
        "fc7": 54_788_096,
    },
    "alexnet-bvlc": {  # section 1.4, column BVLC, crop 224
        "conv1": 101_616_768,
        "conv2": 223_948_800,
        "conv3": 149_520_384,
        "conv4": 112_140_288,
        "conv5": 74_760_192,
        "fc6": 37_748_736,
        "fc7": 16_777_216,
        "fc8": 4_096_000,
    },
    "resnet-50": residual_macs(convolutions_of_resnet_50(), 2048 * 1000),
    "resnet-56": residual_macs(convolutions_of_resnet_56(), 64 * 10),
    "transformer-encoder": {
        **dict.fromkeys(("query", "key", "value"), 128 * 768 * 768),
        **dict.fromkeys(("attention_scores", "attention_mixed"), 12 * 128 * 64 * 128),
        "attention_output": 128 * 768 * 768,
        **dict.fromkeys(("inner", "outer"), 128 * 768 * 3072),
        "classes": 128 * 768 * 9,
    },
}
# The products whose input is the data have no data pass; an embedding is no product.
READING_DATA = {"lstm": 0, "transformer-encoder": 3}
BATCHES = {"fcn-s": 64, "fcn-r": 1024, "alexnet-s": 16, "alexnet-r": 1024, "lstm": 256}
BATCHES.update({"fcn-8": 64, "alexnet-bvlc": 16, "resnet-50": 16, "resnet-56": 128})  # 1.2 to 1.7
BATCHES.update(dict.fromkeys([*LATER, *AS_RUN], 16))
WITH_MOMENTUM = (
    "fcn-r",
    "alexnet-r",
    "alexnet-bvlc",
    "resnet-50",
    "resnet-56",
    "alexnet-s@mxnet",
)
MOMENTUM = {name: 0.9 if name in WITH_MOMENTUM else 0.0 for name in NETWORKS}

# Section 3: GFLOP of a forward pass and of a training step at the CPU batch.
GFLOP = {
    "fcn-s": (15.1, 38.3),
    "fcn-r": (29.1, 83.9),
    "alexnet-s": (36.3, 105.6),
    "alexnet-r": (22.0, 60.9),
    "lstm": (59.1, 177.4),
}

# Section 3: M, N, K of every matrix product, at the CPU batch.
GEMMS = {
    "fcn-s": [(64, 2048, 26752), (64, 2048, 2048), (64, 2048, 2048), (64, 26752, 2048)],
    "fcn-r": [(1024, 2048, 784), (1024, 4096, 2048), (1024, 1024, 4096), (1024, 10, 1024)],
    "alexnet-s": [(16, 4096, 9216), (16, 4096, 4096), (16, 1000, 4096)],
    "alexnet-r": [(1024, 10, 576)],
    "lstm": [(8192, 10_000, 256)],
}
# Section 3: every convolution of one image as a product, M = out channels, N = pixels, K = window.
CONVOLUTIONS = {
    "fcn-s": [],
    "fcn-r": [],
    "alexnet-s": [
        (96, 3025, 363),
        (256, 729, 2400),
        (384, 169, 2304),
        (384, 169, 3456),
        (256, 169, 3456),
    ],
    "alexnet-r": [(32, 1024, 75), (32, 225, 800), (64, 49, 800)],
    "lstm": [],
}
# Section 3: per layer the product of a cell's gates (B, 4H, I + H), and the steps.
CELLS: dict[str, list[tuple[int, int, int, int]]] = {name: [] for name in CANONICAL}
CELLS["lstm"] = [(256, 1024, 512, 32)] * 2

every_network = pytest.mark.parametrize("name", NETWORKS)
canonical_network = pytest.mark.parametrize("name", CANONICAL)


def primitives_of(network: Network, mode: str = "train") -> list[Primitive]:
    layers = network.layers
    return [p for layer in layers for p in network.primitives(layer, network.batch, mode)]


def test_tables_cover_the_registry() -> None:
    for table in (PARAMETERS, TOTALS, MACS, BATCHES, MOMENTUM):
        assert table.keys() == NETWORKS.keys()
    for table in (GFLOP, GEMMS, CONVOLUTIONS, CELLS):
        assert table.keys() == CANONICAL.keys()


@every_network
def test_name_batch_and_momentum(name: str) -> None:
    network = NETWORKS[name]()
    assert network.name == name
    assert ("1706.03762" if name in LATER else "1608.07249") in network.source
    assert network.batch == BATCHES[name]
    assert 0 < network.quick_batch < network.batch
    assert network.momentum == MOMENTUM[name]


@every_network
def test_parameters(name: str) -> None:
    network = NETWORKS[name]()
    counted = {layer.name: network.parameters(layer) for layer in network.layers}
    assert {layer: count for layer, count in counted.items() if count} == PARAMETERS[name]
    assert network.parameters() == TOTALS[name] == sum(PARAMETERS[name].values())


@every_network
def test_forward_flop_of_every_layer(name: str) -> None:
    network = NETWORKS[name]()
    flop = {
        layer.name: sum(p.flop("forward") for p in primitives if p.compute_bound)
        for layer in network.layers
        if (primitives := network.primitives(layer, 1, "infer"))
    }
    assert {layer: count for layer, count in flop.items() if count} == {
        layer: 2 * macs for layer, macs in MACS[name].items()
    }


@every_network
def test_flop_at_the_cpu_batch(name: str) -> None:
    """A training step is three products a layer, two in the first."""
    network, batch = NETWORKS[name](), BATCHES[name]
    forward = 2 * batch * sum(MACS[name].values())
    first = 2 * batch * sum(list(MACS[name].values())[: READING_DATA.get(name, 1)])
    assert network.flop(batch, "infer") == forward
    assert network.flop(batch, "train") == 3 * forward - first
    rounded = tuple(round(network.flop(batch, mode) / 1e9, 1) for mode in MODES)
    assert rounded == GFLOP.get(name, rounded)


@canonical_network
def test_matrix_products(name: str) -> None:
    gemms = [p for p in primitives_of(NETWORKS[name]()) if isinstance(p, Gemm)]
    assert [(p.m, p.n, p.k) for p in gemms] == GEMMS[name]


@canonical_network
def test_convolutions_as_products(name: str) -> None:
    found = [p for p in primitives_of(NETWORKS[name]()) if isinstance(p, Conv2d)]
    products = [
        (p.out_channels, product(p.extent), p.in_channels * product(p.kernel)) for p in found
    ]
    assert products == CONVOLUTIONS[name]
    assert all(p.groups == 1 and p.batch == BATCHES[name] for p in found)


@canonical_network
def test_lstm_cells(name: str) -> None:
    found = [p for p in primitives_of(NETWORKS[name]()) if isinstance(p, LstmCell)]
    gates = [(p.batch, 4 * p.hidden_size, p.input_size + p.hidden_size, p.steps) for p in found]
    assert gates == CELLS[name]


def test_multiply_adds_of_the_literature() -> None:
    """Forward, per image, in millions: sections 1.2 and 1.4, torchvision's page of resnet50."""
    total = {name: NETWORKS[name]().flop(1, "infer") / 2e6 for name in FURTHER}
    rounded = {name: round(millions) for name, millions in total.items()}
    assert rounded == {"fcn-8": 131, "alexnet-bvlc": 721, "resnet-50": 4089, "resnet-56": 125}


def test_alexnet_of_bvlc() -> None:
    """Section 1.4: two groups in three convolutions, normalisation of five channels, dropout."""
    found = primitives_of(NETWORKS["alexnet-bvlc"]())
    assert [p.groups for p in found if isinstance(p, Conv2d)] == [1, 2, 1, 2, 2]
    norms = [p for p in found if isinstance(p, LocalResponseNorm)]
    assert [(p.channels, p.size, p.alpha, p.beta) for p in norms] == [
        (96, 5, 1e-4, 0.75),
        (256, 5, 1e-4, 0.75),
    ]
    assert [p.rate for p in found if isinstance(p, Dropout)] == [0.5, 0.5]
    spatial = ("convolution", "pooling")
    assert sizes("alexnet-bvlc", spatial) == [54, 27, 27, 13, 13, 13, 13, 6]


def test_shortcuts() -> None:
    """Section 1.7: projections where a stage of bottlenecks begins; zeros in ResNet-56."""
    counts = {
        name: Counter(layer.kind for layer in NETWORKS[name]().layers)
        for name in ("resnet-50", "resnet-56")
    }
    assert counts["resnet-50"]["convolution"] == 53
    assert counts["resnet-50"]["add"] == 16
    assert counts["resnet-56"]["convolution"] == 55
    assert counts["resnet-56"]["add"] == 27
    padded = [p for p in primitives_of(NETWORKS["resnet-56"]()) if isinstance(p, PadChannels)]
    assert [(p.channels, p.added, p.positions) for p in padded] == [(16, 16, 256), (32, 32, 64)]


def sizes(name: str, kinds: tuple[str, ...]) -> list[int]:
    """Heights of the outputs of the layers of some kinds."""
    network = NETWORKS[name]()
    return [network.shapes[layer.name][1] for layer in network.layers if layer.kind in kinds]


def test_sizes_between_the_layers() -> None:
    """Section 1.4, rows Torch, Caffe, MXNet, TF, and section 1.5, floor pools."""
    spatial = ("convolution", "pooling")
    assert sizes("alexnet-s", spatial) == [55, 27, 27, 13, 13, 13, 13, 6]
    assert sizes("alexnet-s@caffe", spatial) == [54, 27, 23, 11, 9, 7, 5, 2]
    assert sizes("alexnet-s@mxnet", spatial) == [54, 26, 24, 11, 11, 5]
    assert sizes("alexnet-s@tensorflow", spatial) == [56, 28, 28, 14, 14, 14, 14, 7]
    assert sizes("alexnet-r", ("pooling",)) == [15, 7, 3]


def test_order_of_pools_and_activations() -> None:
    """Section 1.5: maximum, maximum, average; in the first stage the pool comes first."""
    network = NETWORKS["alexnet-r"]()
    pools = [layer.function for layer in network.layers if layer.kind == "pooling"]  # type: ignore[attr-defined]
    assert pools == ["max", "max", "average"]
    order = [layer.name for layer in network.layers]
    assert order.index("pool1") < order.index("relu1")
    assert order.index("relu3") < order.index("pool3")


@every_network
def test_json_round_trip(name: str) -> None:
    network = NETWORKS[name]()
    back = Network.from_json(json.loads(json.dumps(network.to_json())))
    assert back == network
    assert back.shapes == network.shapes
