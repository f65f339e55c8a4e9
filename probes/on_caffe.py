"""The caffe engine: BVLC Caffe on the CPU, its static nets run from pycaffe.

A kernel is a net of one layer, of which a call runs one direction; a training step is the solver's
own.  Blobs keep their memory from call to call, as they do in any Caffe net.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
import tempfile
from collections import Counter
from typing import Any, Callable, NamedTuple

os.environ.setdefault("GLOG_minloglevel", "2")  # read on import; else each net logs a page

import caffe
import numpy as np

from .caffe_prototxt import (
    SPLIT,
    Block,
    Chain,
    Inputs,
    Message,
    block,
    differentiated,
    in_place,
    input_shape,
    net_message,
    overwritable,
    require_blobs,
    solver_message,
    text,
    trains,
)
from .data import Arrays, NetworkData
from .decompose import Fusion, Kernel
from .device import CPU, require_cpu
from .engine import Call, Engine, WholeNetwork
from .layers import Input
from .memory_bound import Activation, SgdUpdate
from .network import TRAIN, Network
from .oracle import results
from .placement import openblas_threads
from .primitive import BACKWARD_WEIGHTS, FORWARD, UPDATE, Primitive, Shape
from .spans import ProfiledCall
from .spans_caffe import inference_steps, profiled_call, training_steps

WITH_BIAS = (("conv2d", "bias"), ("gemm", "bias"))
DATA, DIFF = "data", "diff"  # the two arrays of a blob
GATED = ("wx", "wh", "bias")  # operands of an LSTM with a block of rows per gate


def start(device: str = CPU) -> Engine:
    """The engine in this process, on a device.

    Raises:
        NoDeviceError: it does not compute there.
    """
    require_cpu(device, "caffe")
    caffe.set_mode_cpu()
    return CaffeEngine()


class CaffeEngine(Engine):
    """Convolutions and matrix products own their bias; an LSTM has one backward pass for all."""

    fusion = Fusion({FORWARD: WITH_BIAS, BACKWARD_WEIGHTS: WITH_BIAS}, ("lstm_cell",))
    shares_operands = False  # a net owns its blobs

    def __init__(self) -> None:
        self.package = _package()  # before anything runs: to fork ends the threads of OpenBLAS

    def facts(self) -> dict[str, Any]:
        return {
            "version": caffe.__version__,
            "package": self.package,
            "precision": "float32",
            "layout": "NCHW",
            "fc_weights": "(out, in)",
            "algorithm_search": "none: im2col and a matrix product for each image",
            "in_place": "relu and dropout, where no backward pass reads what they overwrite",
            "blas": _openblas(),
        }

    def threads(self) -> int | None:
        return openblas_threads()

    def kernel(self, kernel: Kernel, arrays: list[Arrays], training: bool) -> Call:
        require_blobs(kernel.primitives)
        if kernel.passes == (UPDATE,):
            return _update(kernel.primitives, arrays)
        if not kernel.members:
            return _gradient_sum(kernel.primitives[0], arrays[0])
        if kernel.passes == (FORWARD,):
            return _forward(kernel, arrays, caffe.TRAIN if training else caffe.TEST)
        return _backward(kernel, arrays)

    def fetch(self, kernel: Kernel, result: Any) -> Arrays:
        return {name: held.read() for name, held in result.items()}

    def network(self, network: Network, mode: str, data: NetworkData) -> WholeNetwork:
        return CaffeNetwork(network, mode, data)


def _package() -> str:
    """The version of Debian's package, which names the commit; empty for another build."""
    command = ["dpkg-query", "--show", "--showformat=${Version}", "python3-caffe"]
    try:
        return subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout.decode()
    except (OSError, subprocess.CalledProcessError):
        return ""


def _openblas() -> str:
    """Version and core type of the OpenBLAS that is loaded; empty with another BLAS."""
    try:
        library = ctypes.CDLL("libopenblas.so.0", mode=os.RTLD_NOW | os.RTLD_NOLOAD)
    except OSError:
        return ""
    library.openblas_get_config.restype = ctypes.c_char_p
    return str(library.openblas_get_config().decode())


