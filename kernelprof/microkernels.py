"""Loops that keep one limit of a core busy and nothing else: arithmetic, memory, or the clock.

They are written in LLVM's intermediate language, with every vector spelled out, and compiled
without any optimisation pass (machinecode.py).  So the loop that is written is the loop that runs,
for each instruction set in turn, and not what a compiler's vectoriser makes of it.  All have the
signature

    void kernel(float *a, float *b, float *c, int64 mask, int64 start, int64 steps)

A step moves by ``step_bytes`` through arrays of ``mask + 1`` bytes, a power of two, and starts
over at their ends: one branch, always taken, however small the arrays are.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise

ITEM_BYTES = {"float32": 4, "float64": 8}
LLVM_TYPES = {"float32": "float", "float64": "double"}

CLOCK_CHAIN = 32  # operations of a step that wait for one another
UNROLLED = 8  # vectors that a step takes from each array

READ, COPY, TRIAD, UPDATE = "read", "copy", "triad", "update"
# Stores that pass the caches by: they spare the reading of lines that are written whole.
COPY_STREAMING, TRIAD_STREAMING = "copy, streaming stores", "triad, streaming stores"
STREAMING = (COPY_STREAMING, TRIAD_STREAMING)
FENCE = "fence seq_cst"  # so that streaming stores are done when the call is
ARRAYS = {READ: 1, COPY: 2, TRIAD: 3, UPDATE: 2, COPY_STREAMING: 2, TRIAD_STREAMING: 3}
TRAFFIC = {**ARRAYS, UPDATE: 3}  # of arrays, in a step: an update reads what it overwrites


@dataclass(frozen=True)
class InstructionSet:
    """A way to do arithmetic: with vectors of so many bytes, or with single numbers (0).

    ``flags`` are what /proc/cpuinfo must show and ``features`` what LLVM may use.
    ``instruction`` is what each line of the loop has to look like; {x} stands for the letter of
    the type.  Where multiplication and addition are not ``fused``, they take turns.

    As many ``accumulators`` as pipes times cycles of latency keep all pipes busy: 2 times 4 (Zen,
    Skylake) or 5 (Haswell) on x86, where 14 and the two operands that they share fill the 16
    registers; 4 times 4 on the widest cores of ARM, which have 32.
    """

    name: str
    flags: tuple[str, ...]
    features: str
    vector_bytes: int
    instruction: str
    fused: bool = True
    accumulators: int = 14
    pipes: int = 2

    def lanes(self, dtype: str) -> int:
        """Numbers that one instruction works on."""
        return max(self.vector_bytes // ITEM_BYTES[dtype], 1)

    def flop_per_cycle(self, dtype: str) -> int:
        """More than any core known can do: a multiply-add in each pipe.

        A core with pipes of their own for multiplications and for additions does as much with
        either of the two in each.
        """
        return 2 * self.pipes * self.lanes(dtype)


# What any machine can be asked for; LLVM makes of its vectors what there is.
BASELINE = InstructionSet("baseline", (), "", 16, "")


# Of two rows with one name the later one is the faster.
INSTRUCTION_SETS = (
    InstructionSet("scalar", ("sse4_2",), "+sse4.2", 0, r"(mul|add)s{x} %xmm.*", fused=False),
    InstructionSet("scalar", ("fma",), "+avx,+fma", 0, r"vfmadd\d+s{x} %xmm.*"),
    InstructionSet("sse", ("sse4_2",), "+sse4.2", 16, r"(mul|add)p{x} %xmm.*", fused=False),
    InstructionSet("avx", ("avx",), "+avx", 32, r"v(mul|add)p{x} %ymm.*", fused=False),
    InstructionSet("avx2", ("avx2", "fma"), "+avx2,+fma", 32, r"vfmadd\d+p{x} %ymm.*"),
    InstructionSet("avx512", ("avx512f",), "+avx512f", 64, r"vfmadd\d+p{x} %zmm.*"),
    InstructionSet("scalar", ("asimd",), "+neon", 0, r"fmadd {x}.*", accumulators=28, pipes=6),
    InstructionSet(
        "neon", ("asimd",), "+neon", 16, r"fmla v\d+\.\d{x}.*", accumulators=28, pipes=6
    ),
)


@dataclass(frozen=True)
class Microkernel:
    """A loop before it is compiled, and what one step of it does.

    ``work`` counts flop, bytes, or cycles of the clock.  The arrays hold numbers of ``dtype``.
    """

    name: str
    code: str
    features: str
    work: int
    step_bytes: int = 0
    arrays: int = 3
    dtype: str = "float32"


def instruction_sets(flags: Iterable[str]) -> dict[str, InstructionSet]:
    """Those that a machine with these flags has, by name, narrow ones first."""
    known = set(flags)
    return {one.name: one for one in INSTRUCTION_SETS if known.issuperset(one.flags)}


def arithmetic(isa: InstructionSet, dtype: str) -> Microkernel:
    """Independent chains of multiply-adds, or of multiplications and of additions, in registers."""
    lanes = isa.lanes(dtype)
    vector = _vector(LLVM_TYPES[dtype], lanes)
    chains = [f"r{i}" for i in range(isa.accumulators)]
    intrinsic = f"@llvm.fma.{'v' + str(lanes) if isa.vector_bytes else ''}f{8 * ITEM_BYTES[dtype]}"

    def step(place: int, chain: str) -> str:
        if isa.fused:
            operation = f"call {vector} {intrinsic}({vector} %x, {vector} %y, {vector} %{chain})"
        else:
            operation = f"{'fadd' if place % 2 else 'fmul'} {vector} %{chain}, %x"
        return f"%{chain}.next = {operation}"

    loads = [f"%{chain}.first = load {vector}, ptr %a" for chain in chains]
    code = _loop(
        setup=[f"%x = load {vector}, ptr %b", f"%y = load {vector}, ptr %c", *loads],
        carried={chain: (vector, f"%{chain}.first") for chain in chains},
        body=[step(place, chain) for place, chain in enumerate(chains)],
        finish=[f"store volatile {vector} %{chain}.next, ptr %a" for chain in chains],
    )
    declaration = f"declare {vector} {intrinsic}({vector}, {vector}, {vector})\n"
    return Microkernel(
        name=f"{isa.name} {dtype}",
        code=(declaration if isa.fused else "") + code,
        features=isa.features,
        work=isa.accumulators * lanes * (2 if isa.fused else 1),
        dtype=dtype,
    )


def memory(operation: str, isa: InstructionSet) -> Microkernel:
    """Read a, copy b to a, a = b + 3 c (the triad of STREAM, McCalpin 1995), or a = 3 b - a.

    The last is what an optimizer does: it needs not fetch what it overwrites, for it has read it.

    The bytes that count are those of the arrays that the operation names, once for each that is
    read or written; what a cache fetches only to overwrite it (write-allocate) does not count.
    """
    whole = _vector("i64", isa.vector_bytes // 8)
    step_bytes = UNROLLED * isa.vector_bytes
    sums = [f"r{i}" for i in range(UNROLLED)] if operation == READ else []
    body = [f"%at.step = add i64 %at, {step_bytes}", "%at.next = and i64 %at.step, %mask"]
    for i in range(UNROLLED):
        body += _one_vector(operation, isa.vector_bytes, str(i))
    code = _loop(
        setup=[],
        carried={"at": ("i64", "%start")} | dict.fromkeys(sums, (whole, "zeroinitializer")),
        body=body,
        finish=[*(f"store volatile {whole} %{name}.next, ptr %b" for name in sums), FENCE],
    )
    return Microkernel(
        name=operation,
        code=f"{code}\n!0 = !{{i32 1}}\n",
        features=isa.features,
        work=TRAFFIC[operation] * step_bytes,
        step_bytes=step_bytes,
        arrays=ARRAYS[operation],
    )


def _one_vector(operation: str, width: int, i: str) -> list[str]:
    """The part of a step that works on its ``i``-th vector of each array."""
    vector, whole = _vector("float", width // 4), _vector("i64", width // 8)
    hint = ", !nontemporal !0" if operation in STREAMING else ""
    places = [
        f"%at{i} = add i64 %at, {int(i) * width}",
        *(f"%{array}{i} = getelementptr i8, ptr %{array}, i64 %at{i}" for array in "abc"),
    ]
    if operation == READ:
        load = f"%v{i} = load {whole}, ptr %a{i}, align {width}"
        return [*places, load, f"%r{i}.next = xor {whole} %r{i}, %v{i}"]
    load_b = f"%u{i} = load {vector}, ptr %b{i}, align {width}"
    if operation in (COPY, COPY_STREAMING):
        return [*places, load_b, f"store {vector} %u{i}, ptr %a{i}, align {width}{hint}"]
    if operation == UPDATE:
        return [
            *places,
            load_b,
            f"%v{i} = load {vector}, ptr %a{i}, align {width}",
            f"%w{i} = fmul {vector} %u{i}, splat (float 3.0)",
            f"%y{i} = fsub {vector} %w{i}, %v{i}",
            f"store {vector} %y{i}, ptr %a{i}, align {width}",
        ]
    return [
        *places,
        load_b,
        f"%v{i} = load {vector}, ptr %c{i}, align {width}",
        f"%w{i} = fmul {vector} %v{i}, splat (float 3.0)",
        f"%y{i} = fadd {vector} %u{i}, %w{i}",
        f"store {vector} %y{i}, ptr %a{i}, align {width}{hint}",
    ]


def clock() -> Microkernel:
    """A chain of operations that wait for one another, each of one cycle on every core known.

    Additions and exclusive ors take turns, so that no compiler can take two together.
    """
    names = ["n", *(f"n{i}" for i in range(1, CLOCK_CHAIN)), "n.next"]
    chain = [
        f"%{after} = {'xor' if place % 2 else 'add'} i64 %{before}, %start"
        for place, (before, after) in enumerate(pairwise(names))
    ]
    code = _loop(
        setup=[],
        carried={"n": ("i64", "%mask")},
        body=chain,
        finish=["store volatile i64 %n.next, ptr %a"],
    )
    return Microkernel(name="clock", code=code, features="", work=CLOCK_CHAIN)


def _vector(item: str, lanes: int) -> str:
    return item if lanes == 1 else f"<{lanes} x {item}>"


def _loop(
    setup: list[str], carried: dict[str, tuple[str, str]], body: list[str], finish: list[str]
) -> str:
    """A function around one loop; ``carried`` maps values that live on to type and first value."""
    phis = [
        f"%{name} = phi {kind} [ {first}, %entry ], [ %{name}.next, %loop ]"
        for name, (kind, first) in carried.items()
    ]
    return "\n".join(
        [
            "define void @kernel(ptr %a, ptr %b, ptr %c, i64 %mask, i64 %start, i64 %steps) {",
            *("entry:", *setup, "br label %loop"),
            *("loop:", "%left = phi i64 [ %steps, %entry ], [ %left.next, %loop ]", *phis, *body),
            "%left.next = sub i64 %left, 1",
            "%more = icmp ne i64 %left.next, 0",
            "br i1 %more, label %loop, label %done",
            *("done:", *finish, "ret void", "}"),
        ]
    )
