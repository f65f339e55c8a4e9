"""What oneDNN, MKL and OpenBLAS print of themselves and of each call: read as data, never trusted.

oneDNN's lines are those of version 2 (``dnnl_verbose,exec``) and of version 3
(``onednn_verbose,v1,primitive,exec``), each with or without a time stamp; MKL's are those since
2018.  Their fields are told by the template that oneDNN prints first, and by Intel's guide to MKL.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from kernelprof.probes.compute_bound import BatchedGemm, Conv2d, Gemm, LstmCell
from kernelprof.probes.primitive import Primitive, product

# Whichever of them an engine's libraries know: each line is printed once nevertheless.
VERBOSE_VARIABLES = {
    "DNNL_VERBOSE": "1",
    "ONEDNN_VERBOSE": "1",
    "MKL_VERBOSE": "1",
    "OPENBLAS_VERBOSE": "2",
}
BEGIN, END = "kernelprof: begin", "kernelprof: end"  # as ``probes.observer`` marks calls
REORDER = "reorder"

ONEDNN = re.compile(r"(?:one|mkl)?dnnl?_verbose,(.*)")
FORMAT = "v1"  # of version 3, the only one so far
STAMP = re.compile(r"\d+\.\d+")
COMPONENTS = ("primitive", "graph", "ukernel", "common")
FIELDS = 8  # of a call at least: from the device to the time; attributes may hold commas
DATA_TYPE = re.compile(r"undef|boolean|(?:b?f|[sue])\d\w*")
MKL = "MKL_VERBOSE "
MKL_CALL = re.compile(r"(\w+)\(([^()]*)\) ([\d.]+)(ns|us|ms|s)\b(.*)")
MKL_THREADS = re.compile(r"NThr:(\d+)")
UNITS_S = {"ns": 1e-9, "us": 1e-6, "ms": 1e-3, "s": 1.0}
OPENBLAS = re.compile(r"Core: (\w+)")
MATRIX = r"(?:\d{1,12}x)+\d{1,12}"
MATRICES = re.compile(f"{MATRIX}(?::{MATRIX})+")
SIZE = re.compile(r"([a-z]+)(\d{1,12})")
CONVOLUTION = ("mb", "ic", "oc", "oh", "ow", "kh", "kw", "sh", "sw", "dh", "dw")
# How a problem is told apart from others: its kind and its sizes.
Key = tuple[str | int, ...]


@dataclass(frozen=True)
class OneDnnCall:
    """One primitive that oneDNN executed.

    ``propagation`` is ``forward_training``, ``backward_data`` and so on, ``undef`` where there is
    none.  ``tags`` are the layouts of its operands by their role (``src``, ``wei``, ``dst``, ...):
    one letter per axis, upper case where it is cut into blocks (``aBcd16b``).  ``attributes`` tell
    what is fused (``attr-post-ops:eltwise_relu``), and ``problem`` the sizes.
    """

    primitive: str
    implementation: str
    propagation: str
    tags: dict[str, str]
    attributes: str
    algorithm: str
    problem: str
    seconds: float


@dataclass(frozen=True)
class MklCall:
    """One routine that MKL ran: its arguments in the order of BLAS, matrices column by column."""

    routine: str
    arguments: tuple[str, ...]
    seconds: float
    threads: int | None

    @property
    def problem(self) -> str:
        """The sizes of a matrix product, row by row as oneDNN writes them; empty of the rest."""
        if not self.routine.endswith("GEMM") or len(self.arguments) < 5:
            return ""
        columns, rows, depth = self.arguments[2:5]
        return f"{rows}x{depth}:{depth}x{columns}"


@dataclass(frozen=True)
class Verbose:
    """All that the libraries of a process printed.

    ``isa`` is the instruction set that oneDNN uses and ``version`` oneDNN's; ``mkl`` is MKL's own
    line, which names its version and the instruction set that it is made for.  ``openblas_cores``
    are those of every OpenBLAS that was loaded, the first first.  ``unknown_lines`` begin as a
    library's do, and cannot be read.
    """

    isa: str | None = None
    version: str | None = None
    onednn: tuple[OneDnnCall, ...] = ()
    mkl: str | None = None
    mkl_calls: tuple[MklCall, ...] = ()
    openblas_cores: tuple[str, ...] = ()
    unknown_lines: int = 0


def section(text: str) -> str:
    """What was printed between the last pair of marks; nothing where there is none.

    A process that ended amid its calls left no second mark: then it is all after the first.
    """
    _, begun, after = text.rpartition(f"\n{BEGIN}\n")
    return after.partition(f"\n{END}\n")[0] if begun else ""


def banner(text: str) -> str:
    """The lines in which the libraries tell of themselves, and not of a call."""
    return "\n".join(line for line in text.splitlines() if _is_banner(line))


def _is_banner(line: str) -> bool:
    if line.startswith(MKL):
        return MKL_CALL.fullmatch(line[len(MKL) :]) is None
    match = ONEDNN.search(line)
    return bool(match and ",info," in f",{match[1]}") or OPENBLAS.fullmatch(line) is not None


def parse(text: str) -> Verbose:
    """Read what a process printed, of which most may be something else.  Never raises."""
    reader = _Reader()
    for line in text.splitlines():
        try:
            reader.read(line.strip())
        except (ValueError, IndexError):
            reader.unknown_lines += 1
    return Verbose(
        isa=reader.told.get("isa"),
        version=reader.told.get("version"),
        onednn=tuple(reader.onednn),
        mkl=reader.told.get("mkl"),
        mkl_calls=tuple(reader.mkl),
        openblas_cores=tuple(reader.cores),
        unknown_lines=reader.unknown_lines,
    )


@dataclass
class _Reader:
    """Reads line by line; a line that it cannot read is a ValueError or an IndexError."""

    told: dict[str, str] = field(default_factory=dict)
    onednn: list[OneDnnCall] = field(default_factory=list)
    mkl: list[MklCall] = field(default_factory=list)
    cores: list[str] = field(default_factory=list)
    unknown_lines: int = 0

    def read(self, line: str) -> None:
        if line.startswith(MKL):
            self._mkl(line[len(MKL) :])
        elif match := ONEDNN.search(line):
            self._onednn(match[1].split(","))
        elif match := OPENBLAS.fullmatch(line):
            self.cores.append(match[1])

    def _mkl(self, line: str) -> None:
        call = MKL_CALL.fullmatch(line)
        if call is None:
            if "MKL" not in line:
                raise ValueError(line)
            self.told.setdefault("mkl", line)
            return
        routine, arguments, duration, unit, circumstances = call.groups()
        threads = MKL_THREADS.search(circumstances)
        seconds = _number(duration) * UNITS_S[unit]
        sized = tuple(arguments.split(","))
        self.mkl.append(MklCall(routine, sized, seconds, int(threads[1]) if threads else None))

    def _onednn(self, fields: list[str]) -> None:
        if any("_verbose" in each for each in fields):
            raise ValueError("two lines in one")
        fields = _without_prefix(fields)
        if fields[0] == "info":
            self._info(fields[1:])
        elif fields[0] == "exec":
            self.onednn.append(_call(fields[1:]))
        elif not fields[0].startswith("create"):  # of a primitive, which a higher level tells too
            raise ValueError(fields[0])

    def _info(self, fields: list[str]) -> None:
        about = ",".join(fields)
        if about.startswith("oneDNN v"):
            self.told.setdefault("version", about.split()[1])
        elif about.startswith("cpu,isa:"):
            self.told.setdefault("isa", about.partition(":")[2])


def _without_prefix(fields: list[str]) -> list[str]:
    """The fields from the kind of line on."""
    place = 1 if fields[0] == FORMAT else 0
    if STAMP.fullmatch(fields[place]):
        place += 1
    if fields[place] in COMPONENTS:
        place += 1
    return fields[place:]


def _call(fields: list[str]) -> OneDnnCall:
    if len(fields) < FIELDS:
        raise ValueError("too few fields")
    _, primitive, implementation, propagation, operands, *attributes, auxiliary, problem, ms = (
        fields
    )
    return OneDnnCall(
        primitive=primitive,
        implementation=implementation,
        propagation=propagation,
        tags=dict(_layouts(operands)),
        attributes=",".join(attributes),
        algorithm=_algorithm(auxiliary),
        problem=problem,
        seconds=_number(ms) / 1e3,
    )


def _number(text: str) -> float:
    value = float(text)
    if not math.isfinite(value) or value < 0:
        raise ValueError(text)
    return value


def _layouts(operands: str) -> Iterator[tuple[str, str]]:
    """Role and tag of each operand that has one.

    Version 3 writes ``role:type:flags:kind:tag:strides:extra``, version 2
    ``role_type:flags:kind:tag:extra``.
    """
    for operand in operands.split():
        parts = operand.split(":")
        if len(parts) > 1 and DATA_TYPE.fullmatch(parts[1]):
            role, tag = parts[0], parts[4]
        else:
            role, tag = parts[0].rpartition("_")[0], parts[3]
        if tag and role:
            yield role, tag


def _algorithm(auxiliary: str) -> str:
    """Which of several ways to compute it, where that is told."""
    words = dict(word.partition(":")[::2] for word in auxiliary.split())
    return words.get("alg", "")


def matches(call: OneDnnCall | MklCall, primitives: Iterable[Primitive]) -> list[Primitive]:
    """Those primitives whose forward or backward pass a call is, or is a part of.

    Several, where sizes alone do not tell them apart: forwards through one layer a product has the
    sizes that it has backwards through another, and copied windows of images make a product too.
    """
    key = _key(call)
    return [p for p in primitives if key in _keys(p) or _is_of_windows(key, p)]


def reorders_by_primitive(
    calls: Iterable[OneDnnCall], primitives: Iterable[Primitive]
) -> dict[Primitive, list[OneDnnCall]]:
    """The reorders that each primitive asks for; those around other calls are left out.

    A reorder belongs to the call that follows it, or, if it reads a blocked layout that the call
    before it used, or if it is the last, to that one.
    """
    known = list(primitives)
    found: dict[Primitive, list[OneDnnCall]] = {}
    for reorder, owner in _owned(calls):
        for primitive in matches(owner, known)[:1] if owner else ():
            found.setdefault(primitive, []).append(reorder)
    return found


def _owned(calls: Iterable[OneDnnCall]) -> Iterator[tuple[OneDnnCall, OneDnnCall | None]]:
    """Each reorder with the call that asks for it."""
    before: OneDnnCall | None = None
    waiting: list[OneDnnCall] = []
    for call in calls:
        if call.primitive != REORDER:
            yield from ((reorder, call) for reorder in waiting)
            before, waiting = call, []
        elif before is not None and _undoes(call, before):
            yield call, before
        else:
            waiting.append(call)
    yield from ((reorder, before) for reorder in waiting)


def _undoes(reorder: OneDnnCall, call: OneDnnCall) -> bool:
    read = reorder.tags.get("src", "")
    return read != read.lower() and read in call.tags.values()


def _key(call: OneDnnCall | MklCall) -> Key:
    """What problem a call is; of one that is no such, something that no primitive is."""
    if MATRICES.fullmatch(call.problem):
        return _product_key(call.problem)
    sizes = {name: int(digits) for name, digits in SIZE.findall(call.problem)}
    kind = call.primitive if isinstance(call, OneDnnCall) else ""
    try:
        if kind == "convolution":
            return (kind, sizes.get("g", 1), *(sizes[name] for name in CONVOLUTION))
        if kind == "inner_product":
            pixels = product(tuple(sizes.get(name, 1) for name in ("id", "ih", "iw")))
            return (kind, sizes["mb"], sizes["oc"], sizes["ic"] * pixels)
        if kind == "rnn":
            return (kind, *(sizes[name] for name in ("t", "mb", "slc", "dhc")))
    except KeyError:  # written in another way
        pass
    return ("",)


def _product_key(problem: str) -> Key:
    """The key of ``128x256:256x64`` or, for products of a batch, ``8x128x256:8x256x64``."""
    matrices = [[int(size) for size in matrix.split("x")] for matrix in problem.split(":")]
    *batch, rows, depth = matrices[0]
    *second, _, columns = matrices[1]
    if product(tuple(second)) == 1:  # one matrix for all, so the others are as one below the other
        return _product(1, product(tuple(batch)) * rows, columns, depth)
    return _product(product(tuple(batch)), rows, columns, depth)


def _product(batch: int, *sizes: int) -> Key:
    """Backwards a product has the same three sizes in another order."""
    return ("product", batch, *sorted(sizes))


def _keys(primitive: Primitive) -> set[Key]:
    """What problems the passes of a primitive may be."""
    match primitive:
        case Gemm(m=m, n=n, k=k):
            return {_product(1, m, n, k), ("inner_product", m, n, k)}
        case BatchedGemm(batch=batch, m=m, n=n, k=k):
            return {_product(batch, m, n, k)}
        case Conv2d():
            return {_convolution(primitive)}
        case LstmCell(batch=batch, input_size=inputs, hidden_size=hidden, steps=steps):
            whole: Key = ("rnn", steps, batch, inputs, hidden)
            rows, columns = (batch, batch * steps), (inputs, hidden, inputs + hidden)
            return {whole, *(_product(1, row, 4 * hidden, c) for row in rows for c in columns)}
    return set()


def _convolution(conv: Conv2d) -> Key:
    """Padding is left out: engines pad by themselves where oneDNN cannot, and outputs tell it."""
    dilation = tuple(apart - 1 for apart in conv.dilation)
    sizes = conv.batch, conv.in_channels, conv.out_channels
    windows = *conv.extent, *conv.kernel, *conv.stride, *dilation
    return ("convolution", conv.groups, *sizes, *windows)


def _is_of_windows(key: Key, primitive: Primitive) -> bool:
    """Whether a product is one of filters with windows copied from an image (im2col)."""
    if not isinstance(primitive, Conv2d) or key[0] != "product":
        return False
    filters = primitive.out_channels // primitive.groups
    window = primitive.in_channels // primitive.groups * product(primitive.kernel)
    sizes = list(key[2:])
    if filters not in sizes:
        return False
    sizes.remove(filters)
    return window in sizes
