"""What decides whether a difference is told: its level, the machine's drift, the noise."""

from __future__ import annotations

import math
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernelprof.compare.control import Drift, drift, weighted_median
from kernelprof.compare.noise import LEAST_SCATTER, Noise, Shift
from kernelprof.compare.observed import WHOLE_NETWORK, Call, Part, alike
from kernelprof.compare.significance import levels

PROBABILITIES = st.lists(st.floats(0, 1), min_size=1, max_size=6)
POSITIVE = st.floats(0.01, 100)


def rejected(p_values: list[float], weights: list[float], alpha: float) -> set[int]:
    found = levels(p_values, weights, alpha)
    return {n for n, (p, level) in enumerate(zip(p_values, found, strict=True)) if p <= level}


def closed(p_values: list[float], weights: list[float], alpha: float) -> set[int]:
    """By the closure of weighted Bonferroni tests: true only if every set that holds it is."""
    count = len(p_values)
    sets = [[n for n in range(count) if mask >> n & 1] for mask in range(1, 2**count)]

    def is_rejected(some: list[int]) -> bool:
        left = math.fsum(weights[n] for n in some)
        return any(p_values[n] <= alpha * weights[n] / left for n in some)

    known = [(some, is_rejected(some)) for some in sets]
    return {n for n in range(count) if all(no for some, no in known if n in some)}


@given(PROBABILITIES, st.lists(st.sampled_from([1.0, 2.0, 4.0]), min_size=6, max_size=6))
def test_holms_steps_are_the_closure_of_bonferroni(p: list[float], weights: list[float]) -> None:
    small = [value / 8 for value in p]
    assert rejected(small, weights[: len(p)], 0.1) == closed(small, weights[: len(p)], 0.1)


def test_without_weights_it_is_the_textbooks_holm() -> None:
    p_values = [0.01, 0.04, 0.03, 0.005]
    assert levels(p_values, [1.0] * 4, 0.05) == pytest.approx([0.05 / 3, 0.025, 0.025, 0.0125])
    assert rejected(p_values, [1.0] * 4, 0.05) == {0, 3}


def test_hardly_anything_is_rejected_where_nothing_changed() -> None:
    """Twelve dependent tests, four thousand times: any rejection counts."""
    random = np.random.default_rng(3)
    alpha, weights = 0.1, [1.0, *(0.2,) * 11]
    alarms = 0
    for _ in range(4000):
        common = random.standard_normal()
        z = (random.standard_normal(12) + common) / math.sqrt(2)
        p_values = [0.5 * math.erfc(value / math.sqrt(2)) for value in z]
        alarms += bool(rejected(p_values, weights, alpha))
    assert alarms / 4000 <= alpha + 3 * math.sqrt(alpha * (1 - alpha) / 4000)


@given(st.lists(st.floats(-10, 10), min_size=1, max_size=9), POSITIVE)
def test_of_equal_weights_it_is_the_median(values: list[float], weight: float) -> None:
    found = weighted_median(values, [weight] * len(values))
    assert found == pytest.approx(float(np.median(values)), abs=1e-9)


@given(st.lists(st.tuples(st.floats(-10, 10), POSITIVE), min_size=1, max_size=9))
def test_no_more_than_half_of_the_weight_lies_on_either_side(
    items: list[tuple[float, float]],
) -> None:
    values, weights = [v for v, _ in items], [w for _, w in items]
    found = weighted_median(values, weights)
    for side in (
        [w for v, w in items if v < found - 1e-9],
        [w for v, w in items if v > found + 1e-9],
    ):
        assert sum(side) <= sum(weights) / 2 + max(weights) / 2 + 1e-9
    assert min(values) - 1e-9 <= found <= max(values) + 1e-9


def kernels(shifts: list[float], level: float = 10.0) -> list[tuple[list[float], list[float]]]:
    return [([level], [level + shift]) for shift in shifts]


def test_a_drift_of_all_kernels_is_known_exactly() -> None:
    found = drift(kernels([0.1] * 8))
    assert found is not None
    assert (found.value, found.error) == (pytest.approx(0.1), pytest.approx(0))
    assert found.removed == pytest.approx(0.1)


def test_one_kernel_that_changed_is_no_drift() -> None:
    found = drift(kernels([0.001, -0.001, 0.0, 0.002, -0.002, 0.0, 3.0]))
    assert found is not None
    assert abs(found.value) < 0.002


def test_few_kernels_tell_no_drift() -> None:
    assert drift(kernels([0.1] * 4)) is None


@given(st.floats(-1, 1), st.floats(0, 1))
def test_what_is_taken_out_lies_between_nothing_and_the_drift(value: float, error: float) -> None:
    removed = Drift(value, error).removed
    assert abs(removed) <= abs(value)
    assert removed * value >= 0
    if abs(value) <= error:
        assert removed == 0


