"""Kernels of a network: nothing lost, in an order that can run, results held while they are read.

The flow of values is followed here by a simulation of its own, operand by operand.
"""

from __future__ import annotations

import pytest

from kernelprof.probes.decompose import Fusion, Kernel, kernels
from kernelprof.probes.layers import Layer
from kernelprof.probes.network import MODES, Builder, Network
from kernelprof.probes.networks import NETWORKS
from kernelprof.probes.primitive import (
    BACKWARD_DATA,
    BACKWARD_WEIGHTS,
    FORWARD,
    UPDATE,
    Primitive,
    product,
)
from kernelprof.probes.primitives import PRIMITIVES

WITH_BIAS = (("conv2d", "bias"), ("gemm", "bias"))
FUSIONS = {
    "nothing": Fusion(),
    "torch": Fusion({FORWARD: WITH_BIAS, BACKWARD_WEIGHTS: WITH_BIAS}, ("lstm_cell",)),
    "forward": Fusion({FORWARD: WITH_BIAS}),
    "weights": Fusion({BACKWARD_WEIGHTS: WITH_BIAS}),
    "joint": Fusion({}, tuple(PRIMITIVES)),
    "joint products": Fusion(
        {FORWARD: WITH_BIAS, BACKWARD_DATA: WITH_BIAS, BACKWARD_WEIGHTS: WITH_BIAS},
        ("gemm", "conv2d", "lstm_cell"),
    ),
}


def residual() -> Network:
    """Forks, joins, a layer that nobody trains before the first, and one that inference skips."""
    net = Builder()
    x = net.convolution("stem", net.input(3, 8, 6), 4, kernel=3, padding=1)
    y = net.relu("bend", net.convolution("left", x, 4, kernel=1, bias=False))
    x = net.add("join", net.batch_norm("norm", y), x)
    y = net.dropout("drop", net.convolution("second", x, 4, kernel=1))
    x = net.add("join2", x, net.relu("bend2", y))
    x = net.pool("pool", net.add("join3", x, net.lrn("lrn", x)), "max", 2, 2)
    net.softmax_loss(net.fully_connected("classes", x, 5))
    return Network("residual", "made up", tuple(net.layers), 4, 2, momentum=0.9)


def plain() -> Network:
    """Nothing is trained before the first layer, though something is computed."""
    net = Builder()
    x = net.relu("early", net.input(3, 8, 6))
    x = net.pool("pool", net.convolution("conv", x, 4, kernel=3), "average", 2, 2)
    net.softmax_loss(net.fully_connected("classes", net.dropout("drop", x), 5))
    return Network("plain", "made up", tuple(net.layers), 4, 2)


def recurrent() -> Network:
    """The LSTM is the first layer: its input needs no gradient."""
    net = Builder()
    x = net.lstm("second", net.lstm("first", net.input(4, 3), 5), 6)
    net.softmax_loss(net.fully_connected("classes", x, 7))
    return Network("recurrent", "made up", tuple(net.layers), 4, 2)


def attending() -> Network:
    """Attention to another sequence, which is the data itself and branches three times."""
    net = Builder()
    data = net.input(5, 6)
    query = net.fully_connected("query", net.gelu("bend", data), 8)
    key, value = (net.fully_connected(name, data, 8) for name in ("key", "value"))
    x = net.add("join", net.attention("attention", query, key, value, head_size=4), query)
    net.softmax_loss(net.fully_connected("classes", net.layer_norm("norm", x), 7))
    return Network("attending", "made up", tuple(net.layers), 4, 2)


CASES = {
    **NETWORKS,
    "residual": residual,
    "plain": plain,
    "recurrent": recurrent,
    "attending": attending,
}

every_network = pytest.mark.parametrize("name", CASES)
every_mode = pytest.mark.parametrize("mode", MODES)
every_fusion = pytest.mark.parametrize("fusion", FUSIONS.values(), ids=FUSIONS)


