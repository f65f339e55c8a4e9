"""Correct before fast: what a kernel must yield, in float64, and how far a result is from it.

Of a large kernel a part is checked: evenly spread rows, channels or images, the first and the
last among them, so that the check of a network costs seconds and not minutes.
"""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from .data import Arrays
from .decompose import Kernel
from .device import TF32
from .primitive import BACKWARD_DATA, BACKWARD_WEIGHTS, FORWARD, UPDATE, Primitive
from .reference import run

PART_FLOP = 10**8  # of a compute-bound kernel that are checked, about
PART_BYTES = 2**21  # of the operands of any other
LEAST_PLACES = 4  # along a size that is cut
TOLERANCE = 1e-4  # of float32 results, relative to the largest element
# What rounding to fewer bits may add to that, in parts of a number.
UNIT_ROUNDOFF = {"float16": 2.0**-11, "bfloat16": 2.0**-8}
TF32_ROUNDOFF = 2.0**-11
ROUNDINGS = 4  # of one result: libraries may sum a product in parts, and round each

Size = tuple[int, str]  # a size of the primitive at a place in its kernel


class WrongResultError(Exception):
    """An engine's result is not what the mathematics says."""


class Result(NamedTuple):
    """One array that a kernel yields: its name, and the primitive and operand that it is."""

    name: str
    place: int
    operand: str


def results(kernel: Kernel) -> list[Result]:
    """What a kernel yields, in the order of its primitives.

    A forward pass yields only the last output, a backward pass the gradients of what the first
    primitive takes from other layers and of all parameters, an update the weights as w0, w1, ...
    """
    if kernel.passes == (UPDATE,):
        return [Result(f"w{place}", place, "w") for place in range(len(kernel.primitives))]
    if kernel.passes == (FORWARD,):
        last = len(kernel.primitives) - 1
        output = kernel.primitives[last].output
        return [Result(output, last, output)]
    found = []
    if BACKWARD_DATA in kernel.passes:
        found += [Result(f"d{name}", 0, f"d{name}") for name in kernel.primitives[0].inputs]
    if BACKWARD_WEIGHTS in kernel.passes:
        for place, primitive in enumerate(kernel.primitives):
            found += [Result(f"d{name}", place, f"d{name}") for name in primitive.parameters]
    return found


class Check:
    """What a kernel must yield on given arrays.  Made before the kernel runs: it may overwrite."""

    def __init__(self, kernel: Kernel, arrays: list[Arrays]) -> None:
        self.kernel = kernel
        self.cut = _cut(kernel)
        self.states = [
            {name: _as_float64(self.cut.part(place, name, array)) for name, array in own.items()}
            for place, own in enumerate(arrays)
        ]

    def verify(self, got: Arrays) -> float:
        """The largest relative error of the results, over the part that is checked.

        Raises:
            WrongResultError: a result is missing, has another size, or is off by more than
                the tolerance.
        """
        if self.kernel.primitives[-1].kind == "dropout":
            self._take_mask(got)
        want = expected(self.cut.kernel, self.states)
        return max(self._error(result, got, want[result.name]) for result in results(self.kernel))

    def _take_mask(self, got: Arrays) -> None:
        """What a dropout kept only the engine can tell: all that it did not turn into 0."""
        name, size = results(self.kernel)[0].name, self.kernel.primitives[0].operand("x").shape
        if name in got and got[name].size == size[0]:
            self.states[0]["mask"] = self.cut.part(0, "mask", got[name].reshape(size) != 0)

    def _error(self, result: Result, got: Arrays, want: Any) -> float:
        name, place, operand = result
        label = self.kernel.label
        if name not in got:
            raise WrongResultError(f"{label}: result {name!r} is missing")
        shape = self.kernel.primitives[place].operand(operand).shape
        if got[name].size != np.prod(shape, dtype=np.int64):
            raise WrongResultError(f"{label}: {name} has shape {got[name].shape}, not {shape}")
        error = relative_error(self.cut.part(place, operand, got[name].reshape(shape)), want)
        accepted = tolerance(self.kernel)
        if not error <= accepted:  # a NaN is not below it either
            raise WrongResultError(
                f"{label}: {name} is off by {error:.2g} of its largest element; "
                f"at most {accepted:.2g} is accepted"
            )
        return error


def tolerance(kernel: Kernel) -> float:
    """By how much of its largest element a result may be off, for its dtype.

    Factors in TF32 are exact, as the data is made for it; unless all products are asked to use it.
    """
    outputs = [each.operand(each.output) for each in kernel.primitives]
    roundoff = max(UNIT_ROUNDOFF.get(output.dtype, 0.0) for output in outputs)
    if os.environ.get(TF32) == "1" and any(each.compute_bound for each in kernel.primitives):
        roundoff = max(roundoff, TF32_ROUNDOFF)
    return TOLERANCE + ROUNDINGS * roundoff


def relative_error(got: Any, want: Any, least: float = 0.0) -> float:
    """The largest deviation, relative to the largest element that is wanted, or to ``least``."""
    if not want.size:
        return 0.0
    largest = max(float(np.max(np.abs(want))), least)
    deviation = float(np.max(np.abs(got.astype(np.float64).reshape(want.shape) - want)))
    return deviation / largest if largest else deviation


