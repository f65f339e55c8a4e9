"""The cupy engine without a GPU: what it asks of CUDA, and why it does not start."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from kernelprof import cli_engines, engines
from kernelprof.engines import CPU_ONLY, GPU_ONLY, computing_on
from kernelprof.probes.compute_bound import Gemm
from kernelprof.probes.data import primitive_arrays
from kernelprof.probes.device import EVENTS, NoDeviceError
from kernelprof.probes.engine import Unsupported
from kernelprof.probes.primitive import BACKWARD_DATA, FORWARD
from tests import fake_cupy
from tests.cupy_engine import DEVICE
from tests.test_cupy_kernels import kernel_of


@pytest.fixture(scope="module")
def engine(on_cupy: Any) -> Any:
    return on_cupy.start(DEVICE)


class CudaError(RuntimeError):
    """As CuPy raises them, with CUDA's number."""

    def __init__(self, status: int, said: str) -> None:
        super().__init__(said)
        self.status = status


def raising(error: Exception) -> Callable[..., Any]:
    def call(*_: Any, **__: Any) -> Any:
        raise error

    return call


@pytest.mark.parametrize(
    ("runtime", "reason"),
    [
        (fake_cupy.runtime(driver=0), "no NVIDIA driver is loaded on this machine"),
        (
            fake_cupy.runtime(driver=12080),
            "built for CUDA 13.2, and the driver knows none above 12.8; "
            "update the driver, or install cupy-cuda12x",
        ),
        (
            fake_cupy.runtime(error=CudaError(100, "cudaErrorNoDevice: no CUDA-capable device")),
            "cudaErrorNoDevice",
        ),
        (fake_cupy.runtime(cards=0), "CUDA finds no such card"),
    ],
)
def test_what_is_no_gpu_is_refused_in_one_line(
    cupy_device: Any,
    runtime: Any,
    reason: str,
) -> None:
    with pytest.raises(NoDeviceError) as refused:
        cupy_device.require_gpu(DEVICE, runtime)
    said = str(refused.value)
    assert said.startswith("cupy cannot use cuda:0: ")
    assert reason in said
    assert "\n" not in said


def test_a_driver_of_the_same_major_version_is_enough(cupy_device: Any) -> None:
    cupy_device.require_gpu(DEVICE, fake_cupy.runtime(driver=13000))
    cupy_device.require_gpu(DEVICE, fake_cupy.runtime(driver=14000))


def test_the_cpu_is_not_its_device(on_cupy: Any) -> None:
    with pytest.raises(NoDeviceError, match=r"NVIDIA GPUs alone: .* the engine numpy"):
        on_cupy.start("cpu")


def test_missing_libraries_are_named(
    cupy_device: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    missing = OSError("libnvrtc.so.13: cannot open shared object file\nfurther lines")
    cuda = SimpleNamespace(nvrtc=SimpleNamespace(getVersion=raising(missing)))
    monkeypatch.setattr(cupy_device, "cupy", SimpleNamespace(cuda=cuda))
    with pytest.raises(NoDeviceError) as refused:
        cupy_device.require_libraries()
    said = str(refused.value)
    assert "libnvrtc.so.13" in said
    assert said.endswith("install cupy-cuda13x[ctk]")
    assert "\n" not in said


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (CudaError(46, "cudaErrorDevicesUnavailable"), "another process has it in exclusive use"),
        (CudaError(2, "cudaErrorMemoryAllocation: out of memory"), "out of memory"),
    ],
)
def test_a_card_that_takes_nobody(
    cupy_device: Any,
    error: CudaError,
    reason: str,
) -> None:
    cuda = SimpleNamespace(Device=raising(error))
    with pytest.raises(NoDeviceError, match=reason):
        cupy_device.open_stream(DEVICE, cuda)


def test_facts(engine: Any) -> None:
    facts = engine.facts()
    assert facts["precision"] == "float32"
    assert (facts["layout"], facts["algorithm_search"]) == ("NCHW", "none")
    assert (facts["cuda"], facts["cuda_driver"]) == ("13.2", "13.1")
    assert (facts["device_name"], facts["device_capability"]) == ("Fake GPU", "9.0")
    assert facts["device_memory_free_bytes"] < facts["device_memory_bytes"]
    assert engine.threads() is None


def test_marks_tell_time(engine: Any) -> None:
    stream = engine.stream
    assert stream.clock == EVENTS
    first, last = stream.mark(), stream.mark()
    assert stream.elapsed_ns(first, last) == round((last.ns - first.ns) / 1e6 * 1e6)
    done = stream.stream.done
    stream.finish()
    assert stream.stream.done == done + 1


class Recorded:
    """A call that counts what of it is recorded, and in whose memory."""

    def __init__(self, stream: Any) -> None:
        self.stream = stream
        self.unrecorded = self.recorded = 0

    def __call__(self) -> object:
        assert fake_cupy.FakePool.taking == 1
        if self.stream.stream.recording is None:
            self.unrecorded += 1
        else:
            self.recorded += 1
        return object()


def test_a_graph_is_recorded_in_memory_of_its_own(engine: Any) -> None:
    call = Recorded(engine.stream)
    replay = engine.stream.graph(call, 7)
    assert (call.unrecorded, call.recorded) == (2, 7)
    assert fake_cupy.FakePool.taking == 0
    replay()