class Flow:
    """Runs kernels in order and says which earlier results each of them reads.

    It raises a KeyError where a kernel reads what no earlier one has left.
    """

    def __init__(self, network: Network, batch: int, mode: str) -> None:
        self.network = network
        self.primitives = {
            layer.name: network.primitives(layer, batch, mode) for layer in network.layers
        }
        self.values: dict[tuple[str, int, str], int] = {}  # what was computed -> by which kernel
        self.sums: dict[str, list[int]] = {}  # layer -> kernels that summed its gradients

    def read_by(self, place: int, kernel: Kernel) -> set[int]:
        """The places of the kernels whose results this one reads; its own are kept from now on."""
        layer = self.network.layer(kernel.layer)
        if kernel.passes == (UPDATE,):
            return {
                self.values[layer.name, member, f"d{name}"]
                for member, primitive in enumerate(self.primitives[layer.name])
                for name in primitive.parameters
            }
        if not kernel.members:
            return self._sum(place, layer)
        chain = list(zip(kernel.members, kernel.primitives, strict=True))
        if kernel.passes != (FORWARD,):
            chain.reverse()
        read = set()
        for member, primitive in chain:
            for pass_ in (p for p in kernel.passes if p in primitive.passes):
                for name in primitive.reads[pass_]:
                    read |= self._sources(layer, member, primitive, name)
                written = primitive.writes[pass_]
                self.values.update({(layer.name, member, name): place for name in written})
        return read - {place}

    def _sum(self, place: int, layer: Layer) -> set[int]:
        done = self.sums.setdefault(layer.name, [])
        arrived = self._arrived(layer)
        read = {done[-1] if done else arrived[0], arrived[len(done) + 1]}
        done.append(place)
        return read

    def _sources(self, layer: Layer, member: int, primitive: Primitive, name: str) -> set[int]:
        """Who computed an operand; nobody if it is data, a parameter or a label."""
        if name == f"d{primitive.output}":
            return {self._gradient(layer, member)}
        if name == primitive.input and member:
            before = self.primitives[layer.name][member - 1]
            return {self.values[layer.name, member - 1, before.output]}
        if name == primitive.input:
            return self._outputs(layer.inputs[:1])
        if name == primitive.second_input and not member:
            return self._outputs(layer.inputs[1:])
        written = {operand for names in primitive.writes.values() for operand in names}
        return {self.values[layer.name, member, name]} if name in written else set()

    def _outputs(self, names: tuple[str, ...]) -> set[int]:
        """Who computed the outputs of layers; one that is skipped hands its input on."""
        found = set()
        for name in names:
            chain = self.primitives[name]
            if chain:
                found.add(self.values[name, len(chain) - 1, chain[-1].output])
            else:
                found |= self._outputs(self.network.layer(name).inputs)
        return found

    def _gradient(self, layer: Layer, member: int) -> int:
        """Who computed the gradient of a member's output."""
        for later, primitive in enumerate(self.primitives[layer.name]):
            if later > member and BACKWARD_DATA in primitive.passes:
                return self.values[layer.name, later, f"d{primitive.input}"]
        arrived = self._arrived(layer)
        done = self.sums.get(layer.name, [])
        assert len(done) == len(arrived) - 1, f"gradients of {layer.name} are not summed"
        return done[-1] if done else arrived[0]

    def _arrived(self, layer: Layer) -> list[int]:
        """Who computed the gradients that the readers of a layer's output hand back to it."""
        return [self._gradient_of_input(reader) for reader in self.network.consumers(layer.name)]

    def _gradient_of_input(self, layer: Layer) -> int:
        return self._gradient(layer, -1)


def follow(network: Network, found: list[Kernel]) -> None:
    flow = Flow(network, 2, "train")
    for place, kernel in enumerate(found):
        flow.read_by(place, kernel)


def test_flow_refuses_what_cannot_run() -> None:
    """The simulation itself can fail: on a pass too early, and on a sum left out."""
    found = list(kernels(residual(), 2, "train", FUSIONS["nothing"]))
    follow(residual(), found)
    with pytest.raises(KeyError):
        follow(residual(), found[::-1])
    with pytest.raises(AssertionError, match="are not summed"):
        follow(residual(), [k for k in found if k.members or k.passes == (UPDATE,)])


