"""The jax engine: what is called is compiled by XLA, once, and awaited at each call.

A kernel is a program of its own.  A backward kernel is given what ``jax.vjp`` leaves of a forward
pass, and computes nothing of that anew.  A network is one program, and so is a whole training step
(``jax_network``).  XLA's calls return before their results are there: the calling thread hands the
program over to one of XLA's, and waits; the smallest programs run where they are called.  On a GPU
calls queue up, and nothing is awaited before the last one is.
"""

from __future__ import annotations

import os
from collections.abc import Hashable
from functools import partial
from operator import methodcaller
from pathlib import Path
from typing import Any, Callable

os.environ.setdefault("JAX_PLATFORMS", "cpu")  # read when JAX is loaded: look for no others

import jax
import jax.numpy as jnp
import numpy as np

from .channels_last import turned, turned_back
from .data import Arrays, NetworkData
from .decompose import Fusion, Kernel
from .device import CPU, number_of
from .engine import Call, Engine, Unsupported, WholeNetwork
from .gpu_settings import allows_tf32
from .host_stream import HostStream
from .jax_device import LastResult, gpu, gpu_facts
from .jax_network import JaxNetwork, on_device
from .jax_operators import KEY, TF32, run_chain, sgd
from .memory_bound import SgdUpdate
from .network import Network
from .oracle import results
from .primitive import BACKWARD_WEIGHTS, FLOATS, FORWARD, PASSES, UPDATE, Primitive
from .residents import Residents

WITH_BIAS = (("conv2d", "bias"), ("gemm", "bias"))
SHORT = ("float16", "bfloat16")  # that arrays are kept in
POOL = "tf_XLAEigen"  # what XLA calls the threads of its pool


def start(device: str = CPU) -> Engine:
    """The engine in this process, on a device.

    Raises:
        NoDeviceError: it does not compute there.
        ValueError: a variable asks for what it does not know.
    """
    return JaxEngine() if number_of(device) is None else JaxOnGpu(device)


