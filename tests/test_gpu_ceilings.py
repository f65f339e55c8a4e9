"""Ceilings of a GPU: found as they are on a card of known truth, kept by card, shown, and bounding.

The card is a stand-in with a clock of its own: a call takes it as long as its rates say, so what is
measured can be held against them.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from kernelprof import ceilings as known_ceilings
from kernelprof.ceilings import DRAM, Ceilings, PlacementCeilings, Rate
from kernelprof.engines import Environment
from kernelprof.errors import KernelprofError, WorkerError
from kernelprof.gpu import ceilings as gpu_ceilings
from kernelprof.gpu import devices
from kernelprof.gpu.devices import GpuDevice
from kernelprof.gpu.samples import GpuReading
from kernelprof.machine import fingerprint_with, this_machine
from kernelprof.probes import gpu_ceilings as probe
from kernelprof.probes.compute_bound import Gemm
from kernelprof.probes.device import HOST, DeviceArrays, Stream
from kernelprof.probes.engine import Engine, Unsupported
from kernelprof.probes.gpu_ceilings import ARRAYS, Budget, measure
from kernelprof.reports.machine import machine_json, machine_tables
from kernelprof.roofline import attainable

from .fake_nvml import Card, FakeNvml

GIB = 2**30
L2_BYTES = 50 * 2**20
RATES = {"float32": 5e13, "tf32": 4e14, "float16": 8e14, "bfloat16": 8e14, "float64": 6e13}
L2_BYTES_PER_S, DRAM_BYTES_PER_S = 6e12, 3e12
LAUNCH_NS, GRAPH_LAUNCH_NS = 4_000, 1_000  # between kernels: handed over one by one, or replayed
ANSWER_NS = 8_000
QUICK = Budget(rounds=2, windows=2)
MACHINE = this_machine()


@dataclass
class Truth:
    """What the stand-in can do, and its clock."""

    rates: dict[str, float] = field(default_factory=lambda: dict(RATES))
    l2_bytes: int = L2_BYTES
    free_bytes: int = 70 * GIB
    small_products: float = 0.5  # of the rate: those below 8192 do not fill the card
    warm_from: int = 10**9  # of its windows: from then on it is slower by half
    broken: tuple[str, ...] = ()
    records: bool = True
    now_ns: float = 0.0
    launch_ns: int = LAUNCH_NS
    calls: int = 0

    def work(self, ns: float) -> None:
        self.calls += 1
        slower = 1.5 if self.calls > self.warm_from else 1.0
        self.now_ns += max(ns * slower, self.launch_ns)


class KnownStream(Stream):
    """A stream whose time goes on by what is handed over."""

    def __init__(self, truth: Truth) -> None:
        self.truth = truth

    def mark(self) -> float:
        return self.truth.now_ns

    def elapsed_ns(self, first: Any, last: Any) -> int:
        return round(last - first)

    def finish(self) -> None:
        pass

    def graph(self, call: Callable[[], Any], calls: int) -> Callable[[], object]:
        if not self.truth.records:
            raise Unsupported("cannot record")

        def replay() -> None:
            self.truth.launch_ns, before = GRAPH_LAUNCH_NS, self.truth.launch_ns
            for _ in range(calls):
                call()
            self.truth.launch_ns = before

        return replay


@dataclass(frozen=True)
class Handle:
    """An array that is only its size."""

    rows: int
    columns: int
    dtype: str

    @property
    def size_bytes(self) -> int:
        return self.rows * self.columns * probe.ITEM_BYTES[self.dtype]


class KnownArrays(DeviceArrays):
    """Arrays without data, whose operations take as long as they should."""

    def __init__(self, truth: Truth) -> None:
        self.truth = truth
        self.dtypes = tuple(truth.rates)
        self.l2_bytes, self.free_bytes = truth.l2_bytes, truth.free_bytes

    def random(self, rows: int, columns: int, dtype: str) -> Handle:
        if dtype in self.truth.broken:
            raise RuntimeError(f"no {dtype} here")
        found = Handle(rows, columns, dtype)
        assert found.size_bytes <= self.truth.free_bytes / 3
        return found

    def product(self, dtype: str, a: Handle, b: Handle, out: Handle) -> None:
        assert a.columns == b.rows
        assert (a.rows, b.columns) == (out.rows, out.columns)
        assert {a.dtype, b.dtype, out.dtype} == {dtype}
        share = 1.0 if a.rows >= 8192 else self.truth.small_products
        self.truth.work(
            2 * a.rows * a.columns * b.columns / (self.truth.rates[dtype] * share) * 1e9
        )

    def read(self, a: Handle) -> None:
        self._move(a)

    def write(self, a: Handle) -> None:
        self._move(a)

    def copy(self, source: Handle, target: Handle) -> None:
        self._move(source, target)

    def triad(self, a: Handle, b: Handle, out: Handle) -> None:
        self._move(a, b, out)

    def _move(self, *arrays: Handle) -> None:
        assert len({array.size_bytes for array in arrays}) == 1
        moved = sum(array.size_bytes for array in arrays)
        rate = L2_BYTES_PER_S if moved <= self.truth.l2_bytes else DRAM_BYTES_PER_S
        self.truth.work(moved / rate * 1e9)


class KnownEngine(Engine):
    """An engine on the stand-in; what it does outside of its scope fails."""

    def __init__(self, truth: Truth) -> None:
        self.truth = truth
        self.stream = KnownStream(truth)

    def scope(self, training: bool) -> AbstractContextManager[object]:
        assert not training
        return nullcontext()

    def arrays(self) -> DeviceArrays:
        return KnownArrays(self.truth)


def measured(truth: Truth, budget: Budget = QUICK) -> dict[str, Any]:
    """What a worker says that has such a card, as it comes over the wire."""
    return dict(json.loads(json.dumps(measure(KnownEngine(truth), budget))))


@pytest.fixture
def card(monkeypatch) -> GpuDevice:
    """The card, as its driver tells of it."""
    monkeypatch.setattr(devices, "pynvml", FakeNvml(Card()))
    (found,) = devices.gpus()
    return replace(found, sms=132, l2_bytes=L2_BYTES)


@pytest.fixture
def kept(tmp_path, monkeypatch) -> None:
    """A folder of its own for what is kept."""
    monkeypatch.setattr(known_ceilings, "home", lambda: tmp_path)


def silent(what: str, share: float) -> None:
    pass


# What the worker measures.


def test_the_rates_are_those_of_the_card():
    found = measured(Truth())
    best = dict.fromkeys(RATES, 0.0)
    for dtype, _, rates in found["arithmetic"]:
        best[dtype] = max(best[dtype], *rates)
    assert best == pytest.approx(RATES, rel=1e-3)
    assert {tuple(row[:2]) for row in found["memory"]} == {
        (level, operation) for level in ("L2", DRAM) for operation in ARRAYS
    }
    for level, _, size_bytes, rates in found["memory"]:
        truth = L2_BYTES_PER_S if level == "L2" else DRAM_BYTES_PER_S
        assert rates == pytest.approx([truth] * len(rates), rel=1e-3)
        assert (size_bytes <= L2_BYTES / 2) == (level == "L2")
    assert found["l2_bytes"] == L2_BYTES
    assert found["skipped"] == []


def test_each_loop_has_its_windows_in_every_round():
    found = measured(Truth(), Budget(rounds=3, windows=4))
    assert {len(row[-1]) for row in found["arithmetic"] + found["memory"]} == {12}


def test_a_card_that_grows_slow_loses_no_ceiling():
    """Loops take turns, so that each has windows from before."""
    truth = Truth()
    measure(KnownEngine(truth), replace(QUICK, rounds=1))
    slow = Truth(warm_from=truth.calls // 2)
    best: dict[str, float] = {}
    for dtype, _, rates in measured(slow, replace(QUICK, rounds=4))["arithmetic"]:
        best[dtype] = max([best.get(dtype, 0.0), *rates])
    assert best["float32"] == pytest.approx(RATES["float32"], rel=1e-3)


def test_launches():
    found = measured(Truth())["launch_ns"]
    assert found["queued"] == pytest.approx(LAUNCH_NS, rel=1e-3)
    assert found["replayed"] == pytest.approx(GRAPH_LAUNCH_NS, rel=1e-3)
    assert found["answered"] > 0  # by the CPU's clock


def test_an_engine_that_cannot_record():
    found = measured(Truth(records=False))
    assert set(found["launch_ns"]) == {"queued", "answered"}
    assert len(found["memory"]) == 12  # all the same, three sizes with four operations each


def test_what_one_type_lacks_is_skipped_with_its_reason():
    found = measured(Truth(broken=("bfloat16",)))
    assert {row[0] for row in found["arithmetic"]} == {*RATES} - {"bfloat16"}
    assert found["skipped"] == [
        ["bfloat16", str(size), "RuntimeError: no bfloat16 here"] for size in probe.SIZES
    ]


def test_products_that_would_take_too_long_are_left_out():
    """Double precision on a card for games: 16384 would take 9 s."""
    found = measured(Truth(rates={**RATES, "float64": 1e12}))
    assert [row[1] for row in found["arithmetic"] if row[0] == "float64"] == [2048, 4096]
    assert [row[:2] for row in found["skipped"]] == [["float64", "8192"], ["float64", "16384"]]


def test_a_small_card_gets_small_products():
    found = measured(Truth(free_bytes=GIB))
    assert max(row[1] for row in found["arithmetic"] if row[0] == "float32") == 4096
    assert {row[0] for row in found["arithmetic"]} == {*RATES}
    assert max(row[2] for row in found["memory"]) <= GIB // 4


def test_a_card_whose_cache_is_unknown():
    found = measured(Truth(l2_bytes=0))
    assert {row[0] for row in found["memory"]} == {DRAM}


class NumpyArrays(DeviceArrays):
    """Real ones, on the CPU."""

    dtypes = ("float32", "float64")
    l2_bytes = 2**20
    free_bytes = 2**24

    def random(self, rows: int, columns: int, dtype: str) -> Any:
        return np.random.default_rng(1).standard_normal((rows, columns)).astype(dtype)

    def product(self, dtype: str, a: Any, b: Any, out: Any) -> None:
        assert out.dtype == dtype
        np.matmul(a, b, out=out)

    def read(self, a: Any) -> None:
        a.sum()

    def write(self, a: Any) -> None:
        a.fill(1.0)

    def copy(self, source: Any, target: Any) -> None:
        np.copyto(target, source)

    def triad(self, a: Any, b: Any, out: Any) -> None:
        np.multiply(b, np.float32(3), out=out)
        np.add(a, out, out=out)


class WallStream(Stream):
    """The CPU's clock."""

    clock = HOST

    def mark(self) -> int:
        return probe.time.perf_counter_ns()

    def elapsed_ns(self, first: int, last: int) -> int:
        return last - first

    def finish(self) -> None:
        pass

    def graph(self, call: Callable[[], Any], calls: int) -> Callable[[], object]:
        raise Unsupported("there is no graph")


