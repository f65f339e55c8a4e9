"""Reading what oneDNN, MKL and OpenBLAS print: real samples, every format, and hostile lines."""

from __future__ import annotations

import doctest
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernelprof.diagnosis import verbose
from kernelprof.diagnosis.verbose import (
    VERBOSE_VARIABLES,
    MklCall,
    OneDnnCall,
    banner,
    matches,
    parse,
    reorders_by_primitive,
    section,
)
from kernelprof.probes.compute_bound import BatchedGemm, Conv2d, Gemm, LstmCell
from kernelprof.probes.decompose import Fusion, kernels
from kernelprof.probes.networks import NETWORKS
from kernelprof.probes.primitive import Primitive

from .conftest import engine_worker

SAMPLES = Path(__file__).parent / "samples"
PATIENCE_S = 110
BATCH = 8  # of the samples that are whole calls
ISA = "Intel AVX-512 with Intel DL Boost and bfloat16 support"
CONVOLUTION = (
    "onednn_verbose,v1,primitive,exec,cpu,convolution,jit:avx512_core,forward_training,"
    "src:f32:a:blocked:aBcd16b::f0 wei:f32:a:blocked:ABcd16b16a::f0 bia:undef::undef::: "
    "dst:f32:a:blocked:aBcd16b::f0,attr-scratchpad:user attr-post-ops:eltwise_relu,"
    "alg:convolution_direct,mb2_ic16oc32_ih32oh32kh3sh1dh0ph1_iw32ow32kw3sw1dw0pw1,0.351074"
)


def sample(name: str) -> str:
    return (SAMPLES / f"{name}.txt").read_text()


def of_network(name: str) -> list[Primitive]:
    """The compute-bound primitives of a training step."""
    parts = kernels(NETWORKS[name](), BATCH, "train", Fusion())
    found = (p for kernel in parts for p in kernel.primitives if p.compute_bound)
    return list(dict.fromkeys(found))


def call(primitive: str, problem: str, **tags: str) -> OneDnnCall:
    return OneDnnCall(primitive, "jit", "undef", tags, "", "", problem, 1e-3)


@pytest.mark.parametrize(
    ("name", "version", "isa", "calls", "mkl"),
    [
        ("verbose_mx_conv", "v2.4.4", ISA, 6, 0),
        ("verbose_tf_lstm", "v3.7.3", ISA, 3, 0),
        ("verbose_torch_conv", "v3.12.0", ISA, 8, 0),
        ("verbose_torch_lstm", "v3.12.0", ISA, 3, 0),
        ("verbose_torch_gemm_mkl", None, None, 0, 2),
        ("train_torch_alexnet_r", "v3.12.0", ISA, 33, 3),
        ("train_tensorflow_fcn_r", "v3.7.3", ISA, 11, 0),
        ("train_tensorflow_alexnet_r", "v3.7.3", ISA, 25, 0),
        ("train_mxnet_lstm", "v2.4.4", ISA, 22, 0),
        ("train_mxnet_alexnet_r", "v2.4.4", ISA, 41, 0),
        ("train_cntk_fcn_r", None, None, 0, 35),
    ],
)
def test_samples_of_engines(name, version, isa, calls, mkl):
    """Every line is read."""
    text = sample(name)
    read = parse(text)
    assert (read.version, read.isa, read.unknown_lines) == (version, isa, 0)
    assert (len(read.onednn), len(read.mkl_calls)) == (calls, mkl)
    assert len(read.onednn) == sum(",exec," in line for line in text.splitlines())


def test_fields_of_a_call():
    (read,) = parse(CONVOLUTION).onednn
    assert read.primitive == "convolution"
    assert read.implementation == "jit:avx512_core"
    assert read.propagation == "forward_training"
    assert read.tags == {"src": "aBcd16b", "wei": "ABcd16b16a", "dst": "aBcd16b"}
    assert read.attributes == "attr-scratchpad:user attr-post-ops:eltwise_relu"
    assert read.algorithm == "convolution_direct"
    assert read.seconds == pytest.approx(351.074e-6)


