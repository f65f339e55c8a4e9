"""The contract of an engine adapter, and the registry of adapters."""

from __future__ import annotations

import importlib
import importlib.util
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, Callable

from .data import Arrays, NetworkData
from .decompose import Fusion, Kernel
from .device import CPU, DeviceArrays, Stream
from .network import Network
from .primitive import FLOATS, SHORTER_FLOATS
from .spans import ProfiledCall

Call = Callable[[], Any]


class Unsupported(Exception):  # noqa: N818  a fact about the engine, not a fault
    """The engine truly cannot do this; the message says why."""


class WholeNetwork:
    """A network built in an engine: one ``call`` is one inference or one training step.

    A training step is forward, loss, backward, update, and the dropping of the gradients.
    """

    parameters: int

    def call(self) -> Any:
        """Run once, as fast as the engine can."""
        raise NotImplementedError

    def evaluate(self) -> Arrays:
        """Results to check: ``output`` of an inference; ``loss`` and the gradients of training.

        A gradient is called ``layer.member.operand``.  Weights are left as they were.
        """
        raise NotImplementedError

    def weights(self) -> Arrays:
        """What is trained, as it stands: copies called ``layer.member.operand``.

        Like the gradients, each has the shape and the order that the primitive's operand has.
        """
        raise NotImplementedError

    def profile(self, calls: int) -> list[ProfiledCall]:
        """So many of its calls, each under the engine's own profiler.

        Raises:
            Unsupported: the engine has none.
        """
        raise Unsupported("this engine has no profiler")


class Engine:
    """An engine in this process.  Built once per worker, after affinity and variables are set."""

    fusion = Fusion()
    computes_on_caller = True
    """Whether the calling thread is one of the pool; in some engines it only waits."""
    shares_operands = True
    """Whether kernels that are given the same array work on the same memory."""
    dtypes: tuple[str, ...] = FLOATS
    """What it computes matrix products in: of SHORTER_FLOATS those that it has."""

    def facts(self) -> dict[str, Any]:
        """Version and settings that bear on speed: precision, layout, libraries."""
        raise NotImplementedError

    def threads(self) -> int | None:
        """The size of the pool that kernels run on, asked of the library; None if it keeps mum."""
        raise NotImplementedError

    def pool(self) -> tuple[int, ...]:
        """The ids of its threads, where the engine has further ones that take their places.

        None of them where those that run most are the pool.
        """
        return ()

    def scope(self, training: bool) -> AbstractContextManager[object]:
        """What blocks of calls run within: an engine's switch for inference, say."""
        return nullcontext()

    def kernel(self, kernel: Kernel, arrays: list[Arrays], training: bool) -> Call:
        """A call that runs the kernel once on these arrays and returns its results.

        Raises:
            Unsupported: the engine has no such kernel.
        """
        raise NotImplementedError

    def require_dtypes(self, kernel: Kernel) -> None:
        """Refuse products in a dtype that the engine has not: it would compute in another one.

        Raises:
            Unsupported: it has no such products.
        """
        for primitive in kernel.primitives:
            dtype = primitive.operand(primitive.output).dtype
            if dtype in SHORTER_FLOATS and dtype not in self.dtypes:
                raise Unsupported(f"this engine has no products in {dtype} on this device")

    def fetch(self, kernel: Kernel, result: Any) -> Arrays:
        """What a call returned, as NumPy arrays by operand name (an update's as w0, w1, ...)."""
        raise NotImplementedError

    def network(self, network: Network, mode: str, data: NetworkData) -> WholeNetwork:
        """The whole network with weights, input and labels of its own.

        Raises:
            Unsupported: the engine cannot build it.
        """
        raise NotImplementedError

    def release(self) -> None:
        """Hand memory of a GPU that nothing holds any more back to the card.

        Engines keep it for themselves otherwise, and another one is measured next.
        """

    def profile(self, call: Call, calls: int) -> list[ProfiledCall]:
        """So many of its calls, whatever they are, under the engine's own profiler.

        Raises:
            Unsupported: the engine has none.
        """
        raise Unsupported("this engine has no profiler")

    finish: Callable[[], object] | None = None
    """Waits until all calls are done; None for an engine whose calls return when they are."""

    stream: Stream | None = None
    """Where calls queue up on a GPU; None on the CPU.  It is also what waits for them there."""

    def arrays(self) -> DeviceArrays:
        """What the ceilings of its GPU are measured with.

        Raises:
            Unsupported: the engine offers no such arrays.
        """
        raise Unsupported("this engine measures no ceilings")


ADAPTERS = {
    "numpy": "on_numpy",
    "cupy": "on_cupy",
    "torch": "on_torch",
    "tensorflow": "on_tensorflow",
    "jax": "on_jax",
    "mxnet": "on_mxnet",
    "caffe": "on_caffe",
    "cntk": "on_cntk",
}


def start(adapter: str, device: str = CPU) -> Engine:
    """The engine of an adapter on a device: a name of the registry, or the path of a Python file.

    Raises:
        ImportError: the engine is not installed in this interpreter.
        NoDeviceError: it does not compute on this device.
    """
    if adapter in ADAPTERS:
        module = importlib.import_module(f".{ADAPTERS[adapter]}", __package__)
    else:
        name = f"{__package__}.{Path(adapter).stem}"
        spec = importlib.util.spec_from_file_location(name, adapter)
        if spec is None or spec.loader is None:
            raise ImportError(f"no adapter at {adapter}")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    engine: Engine = module.start(device)
    if engine.stream is not None:
        engine.finish = engine.stream.finish
    return engine