class Held(NamedTuple):
    """An operand in a blob, as its data, or its gradient, as the blob's diff."""

    primitive: Primitive
    operand: str
    blob: Any
    half: str = DATA

    def read(self) -> Any:
        """A copy, as the primitive has it."""
        array = getattr(self.blob, self.half).reshape(self.primitive.operand(self.operand).shape)
        return self._ordered(array).copy()

    def write(self, array: Any) -> None:
        """Set it to what the primitive has."""
        blob = getattr(self.blob, self.half)
        blob[...] = self._ordered(array).reshape(blob.shape)

    def _ordered(self, array: Any) -> Any:
        """Caffe has an LSTM's gates as i, f, o, g: there and back the last two change places."""
        if self.primitive.kind != "lstm_cell" or self.operand not in GATED:
            return array
        i, f, g, o = np.split(array, 4)
        return np.concatenate((i, f, o, g))


def _load(message: Message, make: Callable[[str], Any]) -> Any:
    """A net or a solver; Caffe reads it from a file."""
    with tempfile.NamedTemporaryFile("w", suffix=".prototxt") as file:
        file.write(text(message))
        file.flush()
        return make(file.name)


def _net(message: Message, phase: int) -> Any:
    return _load(message, lambda path: caffe.Net(path, phase))


def _fill(net: Any, chain: Chain, found: Block, value: Callable[[int, str], Any]) -> None:
    """Write the operands of a block, ``value(place, operand)``, into their blobs."""
    for operand, (blob, _) in found.inputs.items():
        Held(chain[0], operand, net.blobs[blob]).write(value(0, operand))
    for place, operand in found.operands:
        _owned(net, chain, found, place, operand).write(value(place, operand))
    for layer in found.layers:
        if layer.type == "BatchNorm":  # its statistics are sums over so many batches
            net.params[layer.name][2].data[...] = 1


def _owned(net: Any, chain: Chain, found: Block, place: int, operand: str) -> Held:
    """An operand that a layer owns."""
    layer, index = found.operands[place, operand]
    return Held(chain[place], operand, net.params[layer][index])


class Alone:
    """A chain of primitives in a net of its own, filled with its operands.

    A ReLU works in place, as it mostly does in a network; calling it again changes nothing.  All
    else would go on from its own result and has a blob of its own to write to.
    """

    def __init__(self, kernel: Kernel, arrays: list[Arrays], phase: int, backward: bool) -> None:
        self.chain = kernel.primitives
        first = self.chain[0]
        operands = dict(zip(("x", "other"), first.inputs))
        inputs: Inputs = dict.fromkeys(operands, input_shape(first))
        self.block = block(self.chain, "y", tuple(inputs), inputs["x"])
        if _is_relu(first):
            self.block = in_place(self.block, "x")
        inputs.update(self.block.inputs.values())
        layers = differentiated(self.block, "x", kernel.passes) if backward else self.block.layers
        self.trains = any(trains(layer, kernel.passes) for layer in layers)
        ends = ("x",) if backward and not self.trains else ()  # Caffe goes back to parameters only
        self.net = _net(net_message(inputs, layers, ends), phase)
        self.first, self.last = len(inputs), len(inputs) + len(layers) - 1
        for name, operand in operands.items():
            blob = self.net.params[name][0] if name in ends else self.net.blobs[name]
            Held(first, operand, blob).write(arrays[0][operand])
        _fill(self.net, self.chain, self.block, lambda place, name: arrays[place][name])

    @property
    def output(self) -> Held:
        """What the last layer yields."""
        last = self.chain[-1]
        return Held(last, last.output, self.net.blobs[self.block.top])

    def gradient(self, place: int, operand: str) -> Held:
        """The gradient of the input or of a parameter."""
        if (place, operand) in self.block.operands:
            held = _owned(self.net, self.chain, self.block, place, operand)
        else:
            held = Held(self.chain[place], operand, self.net.blobs["x"])
        return held._replace(half=DIFF)


def _forward(kernel: Kernel, arrays: list[Arrays], phase: int) -> Call:
    alone = Alone(kernel, arrays, phase, backward=False)
    result = {alone.output.operand: alone.output}
    run, first, last = alone.net._forward, alone.first, alone.last

    def call() -> dict[str, Held]:
        run(first, last)
        return result

    return call