@every_fusion
@every_mode
@every_network
def test_flop_are_conserved(name: str, mode: str, fusion: Fusion) -> None:
    network = CASES[name]()
    found = kernels(network, 3, mode, fusion)
    assert sum(kernel.compute_flop for kernel in found) == network.flop(3, mode)
    assert all(kernel.flop >= kernel.compute_flop for kernel in found)


@every_fusion
@every_mode
@every_network
def test_every_pass_of_every_primitive_is_in_one_kernel(
    name: str, mode: str, fusion: Fusion
) -> None:
    network = CASES[name]()
    wanted = [
        (layer.name, member, pass_)
        for layer in network.layers
        for member, primitive in enumerate(network.primitives(layer, 3, mode))
        for pass_ in network.passes(layer, primitive, mode)
    ]
    found = [
        (kernel.layer, member, pass_)
        for kernel in kernels(network, 3, mode, fusion)
        for member, primitive in zip(kernel.members, kernel.primitives, strict=False)
        for pass_ in kernel.passes
        if pass_ in primitive.passes
    ]
    assert sorted(found) == sorted(wanted)


@every_fusion
@every_mode
@every_network
def test_results_live_as_long_as_they_are_read(name: str, mode: str, fusion: Fusion) -> None:
    """Each is dropped once, and never before its last reader; what an update leaves, never."""
    network = CASES[name]()
    found = kernels(network, 3, mode, fusion)
    flow = Flow(network, 3, mode)
    dropped: set[int] = set()
    for place, kernel in enumerate(found):
        read = flow.read_by(place, kernel)
        gone = [(found[other].layer, found[other].passes) for other in sorted(read & dropped)]
        assert not gone, f"{kernel.layer} {kernel.label} reads what was dropped"
        assert not dropped & set(kernel.releases)
        assert max(kernel.releases, default=place) <= place
        dropped.update(kernel.releases)
    assert dropped == {place for place, kernel in enumerate(found) if kernel.passes != (UPDATE,)}


def positions(network: Network, found: tuple[Kernel, ...], wanted: str) -> list[int]:
    """The places in the network of the layers whose kernels run a pass, in running order."""
    names = [layer.name for layer in network.layers]
    return [names.index(k.layer) for k in found if wanted in k.passes and k.members]


@every_fusion
@every_network
def test_order_is_forwards_backwards_updates(name: str, fusion: Fusion) -> None:
    network = CASES[name]()
    found = kernels(network, 3, "train", fusion)
    forward, data = positions(network, found, FORWARD), positions(network, found, BACKWARD_DATA)
    assert forward == sorted(forward)
    assert data == sorted(data, reverse=True)
    phases = [
        2 if kernel.passes == (UPDATE,) else int(kernel.passes != (FORWARD,) or not kernel.members)
        for kernel in found
    ]
    assert phases == sorted(phases)


@every_fusion
@every_network
def test_updates_change_every_parameter_once(name: str, fusion: Fusion) -> None:
    network = CASES[name]()
    updates = [k for k in kernels(network, 3, "train", fusion) if k.passes == (UPDATE,)]
    updated = {k.layer: sum(product(p.operand("w").shape) for p in k.primitives) for k in updates}
    assert len(updated) == len(updates)
    assert sum(updated.values()) == network.parameters()
    assert all(updated[layer] == network.parameters(network.layer(layer)) for layer in updated)
    momenta = {primitive.momentum for k in updates for primitive in k.primitives}  # type: ignore[attr-defined]
    assert momenta == {network.momentum}


@pytest.mark.parametrize(
    ("name", "first"),
    [
        ("fcn-s", "fc1"),
        ("fcn-r", "fc1"),
        ("alexnet-s", "conv1"),
        ("alexnet-r", "conv1"),
        ("plain", "conv"),
        ("residual", "stem"),
    ],
)
@every_fusion
def test_first_layer_has_no_data_pass(name: str, first: str, fusion: Fusion) -> None:
    found = kernels(CASES[name](), 3, "train", fusion)
    passes = {pass_ for kernel in found if kernel.layer == first for pass_ in kernel.passes}
    assert passes == {FORWARD, BACKWARD_WEIGHTS, UPDATE}
    later = {kernel.layer for kernel in found if BACKWARD_DATA in kernel.passes}
    assert later
    assert not later & {first, "early"}