@pytest.mark.parametrize(
    "prefix",
    [
        "onednn_verbose,v1,primitive,exec",
        "onednn_verbose,v1,1795379153063.06,primitive,exec",
        "onednn_verbose,primitive,exec",
        "onednn_verbose,1795379153063.06,exec",
        "dnnl_verbose,exec",
        "dnnl_verbose,1795379153063.06,exec",
    ],
)
def test_every_prefix(prefix):
    plain = CONVOLUTION.replace("onednn_verbose,v1,primitive,exec", prefix)
    assert parse(plain) == parse(CONVOLUTION)


def test_version_2_names_roles_in_another_way():
    text = (
        "dnnl_verbose,exec,cpu,rnn,ref:any,forward_training,src_layer_f32::blocked:abc:f0 "
        "bias_f32::blocked:abcd:f0 diff_undef::undef::f0 ws_u8::blocked:aBcd16b:f0,,"
        "alg:vanilla_lstm direction:unidirectional_left2right activation:undef,"
        "l1t32mb8sic256slc256dhc256dic256,2.80103"
    )
    (read,) = parse(text).onednn
    assert read.tags == {"src_layer": "abc", "bias": "abcd", "ws": "aBcd16b"}
    assert read.algorithm == "vanilla_lstm"


def test_a_gemm_without_an_implementation():
    read = parse(sample("verbose_tf_lstm")).onednn[1]
    assert (read.primitive, read.implementation, read.problem) == ("gemm_api", "", "8x64:64x128")


def test_calls_of_mkl():
    read = parse(sample("verbose_torch_gemm_mkl"))
    assert read.mkl is not None
    assert read.mkl.startswith("oneMKL 2024.0 Update 2")
    assert [each.seconds for each in read.mkl_calls] == pytest.approx([2.83e-3, 80.34e-6])
    assert {each.threads for each in read.mkl_calls} == {1}
    assert read.mkl_calls[0].problem == "128x256:256x64"  # MKL's own columns come first


def test_an_old_mkl():
    read = parse(sample("train_cntk_fcn_r"))
    assert read.mkl is not None
    assert read.mkl.startswith("Intel(R) MKL 2018.0 Update 3")
    assert {each.routine for each in read.mkl_calls} == {"SGEMM", "SAXPY", "SSCAL"}


def test_cores_of_openblas():
    """MXNet's own, and NumPy's."""
    assert parse(sample("train_mxnet_lstm")).openblas_cores == ("Zen", "Zen")


def test_only_the_last_section_counts():
    text = "a\n\nkernelprof: begin\nb\n\nkernelprof: end\n\nkernelprof: begin\nc\nd\n"
    assert section(f"{text}\nkernelprof: end\ne") == "c\nd\n"
    assert section(text) == "c\nd\n"  # the worker died there
    assert section("nothing was marked") == ""


def test_a_banner_has_no_calls():
    text = sample("train_torch_alexnet_r")
    told = parse(banner(text))
    assert (told.onednn, told.mkl_calls) == ((), ())
    whole = parse(banner(text) + "\n" + section(text))
    assert whole == parse(text)
    assert "exec" not in banner(text).replace("exec_time", "")


HOSTILE = [
    "onednn_verbose",
    "onednn_verbose,",
    "onednn_verbose,v2,primitive,exec,cpu,matmul",
    "onednn_verbose,v1,primitive,exec,cpu,reorder,jit:uni,undef,src:f32,,,2x2,0.1",
    CONVOLUTION[:-40],
    CONVOLUTION.replace("0.351074", "nan"),
    CONVOLUTION.replace("0.351074", "-1"),
    CONVOLUTION.replace("0.351074", "1e999"),
    CONVOLUTION.replace("0.351074", "__import__('os')"),
    CONVOLUTION + CONVOLUTION,
    "MKL_VERBOSE SGEMM(N,N,64,128 80.34us",
    "MKL_VERBOSE SGEMM(N,N) 8.8.8us CNR:OFF",
    "MKL_VERBOSE ",
]