def _backward(kernel: Kernel, arrays: list[Arrays]) -> Call:
    """The way back through a net that has been run forward once.

    Caffe adds to the gradients of parameters: a call clears them first, as a training step does.
    """
    alone = Alone(kernel, arrays, caffe.TRAIN, backward=True)
    result = {r.name: alone.gradient(r.place, r.operand[1:]) for r in results(kernel)}
    if not result:
        raise ValueError(f"{kernel.label} yields no gradient")
    alone.net._forward(0, alone.last)
    gradient = f"d{alone.output.operand}"
    if gradient in arrays[-1]:
        alone.output._replace(half=DIFF).write(arrays[-1][gradient])
    clear, run = alone.net.clear_param_diffs, alone.net._backward
    first, last = alone.first, alone.last

    def call() -> dict[str, Held]:
        run(last, first)
        return result

    def clear_and_call() -> dict[str, Held]:
        clear()
        run(last, first)
        return result

    return clear_and_call if alone.trains else call


def _gradient_sum(primitive: Primitive, own: Arrays) -> Call:
    """Where Caffe splits a blob for two readers, the way back adds up their gradients."""
    inputs: Inputs = {"x": primitive.operand("x").shape}
    net = _net(net_message(inputs, (SPLIT,), trained=("x",)), caffe.TRAIN)
    for top, operand in zip(SPLIT.tops, ("x", "other")):
        Held(primitive, operand, net.blobs[top], DIFF).write(own[operand])
    run, result = net._backward, {"y": Held(primitive, "y", net.blobs["x"], DIFF)}

    def call() -> dict[str, Held]:
        run(1, 1)
        return result

    return call


def _update(primitives: Chain, arrays: list[Arrays]) -> Call:
    """The solver's own update of a net that is nothing but these parameters.

    It leaves the step in the gradient's place, where the next call would take it for a gradient
    and shrink it, down to denormal numbers; at the rate 1 - momentum it keeps its size.
    """
    update = primitives[0]
    assert isinstance(update, SgdUpdate)
    shapes = {f"w{place}": p.operand("w").shape for place, p in enumerate(primitives)}
    net = net_message(shapes, (), trained=tuple(shapes))
    solver = _solver(net, update.momentum, update.learning_rate)
    weights = {
        name: Held(primitive, "w", solver.net.params[name][0])
        for name, primitive in zip(shapes, primitives)
    }

    def prepare(gradient: str) -> None:
        for held, own in zip(weights.values(), arrays):
            held.write(own["w"])
            held._replace(half=DIFF).write(own[gradient])

    if update.momentum:
        prepare("v")
        solver.apply_update()  # on an empty history, which becomes v times the rate
    prepare("dw")
    apply, settings, steady = solver.apply_update, solver.param, 1 - update.momentum

    def call() -> dict[str, Held]:
        apply()
        settings.base_lr = steady
        return weights

    return call


def _solver(net: Message, momentum: float, learning_rate: float) -> Any:
    return _load(solver_message(net, momentum, learning_rate), caffe.SGDSolver)


def _is_relu(primitive: Primitive) -> bool:
    return isinstance(primitive, Activation) and primitive.function == "relu"