def test_the_error_of_a_drift_is_that_of_simulations() -> None:
    random = np.random.default_rng(5)
    found = [drift(kernels(list(0.01 * random.standard_normal(25)))) for _ in range(400)]
    values = [one.value for one in found if one]
    errors = [one.error for one in found if one]
    assert np.mean(errors) == pytest.approx(np.std(values), rel=0.15)


def shifts(
    random: np.random.Generator, count: int, scatter: float, processes: int = 3
) -> list[Shift]:
    sides = [scatter * random.standard_normal((2, processes)) + 10 for _ in range(count)]
    return [Shift(tuple(a), tuple(b), True, "family") for a, b in sides]


@pytest.mark.parametrize("processes", [1, 2, 5])
def test_noise_is_what_was_planted(processes: int) -> None:
    random = np.random.default_rng(7)
    found = shifts(random, 400, 0.03, processes)
    noise = Noise(found)
    assert noise.typical(found[0]) == pytest.approx(0.03, rel=0.1)
    errors = [noise.error(one)[0] for one in found]
    assert np.sqrt(np.mean(np.square(errors))) == pytest.approx(
        np.std([one.value for one in found]), rel=0.12
    )


def test_a_part_that_changed_does_not_make_the_others_noisy() -> None:
    random = np.random.default_rng(8)
    calm = shifts(random, 20, 0.01)
    moved = Shift((10.0, 10.0, 10.0), (11.0, 11.0, 11.0), True, "family")
    assert Noise([*calm, moved]).typical(calm[0]) == pytest.approx(
        Noise(calm).typical(calm[0]), rel=0.2
    )


def test_a_part_that_scatters_by_itself_is_known_less_well() -> None:
    random = np.random.default_rng(9)
    calm = shifts(random, 20, 0.01)
    wild = Shift((9.8, 10.0, 10.2), (9.8, 10.0, 10.2), True, "family")
    noise = Noise([*calm, wild])
    assert noise.error(wild)[0] > 5 * noise.error(calm[0])[0]


def test_parts_like_it_tell_how_a_part_scatters() -> None:
    """Small ones scatter by a tenth, large ones by a hundredth."""
    random = np.random.default_rng(10)
    large = shifts(random, 15, 0.01)
    small = [
        Shift(tuple(v - 8 for v in one.before), tuple(v - 8 for v in one.after), True, "small")
        for one in shifts(random, 15, 0.1)
    ]
    noise = Noise([*large, *small])
    assert noise.typical(large[0]) < 0.02
    assert noise.typical(small[0]) > 0.05


def test_without_any_scatter_there_is_still_some() -> None:
    still = [Shift((10.0,), (10.0,), True, "family")] * 6
    assert Noise(still).typical(still[0]) == LEAST_SCATTER


@pytest.mark.parametrize("processes", [1, 3])
def test_equal_parts_are_rarely_told_apart(processes: int) -> None:
    """Of the t values of thousand simulations few are beyond the quantile of their freedoms."""
    from scipy import stats

    random = np.random.default_rng(11)
    beyond = 0
    for _ in range(1000):
        found = shifts(random, 12, 0.02, processes)
        noise = Noise(found)
        error, freedom = noise.error(found[0])
        beyond += found[0].value / error > stats.t.isf(0.02, freedom)
    assert beyond <= 20 + 3 * math.sqrt(20)


def part(*calls: dict[int, tuple[float, float]]) -> Part:
    some = tuple({r: Call(ns, faults) for r, (ns, faults) in one.items()} for one in calls)
    return Part(some, True, {})


def test_a_level_is_the_sum_of_lower_quartiles() -> None:
    random = np.random.default_rng(12)
    ns = random.random((2, 9)) * 1000 + 1000
    found = part(*({r: (value, 0.0) for r, value in enumerate(own)} for own in ns))
    expected = sum(sorted(own)[2] for own in ns)  # of nine values the third is the quartile
    assert found.level() == pytest.approx(math.log(expected))
    assert found.level({100}) is None
    one = part({r: (value, 0.0) for r, value in enumerate(ns[0])})
    assert one.level({3}) == pytest.approx(math.log(ns[0][3]))


def test_only_rounds_in_the_same_state_of_the_allocator_are_held_against_each_other() -> None:
    mixed = part({r: (2e7, 8192.0) if r < 4 else (1e7, 0.0) for r in range(9)})
    fresh = part(dict.fromkeys(range(9), (20000000.0, 8192.0)))
    steady = part(dict.fromkeys(range(9), (10000000.0, 3.0)))
    for other, level in ((fresh, 2e7), (steady, 1e7)):
        for pair in permutations((mixed, other)):
            assert [one.level() for one in alike(*pair)] == pytest.approx([math.log(level)] * 2)
    changed = alike(fresh, steady)  # no state in common: that is the change
    assert [one.level() for one in changed] == pytest.approx([math.log(2e7), math.log(1e7)])


def test_the_whole_network_has_no_layers_name() -> None:
    assert not WHOLE_NETWORK
