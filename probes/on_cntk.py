"""The cntk engine: CNTK 2.7 on the CPU, its graphs run below the Python interface's checks.

A kernel is a graph of one primitive on values that stay where they are.  CNTK computes anew only
what depends on a change, so a forward kernel says that one of its parameters was written to.
"""

from __future__ import annotations

import ctypes
from functools import partial
from pathlib import Path
from typing import Any

import cntk
import numpy as np
from cntk import cntk_py
from cntk.logging.graph import depth_first_search

from .cntk_network import (
    ALL_AXES,
    CPU,
    NODES,
    CntkNetwork,
    Nodes,
    canonical,
    frozen_batch_norm,
    learner,
    native,
    needs_pad,
    one_hot,
    to_numpy,
    value,
)
from .compute_bound import Conv2d
from .data import Arrays, NetworkData
from .decompose import Fusion, Kernel
from .device import require_cpu
from .engine import Call, Engine, Unsupported, WholeNetwork
from .memory_bound import BatchNorm, SgdUpdate, SoftmaxLoss
from .network import Network
from .primitive import BACKWARD_DATA, BACKWARD_WEIGHTS, FORWARD, UPDATE, Primitive

# What works element by element, or on all axes alike, needs no batch.
FLAT = ("activation", "add", "copy", "dropout", "layer_norm", "scale", "transpose")
# Operands that are ids, and the size that bounds them.
ONE_HOT = {"ids": "vocabulary", "labels": "classes"}
# The operand whose change makes all of a kernel outdated; else it is the input, which CNTK then
# copies once more into a batch.  An embedding's ids are fed, and so are always new.
CHANGED = {
    "gemm": "b",
    "batched_gemm": "a",
    "conv2d": "w",
    "lstm_cell": "wx",
    "bias": "bias",
    "batch_norm": "gamma",
    "embedding": None,
}
# What MKL takes a processor for; another maker's is of no type unless a variable says one.
MKL_CPU_TYPES = {0: "generic", 3: "SSE4.2", 4: "AVX", 5: "AVX2", 7: "AVX-512"}


def start(device: str) -> Engine:
    """The engine in this process, on a device.

    Raises:
        NoDeviceError: it does not compute there.
    """
    require_cpu(device, "cntk")
    return CntkEngine()


class CntkEngine(Engine):
    """CNTK fuses nothing; an LSTM and a batch normalisation yield all gradients at once."""

    fusion = Fusion(joint_passes=("lstm_cell", "batch_norm", "layer_norm"))

    def __init__(self) -> None:
        cntk.try_set_default_device(CPU)
        # Told only by OMP_NUM_THREADS=1, its convolutions divide by zero and end the process.
        cntk_py.set_max_num_cputhreads(self.threads())

    def facts(self) -> dict[str, Any]:
        mkl = _library("mklml")
        version = ctypes.create_string_buffer(256)
        mkl.MKL_Get_Version_String(version, len(version))
        cpu_type = mkl.mkl_serv_cpu_detect()
        return {
            "version": cntk.__version__,
            "precision": "float32",
            "layout": "NCHW",
            "fc_weights": "(in, out)",
            "algorithm_search": "none",
            "embedding_gradient": "sparse",
            "blas": version.value.decode(),
            "mkl_cpu_type": MKL_CPU_TYPES.get(cpu_type, str(cpu_type)),
            "backward_kernels": "copy the output's gradient in; a batch_norm's runs forward first",
        }

    def threads(self) -> int:
        return int(_library("iomp5").omp_get_max_threads())

    def kernel(self, kernel: Kernel, arrays: list[Arrays], training: bool) -> Call:
        if kernel.passes == (UPDATE,):
            return _update(kernel.primitives, arrays)
        if len(kernel.primitives) > 1:
            raise Unsupported(f"CNTK fuses nothing: {kernel.label}")
        (primitive,), (own,) = kernel.primitives, arrays
        if len(kernel.passes) > 1 and primitive.kind not in self.fusion.joint_passes:
            raise Unsupported(f"CNTK runs one pass at a time: {kernel.label}")
        if primitive.kind == "copy":
            return _copy(own["x"])
        if kernel.passes == (FORWARD,):
            return _forward(primitive, own, training)
        return _backward(primitive, own, kernel.passes)

    def fetch(self, kernel: Kernel, result: Any) -> Arrays:
        if kernel.passes == (UPDATE,):
            return {f"w{place}": parameter.value for place, parameter in enumerate(result)}
        primitive = kernel.primitives[0]
        if kernel.passes == (FORWARD,):
            names = [primitive.output]
        else:
            names = [f"d{name}" for name in _differentiated(primitive, kernel.passes)]
        arrays = {
            name: canonical(primitive, name, to_numpy(each))
            for name, each in zip(names, result.values())
        }
        if isinstance(primitive, SoftmaxLoss) and "loss" in arrays:
            arrays["loss"] = arrays["loss"] / primitive.rows
        return arrays

    def network(self, network: Network, mode: str, data: NetworkData) -> WholeNetwork:
        return CntkNetwork(network, mode, data)