class NumpyEngine(Engine):
    """An engine whose arrays are NumPy's."""

    stream = WallStream()

    def arrays(self) -> DeviceArrays:
        return NumpyArrays()


def test_real_arrays(monkeypatch):
    monkeypatch.setattr(probe, "SIZES", (64, 128))
    monkeypatch.setattr(probe, "LEAST_DRAM_BYTES", 2**20)
    found = measure(NumpyEngine(), Budget(rounds=1, windows=2, window_ns=10**5))
    assert [row[:2] for row in found["arithmetic"]] == [
        [dtype, size] for dtype in NumpyArrays.dtypes for size in (64, 128)
    ]
    assert all(rate > 0 for row in found["arithmetic"] + found["memory"] for rate in row[-1])
    assert found["skipped"] == []


def test_an_engine_on_the_cpu_has_none():
    with pytest.raises(Unsupported, match="computes on the CPU"):
        measure(Engine())


def test_an_engine_that_offers_no_arrays():
    engine = NumpyEngine()
    monkey = Engine.arrays.__get__(engine)
    with pytest.raises(Unsupported, match="measures no ceilings"):
        monkey()


# What the host makes of it.


def of(truth: Truth, card: GpuDevice, *readings: GpuReading) -> PlacementCeilings:
    return gpu_ceilings.of_answer(measured(truth), card, list(readings))