def expected(kernel: Kernel, states: list[Arrays]) -> Arrays:
    """The results of a kernel by name; each primitive works on the output of the one before."""
    if kernel.passes == (UPDATE,):
        for primitive, state in zip(kernel.primitives, states):
            state.update(run(primitive, UPDATE, state))
    else:
        if kernel.passes == (FORWARD,) or _reads_what_forward_leaves(kernel):
            _forward(kernel, states)
        if kernel.passes != (FORWARD,):
            _backward(kernel, states)
    return {name: states[place][operand] for name, place, operand in results(kernel)}


def _as_float64(array: Any) -> Any:
    return array.astype(np.float64) if array.dtype.kind == "f" else array


def _reads_what_forward_leaves(kernel: Kernel) -> bool:
    return any(
        set(primitive.writes[FORWARD]) & set(primitive.reads.get(pass_, ()))
        for primitive in kernel.primitives
        for pass_ in kernel.passes
    )


def _forward(kernel: Kernel, states: list[Arrays]) -> None:
    for place, (primitive, state) in enumerate(zip(kernel.primitives, states)):
        if place:
            before = kernel.primitives[place - 1]
            shape = primitive.operand(primitive.input).shape
            state[primitive.input] = states[place - 1][before.output].reshape(shape)
        state.update(run(primitive, FORWARD, state))


def _backward(kernel: Kernel, states: list[Arrays]) -> None:
    gradient = states[-1].get(f"d{kernel.primitives[-1].output}")
    for primitive, state in zip(reversed(kernel.primitives), reversed(states)):
        if gradient is not None:
            shape = primitive.operand(primitive.output).shape
            state[f"d{primitive.output}"] = gradient.reshape(shape)
        for pass_ in (BACKWARD_DATA, BACKWARD_WEIGHTS):
            if pass_ in primitive.passes and (
                pass_ in kernel.passes or _leads_on(primitive, pass_)
            ):
                state.update(run(primitive, pass_, state))
        if BACKWARD_DATA in primitive.passes:
            gradient = state.get(f"d{primitive.input}")


def _leads_on(primitive: Primitive, pass_: str) -> bool:
    """Whether the weights pass reads what this pass leaves: an LSTM's gate gradients."""
    left = set(primitive.writes[pass_])
    return pass_ == BACKWARD_DATA and bool(left & set(primitive.reads.get(BACKWARD_WEIGHTS, ())))


class Cut(NamedTuple):
    """A smaller kernel, and the places that are left of each size of the whole one."""

    kernel: Kernel
    whole: Kernel
    places: dict[Size, Any]

    def part(self, place: int, name: str, array: Any) -> Any:
        """What is left of an operand."""
        operand = self.whole.primitives[place].operand(name)
        for axis, size in enumerate(operand.axes):
            if (place, size) in self.places and array.shape[axis]:
                array = array.take(self.places[place, size], axis=axis)
        return array


def _cut(kernel: Kernel) -> Cut:
    """As much of a kernel as is cheap to compute in float64.

    It is cut along sizes that every result has: those are not summed over.
    """
    links = _linked_sizes(kernel)
    small, places = kernel, {}
    for linked in links:
        place, size = linked[0]
        if _excess(small) <= 1 or not _in_all_results(kernel, linked):
            continue
        length = getattr(kernel.primitives[place], size)
        count = min(length, max(LEAST_PLACES, int(length / _excess(small))))
        chosen = np.linspace(0, length - 1, count).astype(np.int64)
        places.update(dict.fromkeys(linked, chosen))
        small = replace(small, primitives=_resized(small.primitives, linked, count))
    return Cut(small, kernel, places)


def _excess(kernel: Kernel) -> float:
    """How many times more work a kernel is than is checked."""
    if kernel.compute_flop:
        return max(kernel.compute_flop / PART_FLOP, kernel.least_bytes / (16 * PART_BYTES))
    return kernel.least_bytes / PART_BYTES


def _linked_sizes(kernel: Kernel) -> list[list[Size]]:
    """The sizes of a chain: one primitive's output axes are the next one's input axes."""
    groups: list[list[Size]] = []
    for place, primitive in enumerate(kernel.primitives):
        own = {a for o in primitive.operands().values() for a in o.axes if a}
        if place and kernel.members:
            before = kernel.primitives[place - 1]
            outputs = before.operand(before.output).axes
            inputs = primitive.operand(primitive.input).axes
            for there, here in zip(outputs, inputs):
                own.discard(here)  # also where nothing before is cut: channels of a grouped one
                for group in groups:
                    if (place - 1, there) in group:
                        group.append((place, here))
        groups += [[(place, size)] for size in sorted(own)]
    return groups


def _in_all_results(kernel: Kernel, linked: list[Size]) -> bool:
    if kernel.passes == (UPDATE,):  # every parameter is updated by itself
        return True
    return all(
        any(
            p == place and size in kernel.primitives[place].operand(name).axes for p, size in linked
        )
        for _, place, name in results(kernel)
    )


def _resized(
    primitives: tuple[Primitive, ...], linked: list[Size], count: int
) -> tuple[Primitive, ...]:
    changed = list(primitives)
    for place, size in linked:
        changed[place] = replace(changed[place], **{size: count})
    return tuple(changed)