def _library(name: str) -> Any:
    """A library that CNTK brought along and loaded."""
    lines = Path("/proc/self/maps").read_text().splitlines()
    path = next(line.split()[-1] for line in lines if f"/lib{name}" in line)
    return ctypes.CDLL(path)


def _differentiated(primitive: Primitive, passes: tuple[str, ...]) -> list[str]:
    """The operands whose gradients these passes yield."""
    names = list(primitive.inputs) if BACKWARD_DATA in passes else []
    return names + (list(primitive.parameters) if BACKWARD_WEIGHTS in passes else [])


def _forward(primitive: Primitive, arrays: Arrays, training: bool) -> Call:
    """A call of the graph on parameters: nothing but ids is copied in."""
    operands: Nodes = {}
    parameters: Nodes = {}
    arguments: Nodes = {}
    for name in primitive.reads[FORWARD]:
        if name in ONE_HOT:
            operands[name] = _fed_ids(primitive, name, arrays[name], arguments)
        else:
            array = _native(primitive, name, arrays[name])
            parameters[name] = cntk.parameter(array.shape, init=array)
            operands[name] = _resident(primitive, name, parameters[name])
    output = _node(primitive, operands)
    changed = parameters.get(_changed(primitive))
    learns = training or getattr(primitive, "training", primitive.kind == "dropout")
    keep = {output.output} if learns else set()
    results = {output.output: None}

    def call() -> Nodes:
        if changed is not None:
            changed.record_value_update()
        results[output.output] = None
        output._forward(arguments, results, CPU, keep)
        return results

    return call


def _copy(x: Any) -> Call:
    """A clone of the array's values: what a graph has for it, an alias, moves nothing."""
    view = cntk.NDArrayView.from_dense(x, CPU)
    return lambda: {"y": view.deep_clone(False)}


def _changed(primitive: Primitive) -> Any:
    if isinstance(primitive, Conv2d) and needs_pad(primitive):
        return "x"
    return CHANGED.get(primitive.kind, "x")


def _native(primitive: Primitive, name: str, array: Any) -> Any:
    """An operand of a kernel as CNTK wants it."""
    sample = primitive.operand(primitive.input).shape[1:]
    return native(primitive, name, array, sample)


def _resident(primitive: Primitive, name: str, parameter: Any) -> Any:
    """The parameter as samples, or as sequences, if that is what the operand is."""
    if primitive.kind in FLAT or not _has_samples(primitive, name):
        return parameter
    samples = cntk.to_batch(parameter)
    return cntk.to_sequence(samples) if primitive.kind == "lstm_cell" else samples


def _has_samples(primitive: Primitive, name: str) -> bool:
    return name in (*primitive.inputs, "h0", "c0")


def _node(primitive: Primitive, operands: Nodes) -> Any:
    """The graph of a kernel; a loss is summed over its rows, as a trainer does."""
    if primitive.kind == "lstm_cell":  # sequences of one length, and yet each has an axis
        for name in ("h0", "c0"):
            operands[name] = cntk.reconcile_dynamic_axes(operands[name], operands["x"])
    if isinstance(primitive, BatchNorm):
        operands["count"] = cntk.constant(0)
    node = NODES[primitive.kind](primitive, operands)
    return cntk.reduce_sum(node, axis=ALL_AXES) if primitive.kind == "softmax_loss" else node


