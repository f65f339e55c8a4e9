"""Makes loops into machine code, and checks what became of them."""

from __future__ import annotations

import ctypes
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache

import llvmlite.binding as llvm

from kernelprof.microkernels import InstructionSet, Microkernel

SIGNATURE = ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * 3, *[ctypes.c_int64] * 3)
LETTERS = {"float32": "s", "float64": "d"}  # of the types, in instructions of x86 and of ARM
LOOP_CONTROL = re.compile(r"(decq|subq|addq|cmpq|testq|subs|cmp) [^(\[]*|(j|b\.|cbnz).*")
BACKWARDS = re.compile(r"(?:j\w+|b\.\w+|cbnz \w+,) (\.L\w+)")
STACK = re.compile(r"\(%r[sb]p|\[(sp|x29)")


@dataclass(frozen=True, eq=False)
class Compiled:
    """A loop that can be called; a call lets other threads of Python run meanwhile."""

    kernel: Microkernel
    assembly: str
    call: Callable[[int, int, int, int, int, int], None]
    owner: object = field(repr=False)  # frees the machine code when it goes


def _target(features: str, triple: str | None) -> llvm.TargetMachine:
    """What LLVM generates code for: this machine, or any that it knows, with no more than this."""
    if triple is not None:
        llvm.initialize_all_targets()
        llvm.initialize_all_asmprinters()
        return llvm.Target.from_triple(triple).create_target_machine(features=features, opt=3)
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    return llvm.Target.from_default_triple().create_target_machine(
        features=features, opt=3, jit=True
    )


@cache
def compiled(kernel: Microkernel) -> Compiled:
    """The loop as machine code in this process, where it stays."""
    target = _target(kernel.features, None)  # goes over to the engine
    engine = llvm.create_mcjit_compiler(_module(kernel, target), target)
    engine.finalize_object()
    call = SIGNATURE(engine.get_function_address("kernel"))
    return Compiled(kernel, assembly(kernel), call, engine)


def assembly(kernel: Microkernel, triple: str | None = None) -> str:
    """The instructions of a loop, for this machine or for another one."""
    target = _target(kernel.features, triple)
    text: str = target.emit_assembly(_module(kernel, target))
    return text


def _module(kernel: Microkernel, target: llvm.TargetMachine) -> llvm.ModuleRef:
    module = llvm.parse_assembly(kernel.code)
    module.triple = target.triple
    module.data_layout = str(target.target_data)
    module.verify()
    return module


@dataclass(frozen=True)
class LoopCheck:
    """What a loop of arithmetic turned out to consist of, and what speaks against its rate."""

    instructions: str
    doubts: tuple[str, ...] = ()


def checked(assembly: str, isa: InstructionSet, dtype: str) -> LoopCheck:
    """Whether the loop is one instruction of the right kind for each accumulator, and no more."""
    wanted = re.compile(isa.instruction.format(x=LETTERS[dtype]))
    loop = hot_loop(assembly)
    arithmetic = [line for line in loop if wanted.fullmatch(line) and not STACK.search(line)]
    rest = [line for line in loop if line not in arithmetic and not LOOP_CONTROL.fullmatch(line)]
    doubts = []
    if len(arithmetic) != isa.accumulators:
        doubts.append(
            f"{len(arithmetic)} instructions instead of {isa.accumulators} are {isa.name}"
        )
    if spilled := [line for line in rest if STACK.search(line)]:
        doubts.append(f"accumulators go to the stack: {spilled[0]}")
    if other := [line for line in rest if not STACK.search(line)]:
        doubts.append(f"the loop does something else too: {other[0]}")
    names = sorted({line.split()[0] for line in arithmetic})
    return LoopCheck(f"{len(arithmetic)} {' or '.join(names)}", tuple(doubts))


def hot_loop(assembly: str) -> list[str]:
    """The instructions from the target of the first jump backwards up to that jump."""
    labels: dict[str, int] = {}
    lines = [" ".join(re.split(r"\s#|//", line)[0].split()) for line in assembly.splitlines()]
    for place, line in enumerate(lines):
        if line.endswith(":"):
            labels[line[:-1]] = place
        elif (jump := BACKWARDS.fullmatch(line)) and jump[1] in labels:
            return [line for line in lines[labels[jump[1]] + 1 : place + 1] if line]
    return []