def test_ceilings_of_a_card(card):
    readings = [GpuReading(n, hz, 50, 300.0, why) for n, (hz, why) in enumerate(READ)]
    found = of(Truth(), card, *readings)
    for dtype, rate in RATES.items():
        assert found.flop_per_s(dtype) == pytest.approx(rate, rel=1e-3)
    assert {one.loop for one in found.arithmetic} <= {"8192 x 8192 x 8192", "16384 x 16384 x 16384"}
    assert not [one for one in found.arithmetic if one.doubts]
    assert found.bytes_per_s("L2") == pytest.approx(L2_BYTES_PER_S, rel=1e-3)
    assert found.bytes_per_s(DRAM) == pytest.approx(DRAM_BYTES_PER_S, rel=1e-3)
    assert found.capacity_bytes == {"L2": L2_BYTES}
    assert found.clock_hz == Rate(1.98e9, 1.755e9, 3)  # but for the idle one
    assert found.launch_s["queued"] == pytest.approx(4e-6, rel=1e-3)
    assert found.cpus == ()


READ = [(345_000_000, 1), (1_755_000_000, 4), (1_755_000_000, 0), (1_980_000_000, 0)]


def test_a_clock_that_the_card_does_not_show(card):
    assert of(Truth(), card).clock_hz is None


