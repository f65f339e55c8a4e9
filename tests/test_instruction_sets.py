"""The scale of instruction sets, and what processors and libraries say of themselves."""

from __future__ import annotations

import doctest

import pytest

from kernelprof.diagnosis import instruction_sets
from kernelprof.diagnosis.instruction_sets import (
    FLAGS,
    ONEDNN_WORDS,
    OPENBLAS_CORES,
    TITLES,
    InstructionSet,
    of_flags,
    of_mkl_kernel,
    of_onednn,
    of_openblas,
    of_processor,
)

from .conftest import engine_worker

ZEN4 = (
    "fpu sse sse2 pni ssse3 fma sse4_1 sse4_2 avx f16c avx2 avx512f avx512dq avx512bw avx512vl "
    "avx512_bf16 avx512_vnni"
)
HASWELL = "fpu sse sse2 pni ssse3 fma sse4_1 sse4_2 avx f16c avx2"
KNIGHTS_LANDING = f"{HASWELL} avx512f avx512pf avx512er avx512cd"
SAPPHIRE_RAPIDS = f"{ZEN4} avx512_fp16 amx_tile amx_int8 amx_bf16"


@pytest.mark.parametrize(
    ("flags", "isa"),
    [
        ("fpu sse sse2", InstructionSet.GENERIC),
        ("sse sse2 pni ssse3 sse4_1 sse4_2", InstructionSet.SSE41),
        ("sse sse2 pni ssse3 sse4_1 sse4_2 avx", InstructionSet.AVX),
        (HASWELL, InstructionSet.AVX2),
        (KNIGHTS_LANDING, InstructionSet.AVX2),  # it lacks what the kernels of others are made of
        (ZEN4, InstructionSet.AVX512_CORE_BF16),
        (SAPPHIRE_RAPIDS, InstructionSet.AVX512_CORE_AMX),
        ("asimd sve", None),
    ],
)
def test_of_processors(flags, isa, tmp_path):
    assert of_flags(flags.split()) is isa
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/cpuinfo").write_text(f"processor : 0\nflags\t\t: {flags}\nbugs : \n")
    assert of_processor(tmp_path) is isa


def test_of_a_processor_without_flags(tmp_path):
    assert of_processor(tmp_path) is None


@pytest.mark.parametrize(
    ("line", "isa"),
    [
        ("Intel SSE4.1", InstructionSet.SSE41),
        ("Intel AVX", InstructionSet.AVX),
        ("Intel AVX2", InstructionSet.AVX2),
        ("Intel AVX2 with Intel DL Boost", InstructionSet.AVX2),
        (
            "Intel AVX-512 with AVX512BW, AVX512VL, and AVX512DQ extensions",
            InstructionSet.AVX512_CORE,
        ),
        ("Intel AVX-512 with Intel DL Boost", InstructionSet.AVX512_CORE_VNNI),
        (
            "Intel AVX-512 with Intel DL Boost and bfloat16 support",
            InstructionSet.AVX512_CORE_BF16,
        ),
        (
            "Intel AVX-512 with float16, Intel DL Boost and bfloat16 support",
            InstructionSet.AVX512_CORE_FP16,
        ),
        (
            "Intel AVX-512 with float16, Intel DL Boost and bfloat16 support and Intel AMX with "
            "bfloat16 and 8-bit integer support",
            InstructionSet.AVX512_CORE_AMX,
        ),
        ("Generic", InstructionSet.GENERIC),
        ("AArch64 SVE (256 bits)", None),
        ("", None),
    ],
)
def test_of_onednn(line, isa):
    assert of_onednn(line) is isa


def test_every_set_has_a_title_flags_and_words():
    assert set(TITLES) == set(FLAGS) == {isa for _, isa in ONEDNN_WORDS} == set(InstructionSet)
    assert list(FLAGS) == sorted(InstructionSet, reverse=True)  # the best is looked for first


def test_cores_of_openblas():
    rising = ["Prescott", "Nehalem", "Sandybridge", "Haswell", "SkylakeX", "Cooperlake"]
    sets = [isa for isa in map(of_openblas, rising) if isa is not None]
    assert len(sets) == len(rising)
    assert sets == sorted(set(sets))
    assert of_openblas("SapphireRapids") is InstructionSet.AVX512_CORE_AMX
    assert of_openblas("Zen") is InstructionSet.AVX2
    assert of_openblas("NEOVERSEN1") is None
    assert all(core == core.lower() for core in OPENBLAS_CORES)


def test_an_old_openblas_is_below_the_machine():
    machine, core = of_flags(ZEN4.split()), of_openblas("Zen")
    assert machine is not None
    assert core is not None
    assert core < machine.for_float32
    assert InstructionSet.AVX512_CORE_VNNI.for_float32 == machine.for_float32


@pytest.mark.parametrize(
    ("symbol", "isa"),
    [
        ("mkl_blas_def_sgemm_copyan", InstructionSet.GENERIC),
        ("mkl_blas_def_sgemm_kernel_0_zen", InstructionSet.AVX2),
        ("mkl_blas_mc3_sgemm_kernel_0", InstructionSet.SSE41),
        ("mkl_blas_avx2_sgemm_kernel_0", InstructionSet.AVX2),
        ("mkl_blas_avx512_sgemm_kernel_nocopy_NN_b1", InstructionSet.AVX512_CORE),
        ("mkl_vml_kernel_sAbs_EXHAynn", None),
        ("sgemm_kernel_SKYLAKEX", None),
    ],
)
def test_of_kernels_of_mkl(symbol, isa):
    assert of_mkl_kernel(symbol) is isa


def test_a_core_that_was_chosen_is_told_by_the_worker():
    worker = engine_worker("numpy", variables={"OPENBLAS_CORETYPE": "Sandybridge"})
    try:
        facts = worker.ask("facts", 60)
    finally:
        worker.close()
    assert [of_openblas(core) for core in facts["openblas_cores"]] == [InstructionSet.AVX]
    assert facts["variables"]["OPENBLAS_CORETYPE"] == "Sandybridge"


def test_examples():
    failed, attempted = doctest.testmod(instruction_sets)
    assert attempted
    assert not failed
