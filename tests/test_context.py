"""What is learned from chains: planted traits, and engines that have none."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

import pytest

from kernelprof.chains import CALLS, CHAINS, TO_BE_PREDICTED, calls, chains, images, products
from kernelprof.context import (
    ACTIVATION,
    BATCH_NORM,
    SUM,
    WEIGHTS,
    ChainSamples,
    Context,
    learned,
    misfit,
    traits,
)
from kernelprof.disturbance import WHOLE
from kernelprof.prediction import CallCost
from kernelprof.probes.decompose import Fusion, kernels
from kernelprof.probes.network import INFER, MODES, TRAIN
from kernelprof.probes.networks import CANONICAL
from kernelprof.probes.primitive import FORWARD
from kernelprof.results import Trait
from kernelprof.runfile import StoredKernel

FUSION = Fusion({FORWARD: (("conv2d", "bias"), ("gemm", "bias"))})
CALL_NS, KERNEL_NS = 50_000.0, -2_000.0
ALL = [chain.make() for chain in CHAINS]


def stored(network, mode) -> list[StoredKernel]:
    return [
        StoredKernel(
            place=place,
            layer=kernel.layer,
            primitives=kernel.primitives,
            passes=kernel.passes,
            flop=kernel.flop,
            compute_flop=kernel.compute_flop,
            least_bytes=kernel.least_bytes,
            cold_bytes=0,
            lukewarm=False,
            failure=None,
        )
        for place, kernel in enumerate(kernels(network, network.batch, mode, FUSION))
    ]


@dataclass
class Planted:
    """An engine whose chains take what is planted; tiny ones show nothing but what calls cost."""

    shares: dict[str, float] = field(default_factory=dict)
    noise: float = 0.0
    rounds: int = 12
    off: float = 0.0  # what its larger chains take beside all that, as a share

    def chain(self, network, mode, seed=0) -> ChainSamples:
        draw = random.Random(f"{network.name} {mode} {seed}")
        own = stored(network, mode)
        found = dict(traits(own))
        rounds = {}
        for round_ in range(self.rounds):
            sample = {k.place: 5_000 + k.least_bytes / 10 + k.flop / 50 for k in own}
            shares = {} if network.name.startswith(CALLS) else self.shares
            whole = CALL_NS + sum(
                KERNEL_NS + ns * (1 + shares.get(found.get(place, ""), 0.0))
                for place, ns in sample.items()
            )
            if network.name in TO_BE_PREDICTED:
                whole *= 1 + self.off
            noisy = {p: ns * (1 + self.noise * draw.random()) for p, ns in sample.items()}
            rounds[round_] = {WHOLE: whole * (1 + self.noise * draw.random()), **noisy}
        return ChainSamples(network.name, own, rounds)

    def context(self, mode, seed=0) -> Context:
        return learned([self.chain(network, mode, seed) for network in ALL])


@pytest.mark.parametrize("mode", MODES)
def test_an_engine_without_traits_has_none(mode):
    context = Planted().context(mode)
    assert context.calls.per_call_ns == pytest.approx(CALL_NS, rel=1e-6)
    assert context.calls.per_kernel_ns == pytest.approx(KERNEL_NS, rel=1e-6)
    assert all(abs(trait.share) < 1e-6 for trait in context.traits.values())


@pytest.mark.parametrize(
    ("trait", "share"), [(ACTIVATION, -0.7), (BATCH_NORM, -0.3), (WEIGHTS, 0.8), (SUM, 6.0)]
)
def test_a_planted_trait_is_found_and_no_other(trait, share):
    context = Planted({trait: share}).context(TRAIN)
    assert context.traits[trait].share == pytest.approx(share, abs=1e-6)
    others = [one.share for name, one in context.traits.items() if name != trait]
    assert all(abs(other) < 1e-6 for other in others)


@pytest.mark.parametrize("seed", range(10))
def test_noise_is_no_trait_and_hides_none(seed):
    """Of a per cent or two on every sample."""
    quiet = Planted(noise=0.02).context(TRAIN, seed)
    assert all(abs(trait.share) < 0.4 for trait in quiet.traits.values())
    fused = Planted({ACTIVATION: -0.9}, noise=0.02).context(TRAIN, seed)
    assert fused.traits[ACTIVATION].share == pytest.approx(-0.9, abs=0.4)


def test_more_than_nothing_cannot_be_saved():
    assert Planted({ACTIVATION: -1.5}).context(INFER).traits[ACTIVATION].share == -1


@pytest.mark.parametrize("share", [-3.0, 0.5])
def test_what_fusing_cannot_do_has_another_cause(share):
    assert ACTIVATION not in Planted({ACTIVATION: share}).context(INFER).traits


def test_few_rounds_teach_nothing():
    assert Planted({ACTIVATION: -0.7}, rounds=3).context(INFER).traits == {}


def test_weights_are_updated_in_training_only():
    assert WEIGHTS not in Planted({WEIGHTS: 1.0}).context(INFER).traits


def test_a_prediction_has_what_the_context_adds():
    own = stored(images(), INFER)
    sample = {kernel.place: 1000.0 for kernel in own}
    activations = sum(name == ACTIVATION for _, name in traits(own))
    assert activations == 3  # the fourth follows a matrix product
    trait = Trait(ACTIVATION, -0.5, -0.6, -0.4)
    context = Context(CallCost(7.0, 2.0), {ACTIVATION: trait})
    assert context.ns(own, sample) == 7 + 2 * len(own) - 500 * activations
    assert context.trait_ns(own, sample) == {ACTIVATION: -500 * activations}
    assert context.ns(own, {}) == 7 + 2 * len(own)


def test_the_first_layers_weights_are_not_read_backwards():
    own = stored(products(), TRAIN)
    layers = [own[place].layer for place, name in traits(own) if name == WEIGHTS]
    assert layers == ["fc2", "fc3", "output"]


@pytest.mark.parametrize(("off", "least", "most"), [(0.0, 0.0, 1e-6), (0.05, 0.05, 0.15)])
def test_the_misfit_is_that_of_the_chains_to_be_predicted(off, least, most):
    planted = Planted(off=off)
    own = [planted.chain(network, INFER) for network in ALL]
    plain = [planted.chain(network, INFER) for network in ALL if network.name != "chain-products"]
    context = learned(plain)
    found = misfit(own, [context] * len(own))
    assert found is not None
    assert least <= found <= most


def test_without_chains_nothing_is_known_of_the_misfit():
    assert misfit([], []) is None
    chain = Planted().chain(calls(1), INFER)
    assert misfit([chain], [Context()]) is None


def test_a_run_measures_the_chains_that_its_networks_need():
    names = {name: {chain.name for chain in chains([make()])} for name, make in CANONICAL.items()}
    common = {"chain-calls-1", "chain-calls-2", "chain-calls-4", "chain-products"}
    assert names["fcn-s"] == common
    assert names["lstm"] == common | {"chain-sequence"}
    tiny = {"chain-calls-convolution-1", "chain-calls-convolution-4"}
    images = {"chain-plain", "chain-activated", "chain-images"}
    assert names["alexnet-s"] == common | tiny | images


def test_no_chain_is_a_network_that_is_predicted():
    canonical = [make() for make in CANONICAL.values()]
    assert not {n.name for n in ALL} & {n.name for n in canonical}
    assert not {n.layers for n in ALL} & {n.layers for n in canonical}


def test_tiny_chains_grow_by_equal_steps():
    assert [calls(depth).parameters() for depth in (0, 1, 2)] == [272, 544, 816]
