"""The device of a run, from the word of the user to the worker: on a fake GPU, and on no GPU."""

from __future__ import annotations

import dataclasses
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from kernelprof import enginecheck, engines, machine
from kernelprof.disturbance import WHOLE, Sample
from kernelprof.enginecheck import check
from kernelprof.engines import CPU_ONLY, ENGINES, GPU_ONLY, Environment, environment
from kernelprof.errors import KernelprofError, UsageError, WorkerError
from kernelprof.gpu import devices, memory
from kernelprof.gpu.devices import GpuDevice
from kernelprof.gpu.recorded import to_scale
from kernelprof.gpu.samples import GpuReading, GpuSample
from kernelprof.launch import CPU_VARIABLES, Worker, worker_environment
from kernelprof.machine import caches_bytes, usable_cpus
from kernelprof.measure import Measurement, free_bytes, together_bytes
from kernelprof.plan import Case, groups, reference
from kernelprof.probes.device import NoDeviceError, number_of, require_cpu
from kernelprof.probes.failure import DeviceLostError, failure_of
from kernelprof.probes.network import INFER, MODES, TRAIN
from kernelprof.probes.primitive import COLD, WARM
from kernelprof.runfile import RunFile
from kernelprof.runner import choose, open_run

from .test_cli import home, in_a_shell
from .test_gpu_timing import CPUS, DEVICE, FAKE_GPU
from .test_measure import options, small

__all__ = ["home"]  # a fixture

KERNEL_NS = 40_000
ROUNDS = 3
CARD = GpuDevice(
    number=0,
    uuid="GPU-0",
    name="Fake",
    driver="570.1",
    cuda="13.0",
    capability="9.0",
    memory_bytes=2**36,
    sms=100,
    l2_bytes=50 * 2**20,
    max_sm_hz=2 * 10**9,
    max_memory_hz=10**9,
    power_limit_w=700.0,
    ecc=True,
)


def fake_gpu(**variables: str) -> Environment:
    """How the engine of the fake GPU is started."""
    return Environment("fake", sys.executable, FAKE_GPU, variables)


