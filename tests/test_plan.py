"""Plans: groups, their order, and the memory that they need."""

from __future__ import annotations

import dataclasses

import pytest

from kernelprof.plan import CALIBRATION_DEPTHS, Case, Options, chain, groups, needed_bytes
from kernelprof.probes.network import INFER, MODES, TRAIN
from kernelprof.probes.networks import CANONICAL

OPTIONS = Options(
    networks=tuple(CANONICAL),
    engines=("torch",),
    placements=((0,), (0, 1)),
    modes=MODES,
    batch=None,
    quick=False,
    budget_s=60.0,
)
ALL = [make() for make in CANONICAL.values()]


def planned(**changed):
    return groups(dataclasses.replace(OPTIONS, **changed), ALL)


def test_calibration_comes_first_at_each_placement():
    """Just before it is needed: the first result must not wait for placements to come."""
    found = planned()
    for cpus in OPTIONS.placements:
        here = [group for group in found if group.cpus == cpus]
        head, rest = here[: len(CALIBRATION_DEPTHS)], here[len(CALIBRATION_DEPTHS) :]
        assert [group.network.name for group in head] == [f"chain-{n}" for n in CALIBRATION_DEPTHS]
        assert [group.calibration for group in here] == [True] * len(head) + [False] * len(rest)
        assert {case.engine for group in head for case in group.cases} == {"torch"}
    assert not found[len(CALIBRATION_DEPTHS)].calibration


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
    [({}, "batch"), ({"quick": True}, "quick_batch"), ({"batch": 3, "quick": True}, None)],
)
def test_batches(changed, size):
    for group in planned(**changed):
        wanted = getattr(group.network, size) if size else 3
        if group.calibration:
            wanted = 16
        assert group.batch == wanted
        assert {case.batch for case in group.cases} == {wanted}


def test_no_case_is_planned_twice():
    cases = [case for group in planned() for case in group.cases]
    assert len(cases) == len(set(cases))


def test_titles():
    assert Case("lstm", "torch", (0, 2), 8, TRAIN).title == (
        "lstm train on torch, batch 8, 2 threads"
    )
    assert Case("lstm", "torch", (5,), 8, TRAIN).title.endswith(" 1 thread")


def group_of(name, **changed):
    chosen = dataclasses.replace(OPTIONS, placements=((0,),), **changed)
    return groups(chosen, [CANONICAL[name]()])[-1]


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
        group = group_of(name, modes=modes, batch=batch)
        needs.append(needed_bytes(group, engine))
        assert needs[-1] > held_bytes(group)
    assert needs == sorted(set(needs))


def test_training_needs_more_than_inference():
    for name in CANONICAL:
        infer, train = (needed_bytes(group_of(name, modes=(m,)), "torch") for m in MODES)
        assert train > infer


def test_chains_grow_by_equal_steps():
    flop = [chain(depth).flop(16, TRAIN) for depth in CALIBRATION_DEPTHS]
    parameters = [chain(depth).parameters() for depth in CALIBRATION_DEPTHS]
    assert parameters == [depth * (16 * 16 + 16) for depth in CALIBRATION_DEPTHS]
    assert flop == sorted(set(flop))
