"""Ceilings: the loops do what they say, rates are counted right, what is known is kept."""

from __future__ import annotations

import dataclasses
import doctest
import json
import os
import threading
from functools import reduce

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from kernelprof import ceilings as known_ceilings
from kernelprof import machinecode, microkernels, saturation
from kernelprof.ceilings import (
    DRAM,
    BytesCeiling,
    Ceilings,
    FlopCeiling,
    PlacementCeilings,
    Rate,
    load,
    save,
)
from kernelprof.errors import KernelprofError, UsageError
from kernelprof.lockstep import Trace, rates, window_rates
from kernelprof.machine import this_machine, usable_cpus
from kernelprof.microkernels import ARRAYS, BASELINE, COPY, READ, TRAFFIC, TRIAD, UPDATE
from kernelprof.probes.primitive import FLOATS
from kernelprof.reports.machine import machine_json, machine_tables
from kernelprof.saturation import Budget, measure_ceilings, raise_ceilings, working_sets

from .planted_machine import plant, server

CPUS = usable_cpus()
MACHINE = this_machine()
ISAS = microkernels.instruction_sets(MACHINE.isa)
X86 = microkernels.instruction_sets(["sse4_2", "avx", "fma", "avx2", "avx512f"])
ARM = microkernels.instruction_sets(["asimd"])
TRIPLES = {"x86_64-unknown-linux-gnu": X86, "aarch64-unknown-linux-gnu": ARM}
EVERY = [
    pytest.param(triple, isa, dtype, id=f"{triple.split('-')[0]} {isa.name} {dtype}")
    for triple, isas in TRIPLES.items()
    for isa in isas.values()
    for dtype in FLOATS
]
QUICK = Budget(rounds=1, seconds=0.002, window_s=0.001)


# The loops: compiled for every instruction set, also those that this machine has not.


@pytest.mark.parametrize(("triple", "isa", "dtype"), EVERY)
def test_every_loop_is_nothing_but_its_instructions(triple, isa, dtype):
    assembly = machinecode.assembly(microkernels.arithmetic(isa, dtype), triple)
    check = machinecode.checked(assembly, isa, dtype)
    assert check.doubts == ()
    assert check.instructions.startswith(str(isa.accumulators))


@pytest.mark.parametrize("wanted", ["sse", "avx", "avx2", "avx512"])
def test_a_scalar_loop_is_recognised(wanted):
    assembly = machinecode.assembly(
        microkernels.arithmetic(X86["scalar"], "float32"), "x86_64-unknown-linux-gnu"
    )
    check = machinecode.checked(assembly, X86[wanted], "float32")
    assert f"0 instructions instead of 14 are {wanted}" in check.doubts


def test_narrow_vectors_and_other_types_are_recognised():
    triple = "x86_64-unknown-linux-gnu"
    narrow = machinecode.assembly(microkernels.arithmetic(X86["avx2"], "float32"), triple)
    assert machinecode.checked(narrow, X86["avx512"], "float32").doubts
    assert machinecode.checked(narrow, X86["avx2"], "float64").doubts
    assert not machinecode.checked(narrow, X86["avx2"], "float32").doubts


@pytest.mark.parametrize("triple", TRIPLES)
def test_spilled_accumulators_are_recognised(triple):
    """More accumulators than registers: LLVM has to put some on the stack."""
    isa = dataclasses.replace([*TRIPLES[triple].values()][-1], accumulators=40)
    assembly = machinecode.assembly(microkernels.arithmetic(isa, "float32"), triple)
    doubts = machinecode.checked(assembly, isa, "float32").doubts
    assert any("go to the stack" in doubt for doubt in doubts)


PLANTED = """
kernel:
	movq	%rdi, %rax              # outside of the loop anything goes
	je	.LBB0_2
	vmovaps	%zmm1, -64(%rsp)
.LBB0_1:
{body}
	decq	%r9
	jne	.LBB0_1
.LBB0_2:
	retq
"""
FMA = "\tvfmadd231ps\t%zmm2, %zmm1, %zmm3"


def planted_doubts(*body: str) -> tuple[str, ...]:
    assembly = PLANTED.format(body="\n".join(body))
    return machinecode.checked(assembly, X86["avx512"], "float32").doubts