@pytest.mark.parametrize("dtype", RATES)
def test_more_than_the_multiprocessors_can_do_is_doubted(dtype, card):
    """The most of an H100: 132 multiprocessors at 1.98 GHz."""
    most = {"float32": 67e12, "tf32": 535e12, "float64": 67e12}.get(dtype, 1071e12)
    plausible, more = of(Truth(rates={dtype: most}), card), of(Truth(rates={dtype: 2 * most}), card)
    assert plausible.flop_per_s(dtype) == pytest.approx(most, rel=1e-3)
    assert more.flop_per_s(dtype) is None
    assert "flop per cycle" in more.arithmetic[0].doubts[0]


def test_nothing_is_doubted_of_a_card_that_is_not_known(card):
    unknown = replace(card, capability="99.0")
    assert of(Truth(rates={"float32": 1e18}), unknown).flop_per_s("float32") == pytest.approx(1e18)


class Workers:
    """Stands in for the workers: engines with cards of their own truth."""

    def __init__(self, **truths: Truth | str) -> None:
        self.truths = truths
        self.asked: list[str] = []

    def __call__(self, engine: str, device: str) -> Any:
        assert device == "cuda:0"
        self.asked.append(engine)
        truth = self.truths.get(engine, "not installed")
        if isinstance(truth, str):
            raise WorkerError("no_engine", truth)
        return measured(truth)


def test_of_two_engines_the_higher_rate_counts(card):
    cupy = Truth(rates={"float32": 5.2e13, "tf32": 3e14})
    torch = Truth(rates={"float32": 5e13, "tf32": 4e14, "bfloat16": 8e14})
    found = gpu_ceilings.measure(card, silent, Workers(cupy=cupy, torch=torch))
    rates = {dtype: found.flop_per_s(dtype) for dtype in ("float32", "tf32", "bfloat16")}
    assert rates == pytest.approx({"float32": 5.2e13, "tf32": 4e14, "bfloat16": 8e14}, rel=1e-3)
    assert len(found.memory) == 2 * len(ARRAYS)


def test_what_no_engine_could_measure_is_said(card):
    lame, other = Truth(broken=("bfloat16", "float16")), Truth(broken=("bfloat16",))
    found = gpu_ceilings.measure(card, silent, Workers(cupy=lame, torch=other))
    assert found.lacking == {"bfloat16": "RuntimeError: no bfloat16 here"}
    assert found.flop_per_s("float16") == pytest.approx(RATES["float16"], rel=1e-3)
    text = as_text([card], Ceilings("f", {}, {"cuda:0": found}))
    assert "cuda:0: bfloat16 could not be measured: RuntimeError: no bfloat16 here." in text
    assert Ceilings.from_json(Ceilings("f", {}, {"cuda:0": found}).to_json()).devices == {
        "cuda:0": found
    }