def _fed_ids(primitive: Primitive, name: str, ids: Any, arguments: Nodes) -> Any:
    size = getattr(primitive, ONE_HOT[name])
    variable = cntk.input_variable((size,), is_sparse=True)
    arguments[variable] = one_hot(ids, size)
    return variable


def _backward(primitive: Primitive, arrays: Arrays, passes: tuple[str, ...]) -> Call:
    """A call of the way back through a graph that has been run forward once.

    All inner values are outputs too, or their memory would be used again on the first way back.
    """
    names = _differentiated(primitive, passes)
    if not names:
        raise ValueError(f"{primitive.kind}: no gradients in {passes}")
    arguments: Nodes = {}
    operands = {
        name: _differentiable(primitive, name, arrays[name], name in names, arguments)
        for name in primitive.reads[primitive.passes[0]]
    }
    if isinstance(primitive, BatchNorm) and not primitive.training:
        output = frozen_batch_norm(primitive, operands)
    else:
        output = _node(primitive, operands)
    functions = depth_first_search(output, lambda node: isinstance(node, cntk.Function))
    inner = {each.output.uid: each.output for each in functions}
    inner.pop(output.output.uid, None)
    graph = cntk.combine([output.output, *inner.values()])
    forward = partial(_run_kept, graph, arguments, output.output)
    roots = {output.output: _root_gradient(primitive, arrays)}
    gradients = dict.fromkeys(operands[name] for name in names)
    if isinstance(primitive, BatchNorm) and primitive.training and BACKWARD_DATA in passes:
        return lambda: _run_backward(graph, forward(), roots, gradients)
    return partial(_run_backward, graph, forward(), roots, gradients)


def _differentiable(
    primitive: Primitive, name: str, array: Any, wanted: bool, arguments: Nodes
) -> Any:
    if name in ONE_HOT:
        return _fed_ids(primitive, name, array, arguments)
    array = _native(primitive, name, array)
    if primitive.kind in FLAT or not _has_samples(primitive, name):
        return cntk.parameter(array.shape, init=array) if wanted else cntk.constant(array)
    if primitive.kind == "lstm_cell":
        variable = cntk.sequence.input_variable(array.shape[2:], needs_gradient=wanted)
    else:
        variable = cntk.input_variable(array.shape[1:], needs_gradient=wanted)
    arguments[variable] = value(array)
    return variable


def _root_gradient(primitive: Primitive, arrays: Arrays) -> Any:
    if isinstance(primitive, SoftmaxLoss):
        return value(np.array(1 / primitive.rows))
    name = f"d{primitive.output}"
    return value(_native(primitive, name, arrays[name]))


def _run_kept(graph: Any, arguments: Nodes, output: Any) -> Any:
    return graph._forward(arguments, dict.fromkeys(graph.outputs), CPU, {output})


def _run_backward(graph: Any, state: Any, roots: Nodes, gradients: Nodes) -> Nodes:
    """The gradients; those of the last call are let go first, or a sparse one is in the way."""
    for variable in gradients:
        gradients[variable] = None
    graph._backward(state, roots, gradients)
    return gradients


def _update(primitives: tuple[Primitive, ...], arrays: list[Arrays]) -> Call:
    """The learner's step on the parameters of a layer; its velocity comes from a step before."""
    parameters = [cntk.parameter(own["w"].shape, init=own["w"]) for own in arrays]
    gradients = _views(parameters, arrays, "dw")
    primitive = primitives[0]
    assert isinstance(primitive, SgdUpdate)
    sgd = learner(parameters, primitive.momentum, primitive.learning_rate, 1)
    if primitive.momentum:
        sgd._update(_views(parameters, arrays, "v"), 1, False)
        for parameter, own in zip(parameters, arrays):
            parameter.value = own["w"]

    def call() -> list[Any]:
        sgd._update(gradients, 1, False)
        return parameters

    return call


def _views(parameters: list[Any], arrays: list[Arrays], name: str) -> dict[Any, Any]:
    return {
        parameter: cntk.NDArrayView.from_dense(own[name], CPU)
        for parameter, own in zip(parameters, arrays)
    }