class JaxEngine(Engine):
    """A product and its bias are one program, and so are passes that share what they compute."""

    fusion = Fusion(
        {FORWARD: WITH_BIAS, BACKWARD_WEIGHTS: WITH_BIAS},
        ("lstm_cell", "batch_norm", "layer_norm"),
    )
    computes_on_caller = False
    dtypes: tuple[str, ...] = (*FLOATS, *SHORT)

    def __init__(self, precision: str = "highest") -> None:
        jax.config.update("jax_enable_compilation_cache", False)  # that on disk
        if "JAX_DEFAULT_MATMUL_PRECISION" not in os.environ:
            jax.config.update("jax_default_matmul_precision", precision)
        self.device = jax.devices()[0]  # which starts XLA, and its threads
        self.take: Callable[[Any], Any] = methodcaller("block_until_ready")  # of what comes out
        self.residents = Residents(_resident)
        self.programs: dict[Hashable, Any] = {}

    def facts(self) -> dict[str, Any]:
        return {
            "version": jax.__version__,
            "precision": f"float32, matrix products {jax.config.jax_default_matmul_precision}",
            "layout": "NHWC",
            "fc_weights": "(in, out)",
            "algorithm_search": "none",
            "mode": "jit",
            "device": self.device.platform,
            "activations": "fused with their neighbours by XLA",
            "denormals": "flushed to zero",
            "lstm": "scan",
            "layer_norm": "composed as in flax",
            "embedding_gradient": "dense",
            "xla": self.device.client.platform_version,
        }

    def threads(self) -> int | None:
        return len(self.pool()) or None

    def pool(self) -> tuple[int, ...]:
        """XLA's pool; the thread that a program was handed to takes part in its work, or waits."""
        tasks = Path("/proc/self/task").iterdir()
        return tuple(sorted(int(t.name) for t in tasks if (t / "comm").read_text().strip() == POOL))

    def kernel(self, kernel: Kernel, arrays: list[Arrays], training: bool) -> Call:
        if kernel.passes == (UPDATE,):
            return self._update(kernel, arrays)
        self._refuse(kernel)
        chain = kernel.primitives
        operands = self._operands(kernel, arrays)
        if kernel.passes == (FORWARD,):
            program = self._program(kernel, partial(run_chain, chain), operands)
            take = self.take
            return lambda: take(program(operands))
        wanted = {name: operands.pop(name) for name in _differentiated(kernel)}
        gradient = operands.pop(f"d{chain[-1].output}", jnp.ones(()))

        def forward(wanted: Arrays, rest: Arrays) -> Any:
            return jax.vjp(lambda some: run_chain(chain, {**rest, **some}), wanted)

        output, pullback = self._program(kernel, forward, wanted, operands)(wanted, operands)
        gradient = gradient.reshape(output.shape)
        backward = self._program(kernel, _pull, pullback, gradient)
        take = self.take

        def call() -> Any:
            found = backward(pullback, gradient)
            for tensor in found.values():
                take(tensor)
            return found

        return call

    def _refuse(self, kernel: Kernel) -> None:
        """What is no kernel of this engine, because its networks have another in its place.

        Raises:
            Unsupported: it is none.
            ValueError: there is no such pass.
        """
        unknown = [pass_ for pass_ in kernel.passes if pass_ not in PASSES]
        if unknown:
            raise ValueError(f"no pass is called {unknown[0]!r}")
        kinds = tuple(primitive.kind for primitive in kernel.primitives)
        if len(kinds) > 1 and kinds not in self.fusion.chains.get(kernel.passes[0], ()):
            raise Unsupported(f"no program for {' + '.join(kinds)} {'+'.join(kernel.passes)}")
        if len(kernel.passes) > 1 and kinds[0] not in self.fusion.joint_passes:
            raise Unsupported(f"no program for both backward passes of {kinds[0]}")

    def _operands(self, kernel: Kernel, arrays: list[Arrays]) -> Arrays:
        """The operands of a kernel; inner ones of a chain are the program's own business."""
        operands: Arrays = {}
        for place, (primitive, own) in enumerate(zip(kernel.primitives, arrays)):
            for name, array in own.items():
                inner_input = place > 0 and name == primitive.input
                inner_gradient = primitive is not kernel.primitives[-1] and name.startswith("d")
                if not inner_input and not inner_gradient:
                    operands[name] = self.residents.tensor(primitive, name, array)
            if primitive.kind == "dropout":
                operands[KEY] = jax.random.key(0)
        return operands

    def _program(
        self, kernel: Kernel, function: Callable[..., Any], *arguments: Any, donates: bool = False
    ) -> Any:
        """The function, compiled for arguments like these; once for all kernels that are alike."""
        layout = jax.tree.structure(arguments)
        shapes = tuple(each.shape for each in jax.tree.leaves(arguments))
        key = (kernel.primitives, kernel.passes, getattr(function, "__name__", ""), layout, shapes)
        if key not in self.programs:
            compiled = jax.jit(function, donate_argnums=0 if donates else ())
            self.programs[key] = compiled.lower(*arguments).compile()
        return self.programs[key]

    def _update(self, kernel: Kernel, arrays: list[Arrays]) -> Call:
        """The arithmetic of optax.sgd, for each parameter of a layer, in the memory it has."""
        steps, state = [], []
        for primitive, own in zip(kernel.primitives, arrays):
            assert isinstance(primitive, SgdUpdate)
            velocity = on_device(own["v"]) if primitive.momentum else None
            steps.append(partial(sgd, primitive.momentum, primitive.learning_rate))
            state.append((on_device(own["w"]), velocity))
        gradients = [
            self.residents.tensor(p, "dw", a["dw"]) for p, a in zip(kernel.primitives, arrays)
        ]

        def update(state: Any, gradients: Any) -> Any:
            return [
                step(weights, gradient, velocity)
                for step, (weights, velocity), gradient in zip(steps, state, gradients)
            ]

        program = self._program(kernel, update, state, gradients, donates=True)
        take = self.take

        def call() -> Any:
            nonlocal state
            state = program(state, gradients)
            take(state[0][0])
            return [weights for weights, _ in state]

        return call

    def fetch(self, kernel: Kernel, result: Any) -> Arrays:
        if kernel.passes == (UPDATE,):
            return {f"w{place}": np.array(weights) for place, weights in enumerate(result)}
        found: Arrays = {}
        for name, place, operand in results(kernel):
            tensor = result if kernel.passes == (FORWARD,) else result[operand[1:]]
            found[name] = turned_back(kernel.primitives[place], operand, np.array(tensor))
        return found

    def network(self, network: Network, mode: str, data: NetworkData) -> WholeNetwork:
        return JaxNetwork(network, mode, data, self.take)


class JaxOnGpu(JaxEngine):
    """Programs queue up; that one is done shows when its result is there, and in no stream."""

    dtypes = (*JaxEngine.dtypes, TF32)

    def __init__(self, device: str) -> None:
        gpu(device)
        super().__init__("tensorfloat32" if allows_tf32() else "highest")
        self.last = LastResult()
        self.take = self.last.take
        self.stream = HostStream(self.last.finish)

    def facts(self) -> dict[str, Any]:
        return {**super().facts(), **gpu_facts(self.device)}

    def network(self, network: Network, mode: str, data: NetworkData) -> WholeNetwork:
        return JaxNetwork(network, mode, data, self.take, self.last.finish)

    def release(self) -> None:
        self.last.drop()


def _pull(pullback: Any, gradient: Any) -> Any:
    return pullback(gradient)[0]


def _resident(primitive: Primitive, name: str, array: Any) -> Any:
    dtype = primitive.operand(name).dtype
    kept = array.astype(jnp.dtype(dtype)) if dtype in SHORT else array
    return on_device(turned(primitive, name, kept))


def _differentiated(kernel: Kernel) -> list[str]:
    """The operands whose gradients the passes yield."""
    return [operand[1:] for _, _, operand in results(kernel)]