@every_fusion
def test_first_lstm_has_a_data_pass(fusion: Fusion) -> None:
    """Its weights pass reads the gradients of the gates, which the data pass leaves."""
    found = kernels(recurrent(), 3, "train", fusion)
    passes = [kernel.passes for kernel in found if kernel.layer == "first"]
    joint = "lstm_cell" in fusion.joint_passes
    backward = (
        [(BACKWARD_DATA, BACKWARD_WEIGHTS)] if joint else [(BACKWARD_DATA,), (BACKWARD_WEIGHTS,)]
    )
    assert passes == [(FORWARD,), *backward, (UPDATE,)]


def test_gradients_of_forks_are_summed() -> None:
    """One sum fewer than readers, of the output's size, before the layer's own backward pass."""
    found = kernels(residual(), 3, "train", FUSIONS["torch"])
    sums = [kernel for kernel in found if not kernel.members and kernel.passes == (FORWARD,)]
    assert [kernel.layer for kernel in sums] == ["join2", "join", "stem"]
    elements = product(residual().shapes["stem"])
    assert {kernel.label for kernel in sums} == {f"add {3 * elements} forward"}
    (backward,) = [
        place
        for place, kernel in enumerate(found)
        if kernel.layer == "stem" and BACKWARD_WEIGHTS in kernel.passes
    ]
    assert found.index(sums[-1]) < backward


def test_data_that_branches_has_no_gradients_to_sum() -> None:
    """Nothing before the projections is trained; the queries, read twice, have one sum."""
    found = kernels(attending(), 3, "train", FUSIONS["torch"])
    sums = [kernel for kernel in found if not kernel.members and kernel.passes == (FORWARD,)]
    assert [kernel.layer for kernel in sums] == ["query"]


def test_forward_only_in_inference() -> None:
    found = kernels(residual(), 3, "infer", FUSIONS["torch"])
    assert {kernel.passes for kernel in found} == {(FORWARD,)}
    assert not {"drop", "loss"} & {kernel.layer for kernel in found}


def test_kernels_of_a_small_network_are_those_on_paper() -> None:
    """Convolution with bias, average pool, dropout, product with bias, loss; torch's fusion."""
    found = kernels(plain(), 2, "train", FUSIONS["torch"])
    assert [(k.layer, tuple(p.kind for p in k.primitives), k.passes) for k in found] == [
        ("early", ("activation",), (FORWARD,)),
        ("conv", ("conv2d", "bias"), (FORWARD,)),
        ("pool", ("pool2d",), (FORWARD,)),
        ("drop", ("dropout",), (FORWARD,)),
        ("classes", ("gemm", "bias"), (FORWARD,)),
        ("loss", ("softmax_loss",), (FORWARD,)),
        ("loss", ("softmax_loss",), (BACKWARD_DATA,)),
        ("classes", ("gemm",), (BACKWARD_DATA,)),
        ("classes", ("gemm", "bias"), (BACKWARD_WEIGHTS,)),
        ("drop", ("dropout",), (BACKWARD_DATA,)),
        ("pool", ("pool2d",), (BACKWARD_DATA,)),
        ("conv", ("conv2d", "bias"), (BACKWARD_WEIGHTS,)),
        ("conv", ("sgd_update", "sgd_update"), (UPDATE,)),
        ("classes", ("sgd_update", "sgd_update"), (UPDATE,)),
    ]
    conv = found[1]
    assert conv.flop == conv.compute_flop + 2 * 4 * 6 * 4
    assert conv.least_bytes == sum(p.least_bytes(FORWARD) for p in conv.primitives)
    assert conv.label == "conv2d 2x3x8x6 to 4, 3x3 + bias 2x4x24 forward"
