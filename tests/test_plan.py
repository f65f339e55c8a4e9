"""Plans: groups, their order, and the memory that they need."""

from __future__ import annotations

import dataclasses

import pytest

from kernelprof.chains import chains
from kernelprof.plan import Case, Options, groups, needed_bytes
from kernelprof.probes.network import INFER, MODES, TRAIN
from kernelprof.probes.networks import CANONICAL

OPTIONS = Options(
    networks=tuple(make() for make in CANONICAL.values()),
    engines=("torch",),
    placements=((0,), (0, 1)),
    modes=MODES,
    batches=(),
    quick=False,
    budget_s=60.0,
)
CHAINS = list(chains(OPTIONS.networks))


def planned(**changed):
    return groups(dataclasses.replace(OPTIONS, **changed))


def test_calibration_comes_first_at_each_placement():
    """Just before it is needed: the first result must not wait for placements to come."""
    found = planned()
    for cpus in OPTIONS.placements:
        here = [group for group in found if group.cpus == cpus]
        head, rest = here[: len(CHAINS)], here[len(CHAINS) :]
        assert [group.network for group in head] == CHAINS
        assert [group.calibration for group in here] == [True] * len(head) + [False] * len(rest)
        assert {case.engine for group in head for case in group.cases} == {"torch"}
    assert not found[len(CHAINS)].calibration


def test_light_networks_come_before_heavy_ones():
    rest = [group for group in planned() if not group.calibration]
    assert {group.network.name for group in rest} == set(CANONICAL)
    assert len(rest) == 2 * len(CANONICAL)
    needs = [needed_bytes(group, "numpy") for group in rest]
    assert needs == sorted(needs)
    for first, second in zip(rest[::2], rest[1::2], strict=True):
        assert first.network == second.network
        assert (first.cpus, second.cpus) == OPTIONS.placements


def test_the_reference_is_added_in_kernels_only():
    group = planned()[-1]
    assert group.engines == ["torch", "numpy"]
    assert [(case.mode, case.whole) for case in group.of("torch")] == [(INFER, True), (TRAIN, True)]
    assert [case.whole for case in group.of("numpy")] == [False, False]


def test_a_chosen_reference_is_measured_whole():
    group = planned(engines=("numpy", "torch"))[-1]
    assert group.engines == ["numpy", "torch"]
    assert all(case.whole for case in group.cases)


@pytest.mark.parametrize(
    ("changed", "size"),
    [({}, "batch"), ({"quick": True}, "quick_batch"), ({"batches": (3,), "quick": True}, None)],
)
def test_batches(changed, size):
    for group in planned(**changed):
        wanted = getattr(group.network, size) if size else 3
        if group.calibration:
            wanted = group.network.batch
        assert group.batch == wanted
        assert {case.batch for case in group.cases} == {wanted}


def test_several_batches_are_groups_of_their_own():
    found = [g for g in planned(batches=(64, 8)) if not g.calibration]
    assert {(g.network.name, g.batch) for g in found} == {
        (name, batch) for name in CANONICAL for batch in (8, 64)
    }
    assert len(found) == 2 * 2 * len(CANONICAL)
    needs = [needed_bytes(group, "numpy") for group in found]
    assert needs == sorted(needs)


@pytest.mark.parametrize("changed", [{}, {"batches": (1, 2)}])
def test_no_case_is_planned_twice(changed):
    cases = [case for group in planned(**changed) for case in group.cases]
    assert len(cases) == len(set(cases))


def test_titles():
    assert Case("lstm", "torch", (0, 2), 8, TRAIN).title == (
        "lstm train on torch, batch 8, 2 threads"
    )
    assert Case("lstm", "torch", (5,), 8, TRAIN).title.endswith(" 1 thread")


def group_of(name, **changed):
    own = {"networks": (CANONICAL[name](),), "placements": ((0,),)}
    return groups(dataclasses.replace(OPTIONS, **own, **changed))[-1]


def held_bytes(group):
    """The arrays that a measurement cannot do without: those of each layer, and all weights."""
    network, modes = group.network, {case.mode for case in group.cases}
    arrays = max(
        sum(
            operand.size_bytes
            for layer in network.layers
            for primitive in network.primitives(layer, group.batch, mode)
            for operand in primitive.operands().values()
            if not operand.saved
        )
        for mode in modes
    )
    weights = 4 * network.parameters()
    return arrays + (2 * weights if TRAIN in modes else 0)  # and gradients, and velocity


@pytest.mark.parametrize("name", CANONICAL)
@pytest.mark.parametrize("engine", ["torch", "numpy"])
@pytest.mark.parametrize("modes", [(INFER,), (TRAIN,), MODES])
def test_memory_is_estimated_from_above_and_grows_with_the_batch(name, engine, modes):
    needs = []
    for batch in (1, 2, 64, 1024):
        group = group_of(name, modes=modes, batches=(batch,))
        needs.append(needed_bytes(group, engine))
        assert needs[-1] > held_bytes(group)
    assert needs == sorted(set(needs))


def test_training_needs_more_than_inference():
    for name in CANONICAL:
        infer, train = (needed_bytes(group_of(name, modes=(m,)), "torch") for m in MODES)
        assert train > infer