@pytest.mark.parametrize("line", HOSTILE)
def test_lines_that_cannot_be_read_are_counted(line):
    read = parse(f"{line}\n{CONVOLUTION}\n")
    assert read.unknown_lines == (0 if line in ("onednn_verbose", "MKL_VERBOSE ") else 1)
    assert len(read.onednn) == 1


@given(st.text(), st.sampled_from([CONVOLUTION, "MKL_VERBOSE SGEMM(N,N,1,2,3) 1us", "Core: "]))
def test_whatever_is_printed_nothing_is_raised(text, line):
    place = len(text) % len(line)
    read = parse(line[:place] + text + line[place:] + "\n" + text)
    for each in (*read.onednn, *read.mkl_calls):
        assert matches(each, [Gemm(1, 2, 3)]) in ([], [Gemm(1, 2, 3)])
        assert each.seconds >= 0


@given(st.text(alphabet="x:0123456789abcdghimopstw_", max_size=60))
def test_whatever_the_problem_nothing_is_raised(problem):
    for kind in ("convolution", "inner_product", "matmul", "rnn", "reorder"):
        matches(call(kind, problem), [Gemm(1, 2, 3), Conv2d(1, 3, 5, 5, 2, (3, 3))])


@pytest.mark.parametrize(
    ("name", "network", "times"),
    [
        # Once forwards and twice backwards, but once where no gradient of the input is needed.
        ("train_torch_alexnet_r", "alexnet-r", [2, 3, 3, 3]),
        ("train_tensorflow_alexnet_r", "alexnet-r", [2, 3, 3, 3]),
        ("train_mxnet_alexnet_r", "alexnet-r", [2, 3, 3, 3]),
        ("train_tensorflow_fcn_r", "fcn-r", [2, 3, 3, 3]),
        ("train_cntk_fcn_r", "fcn-r", [2, 3, 3, 3]),
        ("train_mxnet_lstm", "lstm", [4, 3]),  # two cells, one forwards and one backwards each
    ],
)
def test_calls_find_their_primitives(name, network, times):
    """Each compute-bound primitive of the network is called as often as its passes say."""
    read = parse(section(sample(name)))
    primitives = of_network(network)
    found = [matches(each, primitives) for each in (*read.onednn, *read.mkl_calls)]
    assert all(len(candidates) <= 1 for candidates in found)
    assert [sum([p] == candidates for candidates in found) for p in primitives] == times


@pytest.mark.parametrize(
    ("primitive", "kind", "problem"),
    [
        (
            Conv2d(1, 32, 16, 16, 64, (3, 5), (2, 1), (1, 1, 2, 2), (1, 2), groups=4),
            "convolution",
            "g4mb1_ic32oc64_ih16oh8kh3sh2dh0ph1_iw16ow12kw5sw1dw1pw2",
        ),
        (Gemm(128, 4096, 9216), "inner_product", "mb128ic256ih6iw6oc4096"),
        (Gemm(128, 64, 256), "matmul", "128x256:256x64"),
        (Gemm(128, 64, 256), "matmul", "128x256:256x64:128x64"),
        (Gemm(128, 64, 256), "gemm_api", "256x128:128x64"),
        (Gemm(128, 64, 256), "matmul", "4x32x256:1x256x64"),
        (BatchedGemm(12, 128, 96, 64), "matmul", "3x4x128x64:3x4x64x96"),
        (LstmCell(8, 32, 48, steps=5), "rnn", "l1t5mb8sic48slc32dhc48dic48"),
        (LstmCell(8, 32, 48, steps=5), "gemm_api", "8x48:48x192"),
        (LstmCell(8, 32, 48, steps=5), "gemm_api", "8x80:80x192"),
        (Conv2d(2, 16, 32, 32, 32, (3, 3)), "gemm_api", "24x144:144x32"),  # a tile of windows
    ],
)
def test_problems_of_primitives(primitive, kind, problem):
    others = [
        Gemm(3, 5, 7),
        Conv2d(1, 1, 9, 9, 1, (3, 3)),
        LstmCell(2, 3, 5),
        BatchedGemm(2, 3, 5, 7),
    ]
    assert matches(call(kind, problem), [*others, primitive]) == [primitive]