class TestWorker:
    """What a worker is started with."""

    def test_it_sees_the_one_gpu(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7,2")
        monkeypatch.setenv("JAX_PLATFORMS", "cpu")
        found = worker_environment(1, {}, DEVICE)
        assert (found["CUDA_VISIBLE_DEVICES"], found["CUDA_DEVICE_ORDER"]) == ("2", "PCI_BUS_ID")
        assert "JAX_PLATFORMS" not in found
        worker = Worker(fake_gpu(), CPUS, device=DEVICE)
        try:
            assert worker.ask("facts", 30.0)["device"] == {"name": "Fake", "visible": "2"}
        finally:
            worker.close()

    def test_on_the_cpu_it_sees_none(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
        found = worker_environment(1, {})
        assert {name: found[name] for name in CPU_VARIABLES} == CPU_VARIABLES
        assert found["CUDA_VISIBLE_DEVICES"] == ""

    def test_the_users_own_variables_come_last(self) -> None:
        own = {"JAX_PLATFORMS": "cuda"}
        assert worker_environment(1, own, DEVICE)["JAX_PLATFORMS"] == "cuda"

    @pytest.mark.parametrize("name", CPU_ONLY)
    def test_an_engine_of_the_cpu_refuses_a_gpu(self, name: str) -> None:
        found = environment(name)
        if found is None:
            pytest.skip(f"engine {name} is not installed: `kernelprof engines install {name}`")
        with pytest.raises(WorkerError) as refused:
            Worker(found, CPUS, device="cuda:0")
        assert refused.value.kind == "no_device"
        assert name in refused.value.reason
        assert "\n" not in refused.value.reason

    def test_a_device_that_the_engine_cannot_use(self) -> None:
        before = len(os.listdir("/proc/self/fd"))
        with pytest.raises(WorkerError, match=f"fake does not compute on {DEVICE}") as refused:
            Worker(fake_gpu(FAKE_NO_DEVICE="1"), CPUS, device=DEVICE)
        assert refused.value.kind == "no_device"
        assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize("word", ["cuda:0", "cuda:13"])
def test_what_computes_on_the_cpu_only(word: str) -> None:
    require_cpu("cpu", "some")
    with pytest.raises(NoDeviceError, match=f"some computes on the CPU only here, not on {word}"):
        require_cpu(word, "some")


@pytest.mark.parametrize("word", ["gpu", "cuda", "cuda:", "cuda:-1", "cuda:x", "CPU", ""])
def test_words_that_are_no_device(word: str) -> None:
    with pytest.raises(ValueError, match="cpu or cuda:N is needed"):
        number_of(word)
    with pytest.raises(UsageError, match="cpu or cuda:N is needed"):
        choose(["fcn-r"], engines="numpy", device=word)


class OutOfMemoryError(RuntimeError):
    """As torch and CuPy call theirs."""


class XlaRuntimeError(RuntimeError):
    """As XLA calls its own."""


class TestFailure:
    """What went wrong, by what engines and CUDA's libraries say."""

    @pytest.mark.parametrize(
        "error",
        [
            MemoryError("no room"),
            OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
            OutOfMemoryError("Out of memory allocating 1,024 bytes (allocated so far: 0 bytes)."),
            OutOfMemoryError(""),
            XlaRuntimeError("RESOURCE_EXHAUSTED: Out of memory while trying to allocate 8 bytes."),
            RuntimeError("cudaErrorMemoryAllocation: out of memory"),
            RuntimeError("CUBLAS error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate"),
            RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried 4 bytes"),
        ],
    )
    def test_memory(self, error: Exception) -> None:
        assert failure_of(error)["kind"] == "memory"

    @pytest.mark.parametrize(
        "reason",
        [
            "CUDA error: an illegal memory access was encountered\nCUDA kernel errors might be",
            "CUDA error: device-side assert triggered",
            "cudaErrorLaunchFailure: unspecified launch failure",
            "INTERNAL: CUDA_ERROR_ILLEGAL_ADDRESS: an illegal memory access was encountered",
            "CUBLAS_STATUS_EXECUTION_FAILED",
        ],
    )
    def test_a_lost_context_passes_what_catches_errors(self, reason: str) -> None:
        with pytest.raises(DeviceLostError) as lost:
            failure_of(RuntimeError(reason))
        assert not isinstance(lost.value, Exception)
        assert "\n" not in str(lost.value)
        assert reason.splitlines()[0] in str(lost.value)

    def test_others(self) -> None:
        assert failure_of(NoDeviceError("none"))["kind"] == "no_device"
        assert failure_of(ValueError("shapes"))["kind"] == "error"


Measured = Callable[..., RunFile]


@pytest.fixture
def measured(tmp_path: Path) -> Iterator[Measured]:
    """Measures the small network on the fake GPU; ``cupy`` is not there."""
    files = []

    def _measured(**variables: object) -> RunFile:
        planted = {"FAKE_KERNEL_NS": KERNEL_NS, "FAKE_FLOP_PER_NS": 10**9, **variables}
        chosen = options(
            device=DEVICE,
            variables=tuple(("fake", name, str(value)) for name, value in planted.items()),
        )
        meta = {"kernelprof": "0", "command": "", "started": "", "machine": {}}
        path = tmp_path / f"{len(files)}.kprof"
        files.append(RunFile.create(path, {**meta, "options": chosen.to_json()}))
        found: dict[str, Environment | None] = {"fake": fake_gpu(), "cupy": None}
        planned = [group for group in groups(chosen) if not group.calibration]
        Measurement(files[-1], chosen, found).measure(planned)
        return files[-1]

    yield _measured
    for file in files:
        file.close()


def ids(run: RunFile) -> dict[str, int]:
    """The fake engine's cases by mode."""
    return {stored.case.mode: stored.id for stored in run.cases() if stored.case.engine == "fake"}


class TestMeasurement:
    """What comes into the run file."""

    def test_every_sample_has_two_sides(self, measured: Measured) -> None:
        run = measured()
        assert {stored.case.device for stored in run.cases()} == {DEVICE}
        assert run.failures().keys() == {s.id for s in run.cases() if s.case.engine == "cupy"}
        for case_id in ids(run).values():
            kernels, samples = run.kernels(case_id), list(run.samples(case_id))
            sides = run.gpu_samples(case_id)
            assert sides.keys() == set(range(ROUNDS))
            assert len(samples) == ROUNDS * (len(kernels) + 1)
            for sample in samples:
                side = sides[sample["round"]][sample["place"]]
                assert (side.calls, side.start_ns) == (sample["calls"], sample["start_ns"])
                assert side.device_ns == sample["duration_ns"]
                launches = len(kernels) if sample["place"] == WHOLE else 1
                assert side.device_ns >= launches * KERNEL_NS * sample["calls"]
        assert run.meta("watch_failure")  # no card tells anything here
        assert run.gpu_readings(DEVICE) == []

    def test_a_card_without_room_costs_a_case_and_its_worker(self, measured: Measured) -> None:
        run = measured(FAKE_FULL=TRAIN)
        case_ids = ids(run)
        assert run.failures()[case_ids[TRAIN]][0] == "memory"
        assert run.rounds(case_ids[INFER]) == set(range(ROUNDS))
        assert len(run.workers()) == 2

    def test_a_card_that_is_full_later_too(self, measured: Measured) -> None:
        run = measured(FAKE_FULL_TURN=1)
        case_ids = ids(run)
        assert run.failures()[case_ids[TRAIN]][0] == "memory"
        assert run.rounds(case_ids[INFER]) == set(range(ROUNDS))
        assert len(run.workers()) == 2

    def test_a_kernel_without_room_costs_itself(self, measured: Measured) -> None:
        run = measured(FAKE_FULL="conv2d")
        for case_id in ids(run).values():
            assert case_id not in run.failures()
            failed = {k.failure[0] for k in run.kernels(case_id) if k.failure}
            assert failed == {"memory"}
            assert run.rounds(case_id) == set(range(ROUNDS))

    def test_a_lost_context_ends_the_worker_and_costs_its_case(self, measured: Measured) -> None:
        run = measured(FAKE_LOST="sgd_update")  # of training only
        case_ids = ids(run)
        kind, reason = run.failures()[case_ids[TRAIN]]
        assert kind == "crash"
        assert reason == (
            "nothing works on the GPU any more: "
            "CUDA error: an illegal memory access was encountered"
        )
        assert run.rounds(case_ids[INFER]) == set(range(ROUNDS))

    def test_an_engine_that_refuses_the_device(self, measured: Measured) -> None:
        run = measured(FAKE_NO_DEVICE="1")
        assert {run.failures()[case_id][0] for case_id in ids(run).values()} == {"no_device"}
        assert run.workers() == []

    def test_a_slower_card_disturbs_its_samples(self, measured: Measured) -> None:
        run = measured()
        case_id = ids(run)[INFER]
        sample = run.gpu_samples(case_id)[1][WHOLE]
        assert run.throttled(case_id) == set()
        middle = sample.start_ns + sample.events_ns // 2
        capped = GpuReading(middle, 10**9, 60, 690.5, 0x04)
        run.add_gpu_readings(DEVICE, [capped])
        assert run.gpu_readings(DEVICE) == [capped]
        throttled = run.throttled(case_id)
        assert (1, WHOLE) in throttled
        times = run.times(case_id)
        for round_, found in times.items():
            for place, time in found.items():
                if (round_, place) in throttled:
                    assert time.lost_ns == time.ns
        run.add_gpu_readings("cuda:0", [capped])  # another card
        assert run.throttled(case_id) == throttled


class TestOptions:
    """What a run on a GPU is."""

    @pytest.fixture(autouse=True)
    def card(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """One card is there."""

        def required(device: str) -> GpuDevice:
            if device != CARD.device:
                raise KernelprofError(f"{device} is not there")
            return CARD

        for module in (devices, machine):  # wherever it is asked by its name
            monkeypatch.setattr(module, "required", required)
        monkeypatch.setattr(devices, "gpus", lambda: [CARD])

    def test_every_case_tells_the_device(self) -> None:
        chosen = options(device=DEVICE)
        cases = [case for group in groups(chosen) for case in group.cases]
        assert {case.device for case in cases} == {DEVICE}
        assert {case.engine for case in cases} == {"fake", "cupy"}
        assert cases[-1].title.endswith(f"{DEVICE}, 1 thread")

    def test_the_reference_is_that_of_the_device(self) -> None:
        assert (reference("cpu"), reference(DEVICE)) == ("numpy", "cupy")

    def test_threads_hand_work_over(self) -> None:
        chosen = choose(["fcn-r"], engines="numpy", device="cuda:0")
        assert [len(cpus) for cpus in chosen.placements] == [min(4, len(usable_cpus()))]
        assert chosen.device == "cuda:0"

    def test_without_a_word_no_engine_of_the_cpu_alone(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(engines, "installed", lambda: [*ENGINES])
        assert not set(CPU_ONLY) & set(choose(["fcn-r"], device="cuda:0").engines)
        on_cpu = choose(["fcn-r"]).engines
        assert set(CPU_ONLY) <= set(on_cpu)
        assert not set(GPU_ONLY) & set(on_cpu)

    def test_a_card_that_is_not_there(self) -> None:
        with pytest.raises(KernelprofError, match="cuda:1 is not there"):
            choose(["no-such-network"], device="cuda:1")

    def test_a_file_is_carried_on_with_on_its_card(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path, own = tmp_path / "a.kprof", ("fake",)
        chosen = dataclasses.replace(options(device="cuda:0"), networks=(small(),))
        file, _ = open_run(path, chosen, "one", own)
        assert file.meta("machine")["gpus"] == {"cuda:0": CARD.to_json()}
        file.close()
        file, again = open_run(path, None, "two", own)
        assert again == chosen
        file.close()
        other = dataclasses.replace(CARD, driver="580.2")
        monkeypatch.setattr(devices, "required", lambda device: other)
        with pytest.raises(UsageError, match=r"started on another GPU \(Fake, driver 570.1\)"):
            open_run(path, None, "three", own)

    def test_a_file_of_before_there_were_gpus(self, tmp_path: Path) -> None:
        chosen = options()
        file, _ = open_run(tmp_path / "a.kprof", chosen, "one", ("fake",))
        stored = file.meta("options")
        assert stored.pop("device") == "cpu"
        file.record("options", stored)
        assert "gpus" not in file.meta("machine")
        file.close()
        file, again = open_run(tmp_path / "a.kprof", None, "two", ("fake",))
        assert again == chosen
        file.close()

    def test_cold_is_what_the_cards_cache_does_not_hold(self) -> None:
        cold = options(device="cuda:0", cache=COLD)
        assert together_bytes(cold, CPUS) == 2 * 50 * 2**20
        assert together_bytes(options(device="cuda:0", cache=WARM), CPUS) == 0
        assert together_bytes(options(cache=COLD), CPUS) == 2 * caches_bytes(CPUS)

    def test_a_card_that_does_not_tell_of_its_cache(self, monkeypatch: pytest.MonkeyPatch) -> None:
        silent = dataclasses.replace(CARD, l2_bytes=None)
        monkeypatch.setattr(devices, "gpus", lambda: [silent])
        with pytest.raises(KernelprofError, match="how large the L2 cache of cuda:0 is"):
            together_bytes(options(device="cuda:0", cache=COLD), CPUS)

    def test_there_has_to_be_room_on_the_card_and_on_the_host(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for on_card, least in ((10, 10), (2**60, None), (None, None)):
            monkeypatch.setattr(memory, "free_bytes", lambda device, free=on_card: free)
            found = free_bytes("cuda:0")
            assert found == least if least else 10 < found < 2**60


@pytest.mark.parametrize(("graph_ns", "lost_ns"), [(400, 20), (0, 50)])
def test_what_the_cpu_lost_is_a_share_of_its_own_part(graph_ns: int, lost_ns: int) -> None:
    """Of the replay, which counts, no more than that was lost."""
    side = GpuSample(2, 0, 1000, 300, graph_ns)
    taken = Sample(4, 0, 1, 2, side.device_ns, 50, 50, 0, 0)
    scaled = to_scale(taken, {4: {0: side}})
    assert scaled == taken._replace(waited_ns=lost_ns, stolen_ns=lost_ns)
    assert to_scale(taken, {}) == taken  # on the CPU


def test_a_case_tells_its_device() -> None:
    case = Case("lstm", "torch", (0,), 8, TRAIN, device="cuda:1")
    assert case.title == "lstm train on torch, batch 8, cuda:1, 1 thread"


def test_the_primitives_are_checked_on_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(enginecheck, "SPECIMENS", enginecheck.SPECIMENS[:1])
    found = check(fake_gpu(), CPUS, DEVICE)
    assert found.works
    assert found.version == "1.0"
    refused = check(fake_gpu(FAKE_NO_DEVICE="1"), CPUS, DEVICE)
    assert refused.failures == {"start": f"fake does not compute on {DEVICE}"}


class TestInterpreter:
    """Where no environment was made, kernelprof's own interpreter may do."""

    @pytest.fixture(autouse=True)
    def nothing_made(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("KERNELPROF_HOME", str(tmp_path))

    def test_if_it_can_import_the_engine(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(engines, "find_spec", lambda name: object())
        assert environment("torch") == Environment("torch", sys.executable, "torch")
        assert environment("mxnet") is None

    def test_if_it_cannot(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(engines, "find_spec", lambda name: None)
        assert environment("torch") is None


COMMANDS = [
    ("run", "fcn-r", "--engine", "fake"),
    ("bench", "gemm", "8x8x8", "--engine", "fake"),
    ("engines", "check", "fake"),
]


@pytest.mark.parametrize("words", COMMANDS, ids=lambda words: words[0])
@pytest.mark.parametrize(("device", "status"), [("cuda:99", 1), ("gpu", 2)])
def test_a_device_that_cannot_be_used_is_said_in_one_line(
    words: tuple[str, ...], device: str, status: int, home: Path, tmp_path: Path
) -> None:
    output = [] if words[0] == "engines" else ["-o", str(tmp_path / "a.kprof")]
    done = in_a_shell(home, *words, "--device", device, *output)
    assert done.returncode == status, done.stderr
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("kernelprof: ")
    assert device in done.stderr
    assert not (tmp_path / "a.kprof").exists()


def test_modes_are_told_apart() -> None:
    """What the tests above take for granted: an update is of training alone."""
    planned = groups(options(device=DEVICE))[-1]
    assert {case.mode for case in planned.of("fake")} == set(MODES)