class Plan:
    """The blocks of a Caffe net for a network, by layer, and the blob of each layer's output."""

    def __init__(self, network: Network, mode: str, batch: int) -> None:
        data = network.input.name
        self.chains = {
            layer.name: network.primitives(layer, batch, mode) for layer in network.layers
        }
        self.inputs: Inputs = {data: _blob_shape(network, data, batch)}
        self.blocks: dict[str, Block] = {}
        self.tops = {data: data}
        origin = self._origins(network)
        readers = Counter(
            origin[source]
            for layer in network.layers
            if self.chains[layer.name]
            for source in layer.inputs
        )
        for layer in network.layers[1:]:
            sources = [origin[name] for name in layer.inputs]
            if self.chains[layer.name]:
                shape = _blob_shape(network, sources[0], batch)
                alone = readers[sources[0]] == 1
                self._add(layer.name, sources, shape, alone)
            self.tops[layer.name] = self.tops[origin[layer.name]]

    def _origins(self, network: Network) -> dict[str, str]:
        """The layer that each layer's output comes from: inference passes by a dropout."""
        origin: dict[str, str] = {}
        for layer in network.layers:
            passed_by = layer.inputs and not self.chains[layer.name]
            origin[layer.name] = origin[layer.inputs[0]] if passed_by else layer.name
        return origin

    def _add(self, name: str, sources: list[str], shape: Shape, alone: bool) -> None:
        """Add the block of a layer; ``alone`` says that no other layer reads its first source."""
        chain, before = self.chains[name], self.chains[sources[0]]
        bottoms = tuple(self.tops[source] for source in sources)
        found = block(chain, name, bottoms, shape)
        habit = _is_relu(chain[0]) or chain[0].kind == "dropout"
        if habit and alone and before and overwritable(before):
            found = in_place(found, bottoms[0])
        self.blocks[name] = found
        self.inputs.update(found.inputs.values())
        self.tops[name] = found.top

    def message(self) -> Message:
        """The net."""
        layers = [layer for found in self.blocks.values() for layer in found.layers]
        return net_message(self.inputs, tuple(layers))

    def owners(self) -> dict[str, str]:
        """The network's layer that each of the net's layers belongs to."""
        owners = dict.fromkeys(self.inputs, next(iter(self.tops)))  # the data
        for layer, found in self.blocks.items():
            owners.update({each.name: layer for each in found.layers})
            owners.update({blob: layer for blob, _ in found.inputs.values()})
        return owners


def _blob_shape(network: Network, name: str, batch: int) -> Shape:
    """The shape of a layer's output in memory: the steps of a sequence come before the batch."""
    shape = network.shapes[name]
    layer = network.layer(name)
    if len(shape) == 2 or (isinstance(layer, Input) and layer.vocabulary):
        return (shape[0], batch, *shape[1:])
    return (batch, *shape)


class CaffeNetwork(WholeNetwork):
    """One net; a training step is one of ``SGDSolver``."""

    def __init__(self, network: Network, mode: str, data: NetworkData) -> None:
        self.mode = mode
        plan = Plan(network, mode, data.batch)
        self.owners = plan.owners()
        for chain in plan.chains.values():
            require_blobs(chain)
        if mode == TRAIN:
            self.solver = _solver(plan.message(), network.momentum, network.learning_rate)
            self.net = self.solver.net
        else:
            self.net = _net(plan.message(), caffe.TEST)
        self.last = len(self.net.layers) - 1
        self.output = self.net.blobs[plan.tops[network.layers[-1].name]]
        source = self.net.blobs[network.input.name]
        source.data[...] = data.input.reshape(source.data.shape)
        self.trained: dict[tuple[str, int, str], Held] = {}
        for name, found in plan.blocks.items():
            self._fill(name, plan.chains[name], found, data)
        self.parameters = sum(
            blob.count
            for name, blobs in self.net.params.items()
            if self.net.layer_dict[name].type != "BatchNorm"  # statistics, which no solver trains
            for blob in blobs
        )

    def _fill(self, name: str, chain: Chain, found: Block, data: NetworkData) -> None:
        def value(place: int, operand: str) -> Any:
            array = data.parameters.get((name, place, operand))
            return data.fixed(chain[place], operand) if array is None else array

        _fill(self.net, chain, found, value)
        for place, operand in found.operands:
            if operand in chain[place].parameters:
                held = _owned(self.net, chain, found, place, operand)
                self.trained[name, place, operand] = held

    def call(self) -> Any:
        if self.mode == TRAIN:
            self.solver.step(1)
        else:
            self.net._forward(0, self.last)

    def evaluate(self) -> Arrays:
        if self.mode != TRAIN:
            self.call()
            return {"output": self.output.data.copy()}
        self.net.clear_param_diffs()
        self.net._forward(0, self.last)
        self.net._backward(self.last, 0)
        gradients = self._read(DIFF)
        return {"loss": self.output.data.copy(), **gradients}

    def weights(self) -> Arrays:
        return self._read(DATA)

    def profile(self, calls: int) -> list[ProfiledCall]:
        if self.mode == TRAIN:
            steps = training_steps(self.net, self.owners, self.solver)
        else:
            steps = inference_steps(self.net, self.owners)
        return [profiled_call(steps) for _ in range(calls)]

    def _read(self, half: str) -> Arrays:
        return {
            ".".join(map(str, key)): held._replace(half=half).read()
            for key, held in self.trained.items()
        }