def test_sizes_may_fit_several():
    """Forwards through one layer is backwards through its mirror image."""
    there, back = Gemm(8, 100, 50), Gemm(8, 50, 100)
    assert matches(call("matmul", "8x50:50x100"), [there, back]) == [there, back]
    assert matches(call("inner_product", "mb8ic50oc100"), [there, back]) == [there]


def test_products_of_mkl_find_their_primitives():
    product = MklCall("SGEMM", ("T", "N", "64", "128", "256", "0x1"), 1e-3, 1)
    assert matches(product, [Gemm(128, 64, 256), Gemm(1, 2, 3)]) == [Gemm(128, 64, 256)]
    assert matches(MklCall("SAXPY", ("10",), 1e-3, 1), [Gemm(1, 1, 10)]) == []
    assert matches(MklCall("SGEMM", ("N", "N", "x", "", "-1"), 1e-3, 1), [Gemm(1, 1, 10)]) == []


def test_a_reorder_belongs_to_the_call_that_it_is_made_for():
    first, second = Gemm(8, 16, 32), Gemm(8, 64, 16)
    calls = [
        call("reorder", "8x32", src="ab", dst="aB16b"),
        call("inner_product", "mb8ic32oc16", src="aB16b", dst="aB16b"),
        call("reorder", "8x16", src="aB16b", dst="ab"),  # back to where the first found it
        call("reorder", "64x16", src="ab", dst="ba"),
        call("inner_product", "mb8ic16oc64", src="ab", wei="ba", dst="ab"),
        call("reorder", "8x64", src="ab", dst="ba"),  # the last
    ]
    found = reorders_by_primitive(calls, [first, second])
    assert found == {first: [calls[0], calls[2]], second: [calls[3], calls[5]]}
    assert reorders_by_primitive(calls[:1], [first]) == {}


@pytest.mark.parametrize("engine", ["torch", "tensorflow", "mxnet"])
def test_reorders_of_a_network(engine):
    calls = parse(section(sample(f"train_{engine}_alexnet_r"))).onednn
    found = reorders_by_primitive(calls, of_network("alexnet-r"))
    reorders = [each for each in calls if each.primitive == "reorder"]
    told = [each for several in found.values() for each in several]
    assert len(told) == len({id(each) for each in told})
    assert {id(each) for each in told} <= {id(each) for each in reorders}
    if engine != "mxnet":  # whose poolings and activations ask for reorders as well
        assert len(told) == len(reorders)


def test_examples():
    assert not doctest.testmod(verbose).failed


@pytest.mark.parametrize(
    ("engine", "onednn", "mkl", "openblas"),
    [
        ("torch", True, True, True),
        ("tensorflow", True, False, True),
        ("mxnet", True, False, True),
        ("caffe", False, False, True),
        ("cntk", False, True, True),
        ("numpy", False, False, True),
    ],
)
def test_the_variables_make_every_engine_talk(engine, onednn, mkl, openblas):
    """And each of its libraries once: a call in a section is a call."""
    worker = engine_worker(engine, variables=VERBOSE_VARIABLES)
    network = NETWORKS["alexnet-r"]().to_json()
    try:
        worker.ask("observe", PATIENCE_S, network=network, batch=2, mode="infer", seed=0)
        worker.ask("repeat", PATIENCE_S, calls=1)
        text = worker.printed()
    finally:
        worker.close()
    told, made = parse(text), parse(section(text))
    assert (told.isa is not None) == onednn
    assert (told.mkl is not None) == mkl
    assert bool(told.openblas_cores) == openblas
    assert told.unknown_lines == 0
    convolutions = [each for each in made.onednn if each.primitive == "convolution"]
    assert len(convolutions) == (3 if onednn else 0)