@pytest.mark.parametrize("engine", gpu_ceilings.ENGINES)
def test_one_engine_is_enough(engine, card):
    found = gpu_ceilings.measure(card, silent, Workers(**{engine: Truth()}))
    assert found.flop_per_s("float32") == pytest.approx(RATES["float32"], rel=1e-3)


def test_no_engine_is_said_in_one_line(card):
    with pytest.raises(KernelprofError) as caught:
        gpu_ceilings.measure(card, silent, Workers(torch="built without CUDA"))
    assert str(caught.value) == (
        "the ceilings of cuda:0 cannot be measured: cupy: not installed; torch: built without CUDA"
    )


ADAPTER = """
from .device import DeviceArrays, NoDeviceError, Stream
from .engine import Engine

def start(device="cpu"):
    if device != "cuda:0":
        raise NoDeviceError("only on cuda:0")
    return Known()

class Line(Stream):
    now = 0
    def mark(self):
        return self.now
    def elapsed_ns(self, first, last):
        return last - first
    def finish(self):
        pass
    def graph(self, call, calls):
        return lambda: [call() for _ in range(calls)]

class Arrays(DeviceArrays):
    dtypes, l2_bytes, free_bytes = ("float32",), 2**20, 2**36
    def __init__(self, stream):
        self.stream = stream
    def random(self, rows, columns, dtype):
        return rows, columns
    def product(self, dtype, a, b, out):
        self.stream.now += 2 * a[0] * a[1] * b[1] // 20_000  # 20 TFLOP/s
    def read(self, *arrays):
        self.stream.now += sum(rows * columns * 4 for rows, columns in arrays) // 1_000
    write = copy = triad = read

class Known(Engine):
    def __init__(self):
        self.stream = Line()
    def facts(self):
        return {}
    def threads(self):
        return None
    def arrays(self):
        return Arrays(self.stream)
"""


def test_workers_are_asked_for_real(card, tmp_path, monkeypatch):
    """Started on the GPU, asked over their pipes, and ended; torch is not there."""
    (tmp_path / "known_card.py").write_text(ADAPTER)
    own = Environment("cupy", sys.executable, str(tmp_path / "known_card.py"))
    monkeypatch.setattr(gpu_ceilings, "environment", {"cupy": own}.get)
    found = gpu_ceilings.measure(card, silent, gpu_ceilings.ask_worker)
    assert found.flop_per_s("float32") == pytest.approx(20e12, rel=1e-3)
    assert found.bytes_per_s(DRAM) == pytest.approx(1e12, rel=1e-3)
    assert found.clock_hz == Rate(1.98e9, 1.98e9, found.clock_hz.windows)  # as NVML said meanwhile
    monkeypatch.setattr(gpu_ceilings, "environment", lambda engine: None)
    with pytest.raises(KernelprofError, match="cupy: not installed; run `kernelprof engines inst"):
        gpu_ceilings.measure(card, silent, gpu_ceilings.ask_worker)


@pytest.mark.usefixtures("kept")
def test_what_is_kept_is_not_measured_again(card):
    workers = Workers(cupy=Truth())
    first = gpu_ceilings.ceilings(MACHINE, card, silent, ask=workers)
    assert gpu_ceilings.ceilings(MACHINE, card, silent, ask=workers) == first
    assert workers.asked == ["cupy", "torch"]
    assert gpu_ceilings.kept(MACHINE, card) == first
    assert known_ceilings.load(fingerprint_with(MACHINE, card)) == first
    assert known_ceilings.load(MACHINE.fingerprint).devices == {}  # another file
    gpu_ceilings.ceilings(MACHINE, card, silent, again=True, ask=workers)
    assert workers.asked == ["cupy", "torch"] * 2


@pytest.mark.usefixtures("kept")
def test_another_card_in_the_same_place_is_measured(card):
    workers = Workers(cupy=Truth())
    gpu_ceilings.ceilings(MACHINE, card, silent, ask=workers)
    for other in (replace(card, driver="999.1"), replace(card, name="other")):
        assert gpu_ceilings.kept(MACHINE, other).devices == {}
    twin = replace(card, number=1, uuid="GPU-twin")
    assert "cuda:1" not in gpu_ceilings.kept(MACHINE, twin).devices  # by what it did itself


