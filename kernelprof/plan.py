"""From what the user asks for to the cases that are measured, and whether they fit in memory."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

from kernelprof.chains import chains
from kernelprof.engines import REFERENCE
from kernelprof.gpu.batches import gpu_batch
from kernelprof.probes.device import CPU
from kernelprof.probes.layers import PrimitiveLayer
from kernelprof.probes.network import INFER, TRAIN, Network
from kernelprof.probes.primitive import WARM, Primitive, product
from kernelprof.sizes import written

# What engines hold, as multiples of the operands, once as they come and once in an engine's own
# layout: seen as the most that workers took which had built fcn-s and alexnet-s.  Where kernels own
# their weights (a Caffe net's, say) each pass has a copy.
HELD = {"numpy": 0.5, "torch": 0.7, "tensorflow": 1.5, "cntk": 1.7, "mxnet": 1.7}
HELD_AT_MOST = 1.9
GPU_REFERENCE = "cupy"
ORACLE_BYTES = 2**28  # of float64 copies while a part of a kernel is checked


@dataclass(frozen=True)
class Case:
    """A network in an engine at a placement, batch and mode.

    Without ``whole`` only its kernels are timed: the reference that others are held against, or a
    primitive by itself.
    """

    network: str
    engine: str
    cpus: tuple[int, ...]
    batch: int
    mode: str
    whole: bool = True
    device: str = CPU

    @property
    def threads(self) -> int:
        """One thread per CPU."""
        return len(self.cpus)

    @property
    def title(self) -> str:
        """The case on one line."""
        threads = f"{self.threads} thread{'s' if self.threads > 1 else ''}"
        where = threads if self.device == CPU else f"{self.device}, {threads}"
        return f"{self.network} {self.mode} on {self.engine}, batch {self.batch}, {where}"


@dataclass(frozen=True)
class Group:
    """Cases that are measured together, in rounds: one network at one placement."""

    network: Network
    cpus: tuple[int, ...]
    batch: int
    cases: tuple[Case, ...]
    calibration: bool = False

    @property
    def engines(self) -> list[str]:
        """The engines that take part, each once."""
        return list(dict.fromkeys(case.engine for case in self.cases))

    @property
    def device(self) -> str:
        """What they are measured on."""
        return self.cases[0].device

    @property
    def alone(self) -> bool:
        """Whether it is a primitive by itself, and no network."""
        return all(layer.alone for layer in self.network.layers)

    def of(self, engine: str) -> list[Case]:
        """The cases of one engine."""
        return [case for case in self.cases if case.engine == engine]


@dataclass(frozen=True)
class StopRule:
    """When the rounds of a group end; fixed before the run and recorded in it.

    They end once every case's paired ratio of predicted to measured time is known to within
    ``half_width``, or in a bench the time of every kernel (after ``least`` rounds at the earliest),
    at ``most`` rounds, or when the group's share of the budget is spent: after one turn at the
    earliest, and before ``least`` rounds only if that would take twice the share.
    """

    half_width: float = 0.01
    least: int = 6
    most: int = 60


@dataclass(frozen=True)
class Options:
    """Everything that decides what a run measures: networks, or primitives by themselves."""

    networks: tuple[Network, ...]
    engines: tuple[str, ...]
    placements: tuple[tuple[int, ...], ...]
    modes: tuple[str, ...]
    batches: tuple[int, ...]  # none: each network's own
    quick: bool
    budget_s: float
    seed: int = 1
    variables: tuple[tuple[str, str, str], ...] = ()  # (engine, name, value)
    stop: StopRule = StopRule()
    primitives: tuple[Primitive, ...] = ()
    cache: str = WARM
    processes: int = 1  # fresh ones that take a case's rounds, one after another
    keeps_budget: bool = False  # it is all time that passes; what has no room in it is left out
    device: str = CPU

    def to_json(self) -> dict[str, Any]:
        """A JSON object, for the run file; it needs nothing else to be carried on with."""
        return {
            **asdict(replace(self, networks=(), primitives=())),
            "networks": [network.to_json() for network in self.networks],
            "primitives": [one.to_json() for one in self.primitives],
        }


def reference(device: str) -> str:
    """The engine of the reference kernels on a device."""
    return REFERENCE if device == CPU else GPU_REFERENCE


def planned(options: Options) -> list[Group]:
    """All that the options ask for: primitives by themselves, or networks."""
    if options.primitives:
        return primitive_groups(options)
    return groups(options)


def groups(options: Options) -> list[Group]:
    """All that a run of networks measures, and at each placement first the engines' chains.

    Every prediction at a placement needs them.  Light networks come before heavy ones: results
    appear soon, and what is left of their time goes to those that need it.
    """
    measured = [
        [_group(network, batch, cpus, options) for cpus in options.placements]
        for network in options.networks
        for batch in _batches(network, options)
    ]
    measured.sort(key=lambda same: weight(same[0]))
    planned: list[Group] = []
    for group in (group for same in measured for group in same):
        if all(earlier.cpus != group.cpus for earlier in planned):
            planned += [
                _group(chain, chain.batch, group.cpus, options, calibration=True)
                for chain in chains(options.networks)
            ]
        planned.append(group)
    return planned


def primitive_groups(options: Options) -> list[Group]:
    """All that a bench measures: each primitive by itself, in the order of the options.

    Each is a group of its own, so that only one at a time is in memory.
    """
    return [
        _group(alone(primitive), 1, cpus, options)
        for primitive in options.primitives
        for cpus in options.placements
    ]


def _batches(network: Network, options: Options) -> tuple[int, ...]:
    if options.batches:
        return options.batches
    if options.quick:
        return (network.quick_batch,)
    return (network.batch if options.device == CPU else gpu_batch(network),)


def _group(
    network: Network,
    batch: int,
    cpus: tuple[int, ...],
    options: Options,
    calibration: bool = False,
) -> Group:
    engines = list(options.engines)
    if reference(options.device) not in engines and not calibration:
        engines.append(reference(options.device))
    cases = tuple(
        Case(network.name, engine, cpus, batch, mode, _is_whole(engine, options), options.device)
        for engine in engines
        for mode in options.modes
    )
    return Group(network, cpus, batch, cases, calibration)


def _is_whole(engine: str, options: Options) -> bool:
    """Whether an engine runs whole networks, or only their kernels."""
    return engine in options.engines and not options.primitives


def alone(primitive: Primitive) -> Network:
    """A network of nothing but a primitive, called by its kind and size."""
    name = f"{primitive.kind} {written(primitive)}"
    layer = PrimitiveLayer(primitive.kind, (), primitive)
    return Network(name, "kernelprof bench", (layer,), batch=1, quick_batch=1)


def weight(group: Group) -> float:
    """A group's claim on the budget: a power of the memory it touches.

    Rounds of heavy networks are slow.  Equal shares would leave them a few rounds, shares in
    proportion would leave light networks a few.
    """
    return float(needed_bytes(group, reference(group.device)) ** 0.75)


def needed_bytes(group: Group, engine: str, together_bytes: int = 0) -> int:
    """Memory that the cases of one engine take, estimated from above.

    Counted are the layers' own operands, weights, gradients and velocity of the whole network,
    and what passes between its layers, each once more for an engine's copies in a layout of its
    own; of a layer that stands alone also the gradients of its operands; of an engine that unfolds
    images (the reference does) also the largest unfolded one.  Engines hold more or less of that.
    For operands that are to be cold come copies, ``together_bytes`` large for each kernel.
    """
    network, batch = group.network, group.batch
    mode = TRAIN if any(case.mode == TRAIN for case in group.of(engine)) else group.cases[0].mode
    layers = [
        primitive
        for layer in network.layers
        for primitive in network.primitives(layer, batch, mode)
    ]
    operands = sum(o.size_bytes for p in layers for o in p.operands().values())
    gradients = operands if mode == TRAIN and any(one.alone for one in network.layers) else 0
    outputs = sum(p.operand(p.output).size_bytes for p in layers)
    weights = network.parameters() * 4
    unfolds = engine in (REFERENCE, GPU_REFERENCE)
    unfolded = max((_unfolded_bytes(p) for p in layers), default=0) if unfolds else 0
    trained = 5 if mode == TRAIN else 1
    passes = len(layers) * (1 if mode == INFER else 3)
    copies = passes * together_bytes + 2 * operands if together_bytes else 0
    counted = 2 * (operands + outputs + unfolded) + gradients + trained * weights + copies
    return int(HELD.get(engine, HELD_AT_MOST) * counted) + ORACLE_BYTES


def _unfolded_bytes(primitive: Any) -> int:
    """Bytes of an image with a column for every window of a convolution."""
    if primitive.kind != "conv2d":
        return 0
    window = primitive.in_channels * product(primitive.kernel)
    output = primitive.operand("y")
    return int(window * output.size_bytes // primitive.out_channels)