def test_the_check_of_a_planted_loop():
    assert planted_doubts(*[FMA] * 14) == ()
    assert "13 instructions" in planted_doubts(*[FMA] * 13)[0]
    assert "something else too: vaddps" in planted_doubts(*[FMA] * 14, "\tvaddps %xmm1, %xmm2")[0]
    spilled = "\tvmovaps\t%zmm3, -128(%rsp)"
    assert "go to the stack: vmovaps" in planted_doubts(*[FMA] * 14, spilled)[0]
    from_the_stack = "\tvfmadd231ps\t%zmm2, 64(%rsp), %zmm3"
    assert len(planted_doubts(*[FMA] * 13, from_the_stack)) == 2


def test_no_loop_at_all_is_no_ceiling():
    assert machinecode.hot_loop("kernel:\n\tretq\n") == []
    assert machinecode.checked("kernel:\n\tretq\n", X86["sse"], "float32").doubts


def test_instruction_sets_of_a_machine():
    assert list(X86) == ["scalar", "sse", "avx", "avx2", "avx512"]
    assert X86["scalar"].fused
    assert not microkernels.instruction_sets(["sse4_2"])["scalar"].fused
    assert list(microkernels.instruction_sets(["sse4_2", "avx"])) == ["scalar", "sse", "avx"]
    assert microkernels.instruction_sets([]) == {}


# The loops: run, on arrays that tests can look at.


def arrays_of(dtype: str, elements: int, seed: int) -> list[np.ndarray]:
    """Three arrays that start where the widest vectors may start."""
    random = np.random.default_rng(seed)
    found = []
    for _ in range(3):
        raw = np.zeros(elements * np.dtype(dtype).itemsize + 64, np.uint8)
        shift = -raw.ctypes.data % 64
        array = raw[shift : shift + raw.size - 64].view(dtype)
        array[:] = random.integers(1, 100, elements)
        found.append(array)
    return found


def call(kernel, arrays, start, steps):
    addresses = [array.ctypes.data for array in arrays]
    machinecode.compiled(kernel).call(*addresses, arrays[0].nbytes - 1, start, steps)