@pytest.mark.parametrize("error", [CudaError(900, "not permitted"), MemoryError("out of memory")])
def test_what_cannot_be_recorded_leaves_the_stream_as_it_was(
    engine: Any,
    error: Exception,
) -> None:
    def call() -> object:
        if engine.stream.stream.recording is not None:
            raise error
        return object()

    with pytest.raises(Unsupported, match=str(error)):
        engine.stream.graph(call, 3)
    assert engine.stream.stream.recording is None
    assert fake_cupy.FakePool.taking == 0
    engine.stream.graph(Recorded(engine.stream), 3)


def test_a_kernel_that_waits_cannot_be_recorded(engine: Any) -> None:
    with pytest.raises(Unsupported, match="StreamCaptureUnsupported"):
        engine.stream.graph(engine.stream.finish, 1)
    engine.stream.finish()


def test_kernels_that_are_given_the_same_array_share_it(engine: Any) -> None:
    gemm = Gemm(4, 5, 6)
    arrays = primitive_arrays(gemm, np.random.RandomState(0))
    engine.kernel(kernel_of(gemm, FORWARD), [arrays], False)
    held = engine.tools.placed(arrays["a"], "float32")
    engine.kernel(kernel_of(gemm, BACKWARD_DATA), [arrays], False)
    assert engine.tools.placed(arrays["a"], "float32") is held
    assert engine.tools.placed(arrays["a"].copy(), "float32") is not held
    before = len(engine.tools._placed)
    arrays.clear()
    assert len(engine.tools._placed) < before


def test_products_are_computed_in_what_they_say(engine: Any) -> None:
    """The arrays on the GPU are of that dtype, and so is what a product yields."""
    for dtype in ("float16", "bfloat16", "float32"):
        gemm = Gemm(4, 5, 6, dtype=dtype)
        arrays = primitive_arrays(gemm, np.random.RandomState(0))
        result = engine.kernel(kernel_of(gemm, FORWARD), [arrays], False)()["c"]
        assert result.dtype.name == dtype
        assert engine.tools.fetch(result).dtype == np.float32


@pytest.mark.parametrize(("variable", "own"), [("0", (1, 0)), ("1", (7, 3))])
def test_tf32_is_for_those_products_alone_that_ask_for_it(
    on_cupy: Any,
    monkeypatch: pytest.MonkeyPatch,
    variable: str,
    own: tuple[int, int],
) -> None:
    """Or for all where the environment asks."""
    monkeypatch.setenv("KERNELPROF_TF32", variable)
    engine = on_cupy.start(DEVICE)
    assert engine.facts()["tf32_products"] == (variable == "1")
    seen = []

    def multiply(primitive: Gemm, a: Any, b: Any) -> Any:
        seen.append(tuple(fake_cupy.TF32_SETTINGS.values()))
        return a @ b

    monkeypatch.setitem(engine.table["gemm"], FORWARD, multiply)
    for dtype in ("float32", "tf32", "float32"):
        gemm = Gemm(4, 5, 6, dtype=dtype)
        arrays = primitive_arrays(gemm, np.random.RandomState(0))
        engine.kernel(kernel_of(gemm, FORWARD), [arrays], False)()
    assert seen == [own, (7, 3), own]


def test_a_setting_that_says_nothing(on_cupy: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KERNELPROF_TF32", "yes")
    with pytest.raises(ValueError, match="KERNELPROF_TF32 is 'yes'"):
        on_cupy.start(DEVICE)


def test_bfloat16_needs_a_package(
    cupy_device: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    numbers = SimpleNamespace(dtype=raising(TypeError("not understood")), float32=np.float32)
    monkeypatch.setattr(cupy_device, "np", numbers)
    tools = cupy_device.CupyToolbox(tf32=False)
    assert set(tools.dtypes) == {"float32", "float64", "float16", "tf32"}


def test_memory_is_handed_back(engine: Any) -> None:
    engine.release()
    cupy = engine.tools.xp
    pools = cupy.get_default_memory_pool(), cupy.get_default_pinned_memory_pool()
    assert all(pool.freed for pool in (engine.stream.pool, *pools))


def test_ceilings_are_measured_with_its_arrays(engine: Any) -> None:
    arrays = engine.arrays()
    for dtype in arrays.dtypes:
        a, b = arrays.random(8, 6, dtype), arrays.random(6, 4, dtype)
        kept_as = "float32" if dtype == "tf32" else dtype
        assert a.dtype.name == kept_as
        assert abs(float(a.get().astype(float).mean())) < 1
        out = engine.tools.xp.empty((8, 4), kept_as)
        arrays.product(dtype, a, b, out)
        want = a.get().astype(float) @ b.get().astype(float)
        np.testing.assert_allclose(out.get().astype(float), want, atol=0.05)
    a, b, out = (arrays.random(8, 6, "float32") for _ in range(3))
    arrays.triad(a, b, out)
    np.testing.assert_allclose(out.get(), a.get() + 3 * b.get(), rtol=1e-6)
    arrays.copy(a, out)
    np.testing.assert_array_equal(out.get(), a.get())
    arrays.read(a)
    arrays.write(a)
    assert np.all(a.get() == 1)
    assert arrays.l2_bytes > 0
    assert arrays.free_bytes > 0


def test_it_is_no_engine_of_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "installed", lambda: [*CPU_ONLY, *GPU_ONLY, "torch"])
    assert computing_on("cpu") == [*CPU_ONLY, "torch"]
    assert computing_on(DEVICE) == [*GPU_ONLY, "torch"]


def test_without_a_gpu_it_is_neither_installed_nor_missed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Unless it is asked for by its name."""
    for cards, wanted in (([], False), ([object()], True)):
        monkeypatch.setattr(cli_engines, "gpus", lambda cards=cards: cards)
        assert ("cupy" in cli_engines._of_this_machine()) == wanted