@pytest.mark.usefixtures("kept")
def test_measured_once_more_the_higher_rate_is_kept(card):
    low = Truth(rates={"float32": 4e13, "tf32": 4e14})
    high = Truth(rates={"float32": 5e13, "tf32": 3e14})
    gpu_ceilings.ceilings(MACHINE, card, silent, ask=Workers(cupy=low))
    found = gpu_ceilings.raise_ceilings(MACHINE, card, silent, ask=Workers(cupy=high))
    at = found.of("cuda:0", 4)
    assert at is not None
    assert at.flop_per_s("float32") == pytest.approx(5e13, rel=1e-3)
    assert at.flop_per_s("tf32") == pytest.approx(4e14, rel=1e-3)
    assert gpu_ceilings.kept(MACHINE, card) == found


def test_ceilings_travel_as_json(card):
    found = Ceilings("f", {}, {"cuda:0": of(Truth(), card)})
    assert Ceilings.from_json(json.loads(json.dumps(found.to_json()))) == found
    assert found.of("cuda:1", 1) is None
    assert found.of("cpu", 1) is None
    summary = found.summary()
    assert summary["tf32_flop_per_s"]["cuda:0"] == pytest.approx(RATES["tf32"], rel=1e-3)


# What they bound, and how they are shown.


@pytest.mark.parametrize("dtype", RATES)
def test_a_large_product_is_bound_by_the_rate_of_its_type(dtype, card):
    gemm = Gemm(m=4096, n=4096, k=4096, dtype=dtype)
    bound = attainable(gemm, "forward", of(Truth(), card))
    assert bound.bound == "compute"
    assert bound.seconds == pytest.approx(2 * 4096**3 / RATES[dtype], rel=1e-3)


def test_a_thin_product_is_bound_by_memory(card):
    gemm = Gemm(m=2**24, n=1, k=16)
    bound = attainable(gemm, "forward", of(Truth(), card))
    assert bound.bound == DRAM
    assert bound.seconds == pytest.approx(gemm.least_bytes("forward") / DRAM_BYTES_PER_S, rel=1e-3)


def as_text(cards: list[GpuDevice], known: Ceilings) -> str:
    console = Console(width=100, record=True, file=open(os.devnull, "w"))  # noqa: SIM115
    with console.file:
        console.print(machine_tables(MACHINE, known, cards))
    return str(console.export_text())


def test_it_is_shown(card):
    readings = [GpuReading(1, 1_980_000_000, 50, 300.0, 0)]
    known = Ceilings("f", {}, {"cuda:0": of(Truth(), card, *readings)})
    text = as_text([card], known)
    for words in (
        *("NVIDIA H100 80GB HBM3", "80.0 GiB", "50.0 MiB", "132", "700 W", "1,980 MHz", "9.0"),
        *("cuBLAS", "800,000", "50,000", "clock 1.98 GHz", *RATES, *ARRAYS),
        *("the shortest kernel takes 4.00 µs one behind the other, 1.00 µs in a graph",),
    ):
        assert words in text, words
    stored = json.loads(json.dumps(machine_json(MACHINE, known, [card])))
    assert stored["gpus"]["cuda:0"]["name"] == "NVIDIA H100 80GB HBM3"
    assert stored["ceilings"]["devices"]["cuda:0"]["arithmetic"]


def test_a_card_that_was_not_measured_is_listed(card):
    text = as_text([card], Ceilings("f", {}))
    assert "NVIDIA H100 80GB HBM3" in text
    assert "cuBLAS" not in text


def test_without_a_card_nothing_is_said_of_any():
    text = as_text([], Ceilings("f", {}))
    assert "cuda" not in text.lower()
    assert "gpus" not in machine_json(MACHINE, Ceilings("f", {}))


def test_a_doubted_rate_shows(card):
    known = Ceilings("f", {}, {"cuda:0": of(Truth(rates={"float32": 1e16}), card)})
    text = as_text([card], known)
    assert "10,000,000?" in text
    assert "? cuda:0," in text