@pytest.mark.parametrize("isa", [BASELINE, [*ISAS.values()][-1]], ids=lambda isa: isa.name)
@pytest.mark.parametrize("operation", ARRAYS)
def test_a_loop_moves_the_bytes_that_it_counts(operation, isa):
    kernel = microkernels.memory(operation, isa)
    a, b, c = arrays_of("float32", 4096, seed=3)
    before = a.copy()
    words = a.view(np.uint32).copy()
    steps = 5
    touched = steps * kernel.step_bytes // 4
    call(kernel, (a, b, c), a.nbytes - kernel.step_bytes, steps)  # and over the end
    places = (np.arange(touched) - kernel.step_bytes // 4) % a.size
    others = np.setdiff1d(np.arange(a.size), places)
    assert kernel.work * steps == TRAFFIC[operation] * touched * 4
    if operation == READ:
        assert (a == before).all()
        sums = b.view(np.uint32)[: isa.vector_bytes // 4]  # of the last accumulator
        last = words[places].reshape(steps, microkernels.UNROLLED, -1)[:, -1]
        assert (sums == reduce(np.bitwise_xor, last)).all()
        return
    if operation == UPDATE:
        wanted = 3 * b - before
    else:
        wanted = b if operation.startswith(COPY) else b + 3 * c
    assert (a[places] == wanted[places]).all()
    assert (a[others] == before[others]).all()


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("isa", ISAS.values(), ids=lambda isa: isa.name)
def test_arithmetic_does_the_flop_that_it_counts(isa, dtype):
    kernel = microkernels.arithmetic(isa, dtype)
    a, b, c = arrays_of(dtype, 64, seed=5)
    a[:], b[:], c[:] = 1, 2, 3
    steps = 6
    call(kernel, (a, b, c), 0, steps)
    lanes = isa.lanes(dtype)
    # What is stored last is the last accumulator: one of additions, where they are apart.
    assert (a[:lanes] == 1 + steps * (6 if isa.fused else 2)).all()
    assert (a[lanes:] == 1).all()
    assert kernel.work == isa.accumulators * lanes * (2 if isa.fused else 1)


def test_the_clock_is_a_chain_that_nothing_shortens():
    kernel = microkernels.clock()
    loop = machinecode.hot_loop(machinecode.assembly(kernel, "x86_64-unknown-linux-gnu"))
    chain = [line for line in loop if line.startswith(("add", "xor"))]
    assert len(chain) == kernel.work
    assert len({line.split()[-1] for line in chain}) == 1
    assert len(loop) == kernel.work + 2


# Rates.


def trace(start_ns: int, chunk_ns: int, chunks: int, work: int = 10) -> Trace:
    return Trace(start_ns + chunk_ns * np.arange(chunks + 1), work)


def test_rates_are_those_of_the_time_in_which_all_ran():
    fast, slow = trace(0, 1000, 100), trace(50_000, 2000, 100)
    found = window_rates([fast, slow], window_s=1e-5)
    assert len(found) == 5  # 50 of the microseconds
    assert found == pytest.approx([10 / 1e-6 + 10 / 2e-6] * 5)


def test_a_pause_shows():
    marks = [0, 1000, 2000, 12_000, 13_000, 14_000]
    found = window_rates([Trace(np.array(marks), 10)], window_s=2e-6)
    assert found[0] == pytest.approx(1e7)
    assert found[3] == pytest.approx(1e6)


@given(st.lists(st.integers(100, 10_000), min_size=2, max_size=40), st.floats(1e-7, 1e-3))
def test_no_window_is_faster_than_the_fastest_chunk(durations_ns, window_s):
    marks = np.cumsum([0, *durations_ns])
    found = window_rates([Trace(marks, 10)], window_s)
    assert max(found) <= 10 / min(durations_ns) * 1e9 * (1 + 1e-9)
    assert min(found) >= 10 / max(durations_ns) * 1e9 * (1 - 1e-9)


def test_a_rate_is_the_best_window_and_the_median_one():
    assert Rate.of([3.0, 9.0, 1.0, 2.0]) == Rate(9.0, 2.5, 4)


def test_threads_that_never_met_are_refused():
    with pytest.raises(KernelprofError, match="never ran at the same time"):
        window_rates([trace(0, 10, 10), trace(100, 10, 10)], window_s=1e-8)


@pytest.mark.parametrize("operation", ARRAYS)
def test_loops_run_on_all_cpus(operation):
    own = os.sched_getaffinity(0)
    loop = machinecode.compiled(microkernels.memory(operation, BASELINE))
    found = rates(loop, CPUS, 4096, 0.002, 0.001)
    assert min(found) > 0
    assert os.sched_getaffinity(0) == own


def test_a_cpu_that_cannot_be_had_ends_all_threads():
    loop = machinecode.compiled(microkernels.clock())
    before = threading.active_count()
    with pytest.raises(KernelprofError, match="cannot measure on CPUs"):
        rates(loop, (CPUS[0], 77777), 4096, 0.01, 0.001)
    assert threading.active_count() == before


def test_what_no_core_can_do_is_doubted():
    assert not [*known_ceilings.implausible(32e9, clock_hz=1e9, flop_per_cycle=32)]
    (doubt,) = known_ceilings.implausible(64e9, clock_hz=1e9, flop_per_cycle=32)
    assert "64.0 GFLOP/s are more than 32 flop per cycle, 32.0 GFLOP/s" in doubt


# Working sets.


@pytest.fixture
def two_sockets(tmp_path):
    return this_machine(plant(tmp_path, server()))


@pytest.mark.parametrize(
    ("cpus", "shares_kib"),
    [
        ((0,), (32, 1024, 16384)),
        ((0, 1), (32, 1024, 8192)),  # two cores share an L3
        ((0, 2), (32, 1024, 16384)),  # one of each socket
        ((0, 4), (16, 512, 8192)),  # two threads share a core
        ((0, 4, 1), (16, 512, 16384 // 3)),
    ],
)
def test_threads_share_what_they_share(cpus, shares_kib, two_sockets):
    found = working_sets(two_sockets, cpus, free_bytes=2**40)
    assert list(found) == ["L1d", "L2", "L3", DRAM]
    l1d, l2, l3 = (share * 1024 for share in shares_kib)
    assert found["L1d"] == l1d // 2
    assert found["L2"] == pytest.approx((l1d * l2) ** 0.5, rel=1e-3)
    assert found["L3"] == pytest.approx((l2 * l3) ** 0.5, rel=1e-3)


def test_the_dram_is_more_than_caches_hold(two_sockets):
    every = tuple(range(8))
    assert working_sets(two_sockets, every, 2**40)[DRAM] * 8 >= 4 * 2 * 16 * 2**20
    assert working_sets(two_sockets, every, 2**29)[DRAM] * 8 == 2**27  # a quarter of what is free


def test_a_small_last_cache_is_not_mistaken_for_the_one_before(two_sockets):
    """1.25 MiB of L3 behind 1 MiB of L2: half of it would lie in the L2."""
    caches = [
        dataclasses.replace(one, size_bytes=1280 * 2**10) if one.name == "L3" else one
        for one in two_sockets.caches
    ]
    machine = dataclasses.replace(two_sockets, caches=tuple(caches))
    found = working_sets(machine, (0,), 2**40)
    assert 1024 * 2**10 < found["L3"] < 1280 * 2**10


def test_examples_of_saturation():
    failed, attempted = doctest.testmod(saturation)
    assert attempted
    assert not failed


def test_no_caches_to_be_seen(two_sockets):
    machine = dataclasses.replace(two_sockets, caches=())
    assert working_sets(machine, (0,), 2**40) == {DRAM: saturation.LEAST_DRAM_BYTES}


# What is measured, and kept.


@pytest.fixture
def kept(tmp_path, monkeypatch):
    """A folder of its own to keep ceilings in."""
    monkeypatch.setenv("KERNELPROF_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture(scope="module")
def measured():
    """This machine's real ceilings, all loops at all levels, in no time to speak of."""
    told = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(saturation, "LEAST_DRAM_BYTES", 2**22)
        machine = dataclasses.replace(MACHINE, caches=())
        counts = sorted({1, len(CPUS)})
        found = measure_ceilings(
            machine, counts, lambda what, share: told.append((what, share)), QUICK
        )
    return found, told


def test_everything_is_measured(measured):
    found, _ = measured
    assert sorted(found.placements) == sorted({1, len(CPUS)})
    for threads, at in found.placements.items():
        assert at.cpus == CPUS[:threads]
        assert at.clock_hz.best_per_s > 0
        pairs = [(one.isa, one.dtype) for one in at.arithmetic]
        assert pairs == [(isa, dtype) for isa in ISAS for dtype in FLOATS]
        assert [(one.level, one.operation) for one in at.memory] == [(DRAM, op) for op in ARRAYS]
        for one in (*at.arithmetic, *at.memory):
            assert one.rate.best_per_s >= one.rate.median_per_s > 0
            assert one.rate.windows >= 1


def test_loops_of_this_machine_are_what_they_should_be(measured):
    found, _ = measured
    for at in found.placements.values():
        for one in at.arithmetic:
            assert one.loop.startswith(str(ISAS[one.isa].accumulators))
            assert not [doubt for doubt in one.doubts if "flop per cycle" not in doubt]


def test_progress_is_told(measured):
    _, told = measured
    shares = [share for _, share in told]
    assert shares == sorted(shares)
    assert shares[0] == 0
    assert 0.9 < shares[-1] < 1
    assert any(DRAM in what for what, _ in told)


def test_json_there_and_back(measured):
    found, _ = measured
    assert Ceilings.from_json(json.loads(json.dumps(found.to_json()))) == found


def test_it_is_a_table_and_json_for_scripts(measured):
    found, _ = measured
    console = Console(width=100, record=True, file=open(os.devnull, "w"))  # noqa: SIM115
    with console.file:
        console.print(machine_tables(MACHINE, found))
        text = console.export_text()
    for word in (*ISAS, *FLOATS, *ARRAYS, "1 thread", MACHINE.fingerprint, "clock"):
        assert word in text
    assert json.loads(json.dumps(machine_json(MACHINE, found)))["ceilings"]["placements"]["1"]


def planted(
    cpus: tuple[int, ...] = CPUS[:1], flop_per_s: float = 1e11, measured: str = "now"
) -> PlacementCeilings:
    rate = Rate(flop_per_s, flop_per_s / 2, 3)
    return PlacementCeilings(
        cpus=cpus,
        measured=measured,
        clock_hz=Rate(1e9, 1e9, 1),
        arithmetic=(
            FlopCeiling("avx2", "float32", rate, "14 fma"),
            FlopCeiling("sse", "float32", Rate(2e10, 1e10, 1), "14 mul"),
            FlopCeiling("avx512", "float32", Rate(9e11, 3e11, 1), "0 fma", ("not one zmm",)),
        ),
        memory=(
            BytesCeiling("L1d", READ, 100, Rate(1e11, 5e10, 1)),
            BytesCeiling("L2", READ, 1000, Rate(2e10, 1e10, 1)),
            BytesCeiling("L2", TRIAD, 1000, Rate(3e10, 2e10, 1)),
            BytesCeiling(DRAM, READ, 10000, Rate(4e10, 3e10, 1)),  # faster than L2: noise
        ),
        capacity_bytes={"L1d": 200, "L2": 2000},
    )


def test_the_highest_rate_that_can_be_trusted():
    at = planted()
    assert at.flop_per_s("float32") == 1e11
    assert at.flop_per_s("float32", "sse") == 2e10
    assert at.flop_per_s("float32", "avx512") is None
    assert at.flop_per_s("float64") is None


def test_a_near_level_is_as_fast_as_one_behind_it():
    at = planted()
    assert at.bytes_per_s("L1d") == 1e11
    assert at.bytes_per_s("L2") == at.bytes_per_s(DRAM) == 4e10


def test_the_level_that_holds_it():
    at = planted()
    assert [at.level(size) for size in (1, 200, 201, 2000, 2001)] == [
        *("L1d", "L1d", "L2", "L2", DRAM)
    ]


def test_doubts_show():
    console = Console(width=100, record=True, file=open(os.devnull, "w"))  # noqa: SIM115
    with console.file:
        console.print(machine_tables(MACHINE, Ceilings("f", {1: planted()})))
        text = console.export_text()
    assert "900?" in text
    assert "avx512 float32: not one zmm" in text
    assert "The machine was busy" in text


def test_a_thread_count_that_was_not_measured():
    known = Ceilings("f", {1: planted(), 2: planted()})
    assert known.at(2) == known.placements[2]
    with pytest.raises(KernelprofError, match=r"of 3 threads were measured, only of 1, 2; run"):
        known.at(3)


def test_a_summary_for_reports():
    known = Ceilings("f", {2: planted(flop_per_s=2e11), 1: planted()})
    assert known.summary() == {
        "float32_flop_per_s": {"1": 1e11, "2": 2e11},
        "L1d_bytes_per_s": {"1": 1e11, "2": 1e11},
        "L2_bytes_per_s": {"1": 4e10, "2": 4e10},
        "DRAM_bytes_per_s": {"1": 4e10, "2": 4e10},
    }


class Measurer:
    """Stands in for the measurement, and counts."""

    def __init__(self) -> None:
        self.asked: list[list[int]] = []

    def __call__(self, machine, thread_counts, tell):
        self.asked.append(thread_counts)
        when = f"time {len(self.asked)}"
        placed = {count: planted(CPUS[:count], measured=when) for count in thread_counts}
        return Ceilings(machine.fingerprint, placed)


@pytest.mark.usefixtures("kept")
def test_what_is_kept_is_not_measured_again():
    measure = Measurer()
    first = saturation.ceilings(MACHINE, [1], measure=measure)
    assert saturation.ceilings(MACHINE, [1, 1], measure=measure) == first
    assert measure.asked == [[1]]
    assert load(MACHINE.fingerprint) == first
    other = dataclasses.replace(MACHINE, processor="Z80")
    saturation.ceilings(other, [1], measure=measure)
    assert measure.asked == [[1], [1]]
    assert load(MACHINE.fingerprint) == first


@pytest.mark.usefixtures("kept")
def test_only_what_lacks_is_measured():
    if len(CPUS) < 2:
        pytest.skip("2 CPUs are needed")
    measure = Measurer()
    saturation.ceilings(MACHINE, [1], measure=measure)
    found = saturation.ceilings(MACHINE, [1, 2], measure=measure)
    assert measure.asked == [[1], [2]]
    assert {threads: at.measured for threads, at in found.placements.items()} == {
        1: "time 1",
        2: "time 2",
    }


@pytest.mark.usefixtures("kept")
def test_again_measures_anew():
    measure = Measurer()
    saturation.ceilings(MACHINE, [1], measure=measure)
    found = saturation.ceilings(MACHINE, [1], again=True, measure=measure)
    assert measure.asked == [[1], [1]]
    assert found.at(1).measured == "time 2"
    assert load(MACHINE.fingerprint) == found


@pytest.mark.usefixtures("kept")
def test_other_cpus_are_measured_anew():
    measure = Measurer()
    save(Ceilings(MACHINE.fingerprint, {1: planted(cpus=(4711,))}))
    assert saturation.ceilings(MACHINE, [1], measure=measure).at(1).cpus == CPUS[:1]
    assert measure.asked == [[1]]


@pytest.mark.parametrize(
    "content", ["", "{}", "[]", "{", '{"schema": 0, "fingerprint": "", "placements": {}}']
)
def test_a_file_that_cannot_be_read_counts_as_none(content, kept):
    measure = Measurer()
    path = kept / "machines" / f"{MACHINE.fingerprint}.json"
    path.parent.mkdir(parents=True)
    path.write_text(content)
    saturation.ceilings(MACHINE, [1], measure=measure)
    assert measure.asked == [[1]]
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


def test_a_folder_that_cannot_be_written(kept):
    kept.write_text("a file where the folder should be")
    with pytest.raises(KernelprofError, match="cannot keep the ceilings in"):
        save(Ceilings("f", {}))
    assert load("f") == Ceilings("f", {})


@pytest.mark.usefixtures("kept")
def test_more_threads_than_cpus():
    measure = Measurer()
    with pytest.raises(UsageError, match="can be had"):
        saturation.ceilings(MACHINE, [len(CPUS) + 1], measure=measure)
    assert measure.asked == []


def test_schemas_are_told_apart():
    with pytest.raises(ValueError, match="schema 99"):
        Ceilings.from_json({**Ceilings("f", {}).to_json(), "schema": known_ceilings.SCHEMA + 98})


class TestRaised:
    """What was reached once can be reached."""

    def test_the_higher_of_each_rate(self):
        low, high = planted_at(1e11, 2e10), planted_at(0.9e11, 3e10)
        found = low.raised(high)
        assert found.flop_per_s("float32") == 1e11
        assert found.bytes_per_s(DRAM) == 3e10
        assert high.raised(low) == found

    def test_only_the_same_cpus_count(self):
        here, there = planted_at(1e11, 2e10), planted_at(2e11, 2e10, cpus=(1,))
        raised = Ceilings("f", {1: here}).raised(Ceilings("f", {1: there, 2: there}))
        assert raised.placements == {1: here, 2: there}

    def test_it_is_kept(self, tmp_path, monkeypatch):
        monkeypatch.setenv("KERNELPROF_HOME", str(tmp_path))
        machine = this_machine()

        def measured(rate: float):
            known = Ceilings(machine.fingerprint, {1: planted_at(rate, 2e10)})
            return lambda machine, counts, tell: known

        raise_ceilings(machine, [1], measure=measured(2e11))
        assert raise_ceilings(machine, [1], measure=measured(1e11)) == load(machine.fingerprint)
        assert load(machine.fingerprint).at(1).flop_per_s("float32") == 2e11


def planted_at(flop_per_s: float, bytes_per_s: float, cpus=(0,)) -> PlacementCeilings:
    return PlacementCeilings(
        cpus=cpus,
        measured="now",
        clock_hz=Rate(1e9, 1e9, 1),
        arithmetic=(FlopCeiling("avx2", "float32", Rate(flop_per_s, flop_per_s, 1), "fma"),),
        memory=(BytesCeiling(DRAM, "read", 1, Rate(bytes_per_s, bytes_per_s, 1)),),
        capacity_bytes={},
    )
