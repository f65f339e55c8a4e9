"""Which instruction set a processor has, and which one a library's kernels are made for."""

from __future__ import annotations

import re
from collections.abc import Iterable
from enum import IntEnum
from pathlib import Path

from kernelprof.topology import ROOT, text


class InstructionSet(IntEnum):
    """Those of x86-64, each better than the ones before it; the names are oneDNN's.

    ``GENERIC`` is what every such processor has: SSE2, and maybe SSE3.
    """

    GENERIC = 0
    SSE41 = 1
    AVX = 2
    AVX2 = 3
    AVX512_CORE = 4
    AVX512_CORE_VNNI = 5
    AVX512_CORE_BF16 = 6
    AVX512_CORE_FP16 = 7
    AVX512_CORE_AMX = 8

    @property
    def for_float32(self) -> InstructionSet:
        """As far as it matters to kernels in float32: what comes after AVX-512 is for less."""
        return min(self, InstructionSet.AVX512_CORE)

    @property
    def title(self) -> str:
        """Its usual name."""
        return TITLES[self]


TITLES = {
    InstructionSet.GENERIC: "SSE2",
    InstructionSet.SSE41: "SSE4.1",
    InstructionSet.AVX: "AVX",
    InstructionSet.AVX2: "AVX2",
    InstructionSet.AVX512_CORE: "AVX-512",
    InstructionSet.AVX512_CORE_VNNI: "AVX-512 with VNNI",
    InstructionSet.AVX512_CORE_BF16: "AVX-512 with bfloat16",
    InstructionSet.AVX512_CORE_FP16: "AVX-512 with float16",
    InstructionSet.AVX512_CORE_AMX: "AVX-512 with AMX",
}

# What the kernel calls the parts of each, the best first: a processor has one if it has all parts,
# as in oneDNN's ``cpu_isa_traits``.  A processor may lack one and have a better one.
AVX512 = frozenset({"avx512f", "avx512bw", "avx512vl", "avx512dq"})
FLAGS = {
    InstructionSet.AVX512_CORE_AMX: AVX512 | {"amx_tile", "amx_int8", "amx_bf16"},
    InstructionSet.AVX512_CORE_FP16: AVX512 | {"avx512_fp16"},
    InstructionSet.AVX512_CORE_BF16: AVX512 | {"avx512_bf16"},
    InstructionSet.AVX512_CORE_VNNI: AVX512 | {"avx512_vnni"},
    InstructionSet.AVX512_CORE: AVX512,
    InstructionSet.AVX2: frozenset({"avx2", "fma"}),
    InstructionSet.AVX: frozenset({"avx"}),
    InstructionSet.SSE41: frozenset({"sse4_1"}),
    InstructionSet.GENERIC: frozenset({"sse2"}),
}

# What oneDNN's line says of each, the most telling words first.
ONEDNN_WORDS = (
    ("AMX", InstructionSet.AVX512_CORE_AMX),
    ("AVX10", InstructionSet.AVX512_CORE_FP16),
    ("AVX 10", InstructionSet.AVX512_CORE_FP16),
    ("AVX-512 with float16", InstructionSet.AVX512_CORE_FP16),
    ("AVX-512 with Intel DL Boost and bfloat16", InstructionSet.AVX512_CORE_BF16),
    ("AVX-512 with Intel DL Boost", InstructionSet.AVX512_CORE_VNNI),
    ("AVX-512", InstructionSet.AVX512_CORE),
    ("AVX2", InstructionSet.AVX2),
    ("AVX", InstructionSet.AVX),
    ("SSE4.1", InstructionSet.SSE41),
    ("Generic", InstructionSet.GENERIC),
)

# The part of a name of MKL's kernels that tells their instruction set.
MKL_KERNEL = re.compile(r"mkl_[a-z]+_(def|mc3?|avx512|avx2?)_\w+")
MKL_CODES = {
    "def": InstructionSet.GENERIC,
    "mc": InstructionSet.GENERIC,
    "mc3": InstructionSet.SSE41,
    "avx": InstructionSet.AVX,
    "avx2": InstructionSet.AVX2,
    "avx512": InstructionSet.AVX512_CORE,
}

# What the kernels of OpenBLAS's core types use (its ``driver/others/dynamic.c`` and the folder
# ``kernel/x86_64``), without regard to case.
OLD_CORES = (
    *("generic", "katmai", "coppermine", "northwood", "prescott", "banias", "core2", "atom"),
    *("athlon", "opteron", "opteron_sse3", "barcelona", "bobcat", "nano"),
)
OPENBLAS_CORES = {
    **dict.fromkeys(OLD_CORES, InstructionSet.GENERIC),
    **dict.fromkeys(("penryn", "dunnington", "nehalem"), InstructionSet.SSE41),
    **dict.fromkeys(("sandybridge", "bulldozer", "piledriver", "steamroller"), InstructionSet.AVX),
    **dict.fromkeys(("excavator", "haswell", "zen"), InstructionSet.AVX2),
    "skylakex": InstructionSet.AVX512_CORE,
    "cooperlake": InstructionSet.AVX512_CORE_BF16,
    "sapphirerapids": InstructionSet.AVX512_CORE_AMX,
}

# The variables that keep libraries from what the processor has.
CAPPING_VARIABLES = (
    "ATEN_CPU_CAPABILITY",
    "DNNL_MAX_CPU_ISA",
    "MKL_CBWR",
    "MKL_ENABLE_INSTRUCTIONS",
    "NPY_DISABLE_CPU_FEATURES",
    "ONEDNN_MAX_CPU_ISA",
    "OPENBLAS_CORETYPE",
)


def of_processor(root: Path = ROOT) -> InstructionSet | None:
    """The best that this machine's processor has; None where it is no x86-64."""
    match = re.search(r"^flags\s*:(.*)$", text(root / "proc/cpuinfo"), re.MULTILINE)
    return of_flags(match[1].split()) if match else None


def of_flags(flags: Iterable[str]) -> InstructionSet | None:
    """The best that a processor with these flags has, as the kernel writes them.

    >>> of_flags(["sse2", "sse4_1", "avx", "avx2", "fma"]).title
    'AVX2'
    """
    present = set(flags)
    return next((isa for isa, needed in FLAGS.items() if needed <= present), None)


def of_onednn(isa: str) -> InstructionSet | None:
    """What oneDNN's own line says that it uses; None of a line that is not known.

    >>> of_onednn("Intel AVX-512 with Intel DL Boost and bfloat16 support").name
    'AVX512_CORE_BF16'
    """
    return _first(isa, ONEDNN_WORDS)


def of_mkl_kernel(symbol: str) -> InstructionSet | None:
    """What a kernel of MKL uses, by its name; None of a name that is none of its kernels'.

    >>> of_mkl_kernel("mkl_blas_def_sgemm_copyan").name
    'GENERIC'
    >>> of_mkl_kernel("mkl_blas_def_sgemm_kernel_0_zen").name
    'AVX2'
    """
    match = MKL_KERNEL.match(symbol)
    if match is None:
        return None
    if "_zen" in symbol:  # among the generic ones, for processors of another maker
        return InstructionSet.AVX2
    return MKL_CODES[match[1]]


def _first(line: str, words: Iterable[tuple[str, InstructionSet]]) -> InstructionSet | None:
    return next((isa for said, isa in words if said in line), None)


def of_openblas(core: str) -> InstructionSet | None:
    """What the kernels of a core type of OpenBLAS use; None of a core that is not known.

    >>> of_openblas("Zen") < of_openblas("SkylakeX")
    True
    """
    return OPENBLAS_CORES.get(core.lower())
