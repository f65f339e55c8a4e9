"""Take a network apart into kernels: what an engine runs in a single call.

A kernel is one primitive in one pass, or several where the engine has a single call for them: a
convolution with its bias, both backward passes of an LSTM.  An adapter says so in a ``Fusion``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from .layers import Layer
from .memory_bound import Add, SgdUpdate
from .network import TRAIN, Network
from .primitive import BACKWARD_DATA, BACKWARD_WEIGHTS, FORWARD, UPDATE, Primitive, product


@dataclass(frozen=True)
class Fusion:
    """What an engine runs in one call.

    ``chains`` lists, per pass, the kinds of consecutive primitives that go together;
    ``joint_passes`` the kinds whose two backward passes do.  ``updated_together`` parameters,
    whatever layers they are of, are updated in a call; if that is 0, those of a layer are.
    """

    chains: dict[str, tuple[tuple[str, ...], ...]] = field(default_factory=dict)
    joint_passes: tuple[str, ...] = ()
    updated_together: int = 0

    def to_json(self) -> dict[str, Any]:
        """A JSON object that says the same."""
        return {
            "chains": self.chains,
            "joint_passes": self.joint_passes,
            "updated_together": self.updated_together,
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Fusion:
        """The fusion that ``to_json`` wrote."""
        chains = {
            pass_: tuple(tuple(chain) for chain in chains)
            for pass_, chains in data["chains"].items()
        }
        return cls(chains, tuple(data["joint_passes"]), data.get("updated_together", 0))


@dataclass(frozen=True)
class Kernel:
    """One call of an engine within a network.

    ``members`` are the places of ``primitives`` in their layer; a gradient sum or an update that
    no layer lists has none.  ``updates`` says of an update what it changes: the layer of each
    parameter, and its place there.  It may go beyond ``layer``, which then is the first.
    ``releases`` are the kernels whose results the network drops after this one: a caller that
    holds results just as long meets the allocator in the state in which the network meets it.
    """

    layer: str
    primitives: tuple[Primitive, ...]
    passes: tuple[str, ...]
    members: tuple[int, ...] = ()
    updates: tuple[tuple[str, int], ...] = ()
    releases: tuple[int, ...] = ()

    @property
    def flop(self) -> int:
        """Floating-point operations of the call."""
        return sum(p.flop(pass_) for p in self.primitives for pass_ in self._passes_of(p))

    @property
    def least_bytes(self) -> int:
        """Bytes that must move, every operand of every primitive once per pass."""
        return sum(p.least_bytes(pass_) for p in self.primitives for pass_ in self._passes_of(p))

    @property
    def compute_flop(self) -> int:
        """The flop that count for the network: those of compute-bound primitives."""
        return sum(
            p.flop(pass_)
            for p in self.primitives
            if p.compute_bound
            for pass_ in self._passes_of(p)
        )

    @property
    def label(self) -> str:
        """Primitives with sizes, and the passes."""
        names = " + ".join(primitive.label for primitive in self.primitives)
        return f"{names} {'+'.join(self.passes)}"

    def _passes_of(self, primitive: Primitive) -> tuple[str, ...]:
        return tuple(pass_ for pass_ in self.passes if pass_ in primitive.passes)


def kernels(network: Network, batch: int, mode: str, fusion: Fusion) -> tuple[Kernel, ...]:
    """The kernels of one call of the network, in the order in which it runs them."""
    found = list(_forward(network, batch, mode, fusion))
    if mode == TRAIN:
        for layer in reversed(network.layers):
            found += _gradient_sums(network, layer, batch)
            found += _backward(network, layer, batch, fusion)
        found += _updates(network, fusion.updated_together)
    found += _updates_alone(network, batch, mode)
    return _with_releases(network, found)


def _forward(network: Network, batch: int, mode: str, fusion: Fusion) -> Iterator[Kernel]:
    for layer in network.layers:
        primitives = network.primitives(layer, batch, mode)
        for members in _groups(primitives, FORWARD, fusion):
            yield _kernel(layer, primitives, members, (FORWARD,))


def _backward(network: Network, layer: Layer, batch: int, fusion: Fusion) -> Iterator[Kernel]:
    primitives = network.primitives(layer, batch, TRAIN)
    asked = [network.passes(layer, primitive, TRAIN) for primitive in primitives]
    for pass_ in (BACKWARD_DATA, BACKWARD_WEIGHTS):
        for members in reversed(_groups(primitives, pass_, fusion)):
            if not any(pass_ in asked[member] for member in members):
                continue
            first = members[0]
            both = {BACKWARD_DATA, BACKWARD_WEIGHTS} <= set(asked[first])
            if not both or primitives[first].kind not in fusion.joint_passes:
                yield _kernel(layer, primitives, members, (pass_,))
            elif pass_ == BACKWARD_DATA:
                yield _kernel(layer, primitives, members, (BACKWARD_DATA, BACKWARD_WEIGHTS))


def _groups(primitives: tuple[Primitive, ...], pass_: str, fusion: Fusion) -> list[tuple[int, ...]]:
    """Places of the primitives that take part in a pass, those that the engine fuses together."""
    kinds = tuple(primitive.kind for primitive in primitives)
    groups: list[tuple[int, ...]] = []
    start = 0
    while start < len(kinds):
        chains = [c for c in fusion.chains.get(pass_, ()) if kinds[start : start + len(c)] == c]
        length = max((len(chain) for chain in chains), default=1)
        if length > 1 or pass_ in primitives[start].passes:
            groups.append(tuple(range(start, start + length)))
        start += length
    return groups


def _gradient_sums(network: Network, layer: Layer, batch: int) -> Iterator[Kernel]:
    """Where several layers read one output, their gradients are summed."""
    if not network.needs_gradient(layer):
        return
    for _ in network.consumers(layer.name)[1:]:
        elements = batch * product(network.shapes[layer.name])
        yield Kernel(layer.name, (Add(elements),), (FORWARD,))


def _updates(network: Network, together: int) -> Iterator[Kernel]:
    by_layer = [
        [
            (
                (layer.name, place),
                SgdUpdate(product(operand.shape), network.momentum, network.learning_rate),
            )
            for place, operand in enumerate(network.trained(layer))
        ]
        for layer in network.layers
    ]
    if together:
        every = [one for layer in by_layer for one in layer]
        by_layer = [every[first : first + together] for first in range(0, len(every), together)]
    for trained in by_layer:
        if trained:
            updates, primitives = zip(*trained)
            yield Kernel(updates[0][0], primitives, (UPDATE,), updates=updates)


def _updates_alone(network: Network, batch: int, mode: str) -> Iterator[Kernel]:
    """Updates that are the primitive of a layer themselves."""
    for layer in network.layers:
        primitives = network.primitives(layer, batch, mode)
        for member, primitive in enumerate(primitives):
            if UPDATE in network.passes(layer, primitive, mode):
                yield _kernel(layer, primitives, (member,), (UPDATE,))


def _kernel(
    layer: Layer,
    primitives: tuple[Primitive, ...],
    members: tuple[int, ...],
    passes: tuple[str, ...],
) -> Kernel:
    return Kernel(layer.name, tuple(primitives[m] for m in members), passes, members)


def _with_releases(network: Network, found: list[Kernel]) -> tuple[Kernel, ...]:
    """Say for each kernel which results nobody needs once it has run."""
    releases: list[list[int]] = [[] for _ in found]
    for index, kernel in enumerate(found):
        last = max((i for i in _readers(network, found, index) if i > index), default=index)
        if kernel.passes != (UPDATE,):
            releases[last].append(index)
    return tuple(
        Kernel(k.layer, k.primitives, k.passes, k.members, k.updates, tuple(released))
        for k, released in zip(found, releases)
    )


def _readers(network: Network, found: list[Kernel], index: int) -> Iterator[int]:
    """Places of the kernels that read the result of kernel ``index``."""
    kernel = found[index]
    layer = network.layer(kernel.layer)
    takers = {layer.name} | _gradient_takers(network, found, layer.inputs)
    if not kernel.members and _has_backward(found, layer.name):  # a sum, which stays in its layer
        takers = {layer.name}
    consumers = {consumer.name for consumer in _effective_consumers(network, found, layer)}
    for place, other in enumerate(found):
        same = other.layer == kernel.layer
        if kernel.passes == (FORWARD,) and kernel.members:
            if same and _reads_own_result(kernel, other):
                yield place
            if other.layer in consumers and (other.passes == (FORWARD,) or _reads_input(other)):
                yield place
        elif BACKWARD_WEIGHTS in kernel.passes:
            if kernel.layer in [layer for layer, _ in other.updates]:
                yield place
        elif other.layer in takers and UPDATE not in other.passes:
            yield place


def _gradient_takers(network: Network, found: list[Kernel], names: tuple[str, ...]) -> set[str]:
    """The layers that read the gradients of these outputs; a join hands its gradient on."""
    takers: set[str] = set()
    for name in names:
        if len(network.consumers(name)) > 1 or _has_backward(found, name):
            takers.add(name)
        else:
            takers |= _gradient_takers(network, found, network.layer(name).inputs)
    return takers


def _has_backward(found: list[Kernel], name: str) -> bool:
    backward = {BACKWARD_DATA, BACKWARD_WEIGHTS}
    return any(kernel.layer == name and backward & set(kernel.passes) for kernel in found)


def _reads_own_result(kernel: Kernel, other: Kernel) -> bool:
    """Whether a later kernel of the same layer reads what this forward kernel wrote."""
    if other.passes == (FORWARD,):
        return bool(other.members) and other.members[0] == kernel.members[-1] + 1
    if other.passes == (UPDATE,) or not set(other.members) & set(kernel.members):
        return False
    written = {name for p in kernel.primitives for name in p.writes[FORWARD]}
    return any(
        written & set(p.reads.get(pass_, ())) for p in other.primitives for pass_ in other.passes
    )


def _reads_input(kernel: Kernel) -> bool:
    """Whether a backward kernel reads what its layer took from others."""
    first = kernel.primitives[0]
    return 0 in kernel.members and any(
        set(first.inputs) & set(first.reads.get(pass_, ())) for pass_ in kernel.passes
    )


def _effective_consumers(network: Network, found: list[Kernel], layer: Layer) -> list[Layer]:
    """The layers that read a layer's output, seen through those that do nothing in this mode."""
    active = {kernel.layer for kernel in found}
    result: list[Layer] = []
    for consumer in network.consumers(layer.name):
        if consumer.name in active:
            result.append(consumer)
        else:
            result += _effective_consumers(network, found, consumer)
    return result
