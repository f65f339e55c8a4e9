"""Random data of sane scale: uniform, with the standard deviation that an operand asks for."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np

from .decompose import Kernel
from .network import TRAIN, Network
from .primitive import SHORTER_FLOATS, Operand, Primitive, product

BLOCK = 1048573  # numbers, the largest prime below 2**20
SIGNIFICANT_BITS = {"bfloat16": 8, "tf32": 11}  # of dtypes that NumPy has not

Arrays = dict[str, Any]  # operand name -> numpy array
Parameters = dict[tuple[str, int, str], Any]  # (layer, member, operand) -> numpy array


def random_array(operand: Operand, random: np.random.RandomState) -> Any:
    """An array for an operand; a large one repeats a block of random numbers.

    The block's length is prime, so that no two rows or columns of an array are alike.  One of
    SHORTER_FLOATS travels as float32.
    """
    if operand.upper:
        return random.randint(operand.upper, size=operand.shape, dtype=np.int64)
    length = min(product(operand.shape), BLOCK)
    short = operand.dtype in SHORTER_FLOATS
    block = random.random_sample(length).astype("float32" if short else operand.dtype)
    block -= 0.5
    block *= 12**0.5 * operand.scale  # a uniform variable of width 1 deviates by 12**-0.5
    return np.resize(rounded(block, operand.dtype) if short else block, operand.shape)


def rounded(array: Any, dtype: str) -> Any:
    """The nearest numbers that one of SHORTER_FLOATS can hold, in float32; none overflows."""
    if dtype == "float16":
        return array.astype(np.float16).astype(np.float32)
    mantissa, exponent = np.frexp(array)
    bits = SIGNIFICANT_BITS[dtype]
    return np.ldexp(np.rint(np.ldexp(mantissa, bits)), exponent - bits)


def primitive_arrays(primitive: Primitive, random: np.random.RandomState) -> Arrays:
    """Data for the operands that come from outside: those of the first pass, and the gradient."""
    names = list(primitive.reads[primitive.passes[0]])
    gradient = f"d{primitive.output}"
    if any(gradient in reads for reads in primitive.reads.values()):
        names.append(gradient)
    arrays = {name: random_array(primitive.operand(name), random) for name in names}
    if "running_variance" in arrays:
        arrays["running_variance"] += 1.0
    return arrays


class NetworkData:
    """The data of a network at a batch: for its layers one by one, and for it as a whole.

    The layers' arrays are made on first use and shared by all kernels of a layer, as its passes
    share them in a network.
    """

    def __init__(self, network: Network, batch: int, seed: int = 0) -> None:
        self.network = network
        self.batch = batch
        self._random = np.random.RandomState(seed)
        self._layers: dict[str, list[Arrays]] = {}

    def layer(self, name: str) -> list[Arrays]:
        """The arrays of each primitive of a layer."""
        if name not in self._layers:
            layer = self.network.layer(name)
            self._layers[name] = [
                primitive_arrays(primitive, self._random)
                for primitive in self.network.primitives(layer, self.batch, TRAIN)
            ]
        return self._layers[name]

    def kernel(self, kernel: Kernel) -> list[Arrays]:
        """The arrays of each primitive of a kernel; an update works on its layers' parameters."""
        if kernel.members:
            layer = self.layer(kernel.layer)
            return [layer[member] for member in kernel.members]
        arrays = [primitive_arrays(primitive, self._random) for primitive in kernel.primitives]
        for own, (name, place) in zip(arrays, kernel.updates):
            own["w"] = self._trained(name)[place].reshape(-1)
        return arrays

    def _trained(self, name: str) -> list[Any]:
        primitives = self.network.primitives(self.network.layer(name), self.batch, TRAIN)
        return [
            arrays[operand]
            for primitive, arrays in zip(primitives, self.layer(name))
            for operand in primitive.parameters
        ]

    @cached_property
    def parameters(self) -> Parameters:
        """All trained arrays of the whole network: not those of its layers' kernels."""
        return {
            (layer.name, member, name): self.layer(layer.name)[member][name].copy()
            for layer in self.network.layers
            for member, primitive in enumerate(self.network.primitives(layer, self.batch, TRAIN))
            for name in primitive.parameters
        }

    @cached_property
    def input(self) -> Any:
        """The network's data: batch first, but after the steps of a sequence."""
        source = self.network.input
        is_sequence = source.vocabulary or len(source.shape) == 2
        steps, sample = (source.shape[:1], source.shape[1:]) if is_sequence else ((), source.shape)
        dtype = "int64" if source.vocabulary else "float32"
        data = Operand((*steps, self.batch, *sample), dtype, upper=source.vocabulary)
        return random_array(data, self._random)

    @cached_property
    def labels(self) -> Any:
        """Random classes, one for each row that the loss sees."""
        (loss,) = (layer for layer in self.network.layers if layer.kind == "loss")
        (primitive,) = self.network.primitives(loss, self.batch, TRAIN)
        return random_array(primitive.operand("labels"), self._random)

    def fixed(self, primitive: Primitive, name: str) -> Any:
        """An operand that is neither trained nor computed, or None if it is one of those.

        Labels, the zero state before an LSTM's first step, and running statistics.
        """
        shape = primitive.operand(name).shape
        if name == "labels":
            return self.labels
        if name in ("h0", "c0", "running_mean"):
            return np.zeros(shape, np.float32)
        if name == "running_variance":
            return np.ones(shape, np.float32)
        return None
