"""What every engine must do, asked of real workers: agree with the oracle, and run where told."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from itertools import chain as joined
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from kernelprof.errors import WorkerError
from kernelprof.launch import Worker
from kernelprof.plan import alone
from kernelprof.probes.attention import LayerNorm, Scale, Softmax, Transpose
from kernelprof.probes.clock import ClockFacts
from kernelprof.probes.compute_bound import BatchedGemm, Conv2d, Gemm, LstmCell
from kernelprof.probes.layers import Drop
from kernelprof.probes.memory_bound import (
    ACTIVATIONS,
    Activation,
    Add,
    BatchNorm,
    Bias,
    Copy,
    Dropout,
    Embedding,
    LocalResponseNorm,
    PadChannels,
    Pool2d,
    SgdUpdate,
    SoftmaxLoss,
)
from kernelprof.probes.network import MODES, TRAIN, Builder, Network
from kernelprof.probes.networks import AS_RUN, CANONICAL, FURTHER, NETWORKS
from kernelprof.probes.placement import parse_cpus
from kernelprof.probes.primitive import BACKWARD_DATA, BACKWARD_WEIGHTS, FORWARD, Primitive
from kernelprof.probes.primitives import PRIMITIVES
from kernelprof.probes.residual_networks import basic_block, bottleneck
from kernelprof.studies.turns import build, turn
from tests.conftest import ON_CPU, engine_worker
from tests.unsupported import refusals

PATIENCE_S = 120.0
TOLERANCE = 1e-4
UPDATE_TOLERANCE = 1e-3
HARNESS_SHARE = 1e-3

SAMPLES: list[Primitive] = [
    Gemm(1, 1, 1),
    Gemm(1, 17, 3),
    Gemm(13, 1, 31),
    Gemm(37, 41, 43),
    Gemm(37, 41, 43, trans_a=True),
    Gemm(37, 41, 43, trans_b=True),
    Gemm(37, 41, 43, trans_a=True, trans_b=True),
    BatchedGemm(1, 1, 1, 1),
    *[BatchedGemm(5, 37, 41, 43, *trans) for trans in product((False, True), repeat=2)],
    Conv2d(1, 1, 1, 1, 1, (1, 1)),
    Conv2d(3, 5, 11, 7, 13, (1, 1)),
    Conv2d(2, 3, 17, 23, 7, (5, 3), (2, 3)),
    Conv2d(2, 3, 13, 11, 5, (3, 3), padding=(1, 1, 1, 1)),
    Conv2d(2, 3, 7, 5, 2, (3, 2), (2, 1), (1, 0, 2, 1)),
    Conv2d(3, 6, 7, 11, 9, (2, 3), (1, 2), (0, 1, 1, 1), (2, 1), groups=3),
    Conv2d(2, 5, 13, 11, 5, (3, 3), (1, 1), (2, 2, 2, 2), (2, 2), groups=5),
    Conv2d(1, 2, 11, 7, 3, (2, 1), (5, 3), (0, 0, 0, 1)),
    Conv2d(2, 3, 2, 2, 5, (3, 3), padding=(1, 1, 1, 1)),
    LstmCell(1, 1, 1),
    LstmCell(5, 3, 1, steps=2),
    LstmCell(1, 7, 5, steps=3),
    LstmCell(7, 13, 11, steps=5),
    Bias(1, 1),
    Bias(7, 13),
    Bias(3, 5, 11),
    *[Activation(function, size) for function in ACTIVATIONS for size in (1, 1009)],
    *[
        Pool2d(function, *sizes, **options)
        for function in ("max", "average")
        for sizes, options in [
            ((1, 1, 1, 1, (1, 1), (1, 1)), {}),
            ((2, 3, 13, 11, (3, 2), (2, 1)), {}),
            ((2, 1, 7, 8, (2, 1), (3, 2)), {}),
            ((2, 3, 8, 8, (1, 1), (2, 2)), {}),
            ((2, 3, 13, 11, (3, 3), (2, 2)), {"padding": (1, 1, 1, 1)}),
            ((2, 3, 12, 8, (3, 3), (2, 2)), {"ceil": True}),
            ((1, 2, 7, 6, (3, 3), (2, 3)), {"padding": (1, 0, 1, 2), "ceil": True}),
            ((1, 2, 4, 4, (3, 3), (4, 4)), {"padding": (0, 2, 0, 2), "ceil": True}),
            ((2, 3, 6, 7, (3, 3), (2, 2)), {"padding": (2, 2, 2, 2)}),
        ]
    ],
    LocalResponseNorm(1, 1, 1),
    LocalResponseNorm(2, 7, 11, alpha=0.5),
    LocalResponseNorm(3, 5, 1, size=4, alpha=0.9, beta=0.5, k=2.0),
    LocalResponseNorm(1, 2, 3, size=9, alpha=0.9),
    BatchNorm(1, 1, 1),
    BatchNorm(5, 3, 7),
    BatchNorm(5, 3, 7, training=True),
    BatchNorm(7, 3, 1, training=True, epsilon=0.1),
    Dropout(1, rate=0.0),
    Dropout(1009, rate=0.3),
    Dropout(1009),
    Softmax(1, 1),
    Softmax(17, 13),
    LayerNorm(1, 3),
    LayerNorm(17, 13),
    LayerNorm(7, 5, epsilon=0.1),
    Transpose(1, 1),
    Transpose(17, 13),
    Transpose(5, 7, 11),
    Scale(1),
    Scale(1009, -0.7),
    SoftmaxLoss(1, 1),
    SoftmaxLoss(17, 13),
    Embedding(1, 1, 1),
    Embedding(31, 7, 5),
    Embedding(3, 97, 1),
    Add(1),
    Add(1009),
    PadChannels(1, 1, 1, added=1),
    PadChannels(3, 5, 11, added=7),
    PadChannels(2, 16, 49, added=16),
    SgdUpdate(1),
    SgdUpdate(1009, learning_rate=0.1),
    SgdUpdate(1009, momentum=0.9, learning_rate=0.1),
    Copy(1),
    Copy(1009),
]

CONVOLUTION = Conv2d(3, 6, 7, 11, 9, (2, 3), (1, 2), (0, 1, 1, 1), (2, 1), groups=3)
CHAINS: list[tuple[Primitive, ...]] = [
    (CONVOLUTION, Bias(3, 9, CONVOLUTION.extent[0] * CONVOLUTION.extent[1])),
    (Conv2d(1, 1, 1, 1, 1, (1, 1)), Bias(1, 1, 1)),
    (Gemm(7, 11, 13, trans_b=True), Bias(7, 11)),
    (Gemm(7, 11, 13), Bias(7, 11)),
    (Gemm(1, 1, 1, trans_a=True), Bias(1, 1)),
]


def label(primitives: tuple[Primitive, ...]) -> str:
    return " + ".join(primitive.label for primitive in primitives)


def kernel_error(worker: Worker, primitives: tuple[Primitive, ...], *passes: str) -> float:
    described = [primitive.to_json() for primitive in primitives]
    answer = worker.ask(
        "check_kernel", PATIENCE_S, primitives=described, passes=list(passes), seed=3
    )
    return float(answer["error"])


def assert_agrees(worker: Worker, primitives: tuple[Primitive, ...], *passes: str) -> None:
    """With the oracle; or it is one of the few that the engine is known to be unable to run."""
    facts = worker.ask("facts", PATIENCE_S)
    reason = refusals(worker.environment.adapter, facts).get(label(primitives))
    if reason is None:
        assert kernel_error(worker, primitives, *passes) < TOLERANCE
    else:
        with pytest.raises(WorkerError, match=reason) as refused:
            kernel_error(worker, primitives, *passes)
        assert refused.value.kind == "unsupported"


def branching_network() -> Network:
    """What the known networks lack: groups, a fork and a join, normalisations, partial windows."""
    net = Builder()
    x = net.convolution("stem", net.input(3, 13, 11), 8, kernel=3, padding=1, bias=False)
    x = net.relu("stem_relu", net.batch_norm("stem_norm", x))
    y = net.convolution("left1", x, 8, kernel=3, padding=1, groups=2)
    y = net.convolution("left2", net.relu("left_relu", y), 8, kernel=(1, 3), padding=(0, 0, 2, 0))
    y = net.add("join1", y, x)
    z = net.add("join2", y, net.convolution("right", x, 8, kernel=1))
    z = net.pool("pool", net.lrn("lrn", z), "average", kernel=3, stride=2, ceil=True)
    z = net.fully_connected("unbiased", z, 9, bias=False)
    net.softmax_loss(net.fully_connected("classes", z, 7))
    return Network("branching", "made up", tuple(net.layers), batch=8, quick_batch=3)


def residual_network() -> Network:
    """Bottlenecks with a projection and without, and shortcuts that skip pixels and add zeros.

    Convolutions without biases: what a batch's mean takes away again has no gradient to check.
    """
    net = Builder()
    x = net.convolution("stem", net.input(3, 21, 17), 8, 7, stride=2, padding=3, bias=False)
    x = net.relu("stem_relu", net.batch_norm("stem_norm", x))
    x = net.pool("stem_pool", x, "max", kernel=3, stride=2, padding=1)
    x = bottleneck(net, "1", x, 4, stride=1, projects=True)
    x = bottleneck(net, "2", x, 4, stride=1, projects=False)
    x = bottleneck(net, "3", x, 6, stride=2, projects=True)
    x = basic_block(net, "4", x, 24, halves=False, bias=False)
    x = basic_block(net, "5", x, 40, halves=True, bias=False)
    x = net.pool("pool", x, "average", kernel=(2, 2), stride=1)
    net.softmax_loss(net.fully_connected("classes", x, 7))
    return Network("residual", "made up", tuple(net.layers), batch=8, quick_batch=3)


def uneven_network() -> Network:
    """Channels that fill no whole block of a vectorised layout, and zeros that are added to them.

    oneDNN in MXNet could not cut the gradient there.
    """
    net = Builder()
    x = net.convolution("stem", net.input(3, 24, 24), 20, 3, padding=1, bias=False)
    x = net.relu("stem_relu", net.batch_norm("stem_norm", x))
    x = basic_block(net, "1", x, 20, halves=False, bias=False)
    x = basic_block(net, "2", x, 40, halves=True, bias=False)
    x = net.pool("pool", x, "average", kernel=12, stride=12)
    net.softmax_loss(net.fully_connected("classes", x, 7))
    return Network("uneven", "made up", tuple(net.layers), batch=6, quick_batch=6)


MADE_UP = {
    "branching": branching_network,
    "residual": residual_network,
    "uneven": uneven_network,
}


def known_network(name: str) -> Network:
    """By name; its dropouts keep everything, for nobody can foretell what chance keeps."""
    network = {**NETWORKS, **MADE_UP}[name]()
    layers = (
        replace(layer, rate=0.0) if isinstance(layer, Drop) else layer for layer in network.layers
    )
    return replace(network, layers=tuple(layers))


def small_instance(network: Network) -> Network:
    """Smaller images and vectors, where they are large.

    Of a million ReLUs rounding would switch some, and float64 copies would fill the memory.
    """
    largest = {1: 26752, 3: 224}.get(len(network.input.shape), 0)
    if largest not in network.input.shape:
        return network
    small = {1: (1009,), 3: (3, 67, 67)}[len(network.input.shape)]
    layers = [replace(network.input, shape=small), *network.layers[1:]]
    return replace(
        network,
        layers=tuple(
            replace(layer, features=1013) if getattr(layer, "features", 0) == largest else layer
            for layer in layers
        ),
    )


def dropout_network() -> Network:
    net = Builder()
    x = net.fully_connected("fc1", net.input(5), 7)
    x = net.dropout("drop", net.sigmoid("sigmoid", x))
    net.softmax_loss(net.fully_connected("fc2", x, 3))
    return Network("dropout", "made up", tuple(net.layers), batch=8, quick_batch=3)


def result_names(network: Network, mode: str) -> set[str]:
    if mode == "infer":
        return {"output"}
    gradients = {
        f"{layer.name}.{member}.{operand}"
        for layer in network.layers
        for member, primitive in enumerate(network.primitives(layer, 1, mode))
        for operand in primitive.parameters
    }
    return {"loss"} | gradients


def test_every_kind_is_asked_for() -> None:
    assert {primitive.kind for primitive in SAMPLES} == set(PRIMITIVES)


@pytest.mark.parametrize("primitive", SAMPLES, ids=lambda primitive: primitive.label)
def test_kernel_agrees_with_the_oracle(worker: Worker, primitive: Primitive) -> None:
    """In every pass, at sizes that suit no vector unit."""
    for pass_ in primitive.passes:
        assert_agrees(worker, (primitive,), pass_)


@pytest.mark.parametrize("pass_", [FORWARD, BACKWARD_WEIGHTS])
@pytest.mark.parametrize("primitives", CHAINS, ids=label)
def test_fused_bias_agrees_with_the_oracle(
    worker: Worker, primitives: tuple[Primitive, ...], pass_: str
) -> None:
    """Where the engine has one call for a product and its bias."""
    chains = worker.ask("facts", PATIENCE_S)["fusion"]["chains"].get(pass_, [])
    if [primitive.kind for primitive in primitives] in chains:
        assert_agrees(worker, primitives, pass_)
    else:
        with pytest.raises(WorkerError) as refused:
            kernel_error(worker, primitives, pass_)
        assert refused.value.kind == "unsupported"


@pytest.mark.parametrize(
    "primitive",
    [LstmCell(7, 13, 11, steps=5), LayerNorm(17, 13)],
    ids=lambda primitive: primitive.kind,
)
def test_joint_passes_agree_with_the_oracle(worker: Worker, primitive: Primitive) -> None:
    """Where the engine computes both in one call."""
    if primitive.kind in worker.ask("facts", PATIENCE_S)["fusion"]["joint_passes"]:
        assert_agrees(worker, (primitive,), BACKWARD_DATA, BACKWARD_WEIGHTS)
    else:
        with pytest.raises(WorkerError) as refused:
            kernel_error(worker, (primitive,), BACKWARD_DATA, BACKWARD_WEIGHTS)
        assert refused.value.kind == "unsupported"


@pytest.mark.parametrize(
    ("name", "mode"),
    [
        *product([*CANONICAL, *MADE_UP], MODES),
        *product([*FURTHER, *AS_RUN], ["infer"]),
        ("alexnet-bvlc", "train"),
    ],
)
def test_network_agrees_with_the_oracle(worker: Worker, name: str, mode: str) -> None:
    """The output; or the loss and the gradient of every parameter."""
    network = known_network(name)
    if mode == TRAIN:
        network = small_instance(network)
    batch = 2 if network.parameters() > 2e7 else 3
    answer = worker.ask(
        "check_network", PATIENCE_S, network=network.to_json(), batch=batch, mode=mode, seed=5
    )
    errors = answer["errors"]
    assert errors.keys() == result_names(network, mode)
    assert max(errors.values()) < TOLERANCE, errors


@pytest.mark.parametrize("name", [*CANONICAL, "alexnet-bvlc", *MADE_UP])
def test_training_moves_the_weights_as_the_oracle_does(worker: Worker, name: str) -> None:
    """Same data, loss and arithmetic of the optimizer; two steps show the momentum."""
    network = small_instance(known_network(name))
    asked = {"network": network.to_json(), "batch": 3, "seed": 7}
    errors = worker.ask("check_update", PATIENCE_S, **asked)["errors"]
    assert errors.keys() == result_names(network, "train") - {"loss"}
    assert max(errors.values()) < UPDATE_TOLERANCE, errors


def test_inference_passes_by_a_dropout(worker: Worker) -> None:
    network = dropout_network().to_json()
    answer = worker.ask("check_network", PATIENCE_S, network=network, batch=3, mode="infer", seed=5)
    assert answer["errors"]["output"] < TOLERANCE


GEMM = Gemm(2, 3, 5).to_json()


@pytest.mark.parametrize(
    ("verb", "arguments", "reason"),
    [
        ("check_kernel", {"primitives": [{"kind": "gem"}]}, "unknown primitive 'gem'; known: gemm"),
        ("check_kernel", {"primitives": [{**GEMM, "m": 0}]}, "m must be a whole number"),
        ("check_kernel", {"primitives": [{**GEMM, "depth": 1}]}, "depth"),
        ("check_kernel", {"primitives": GEMM}, "TypeError|AttributeError|ValueError"),
        (
            "check_kernel",
            {"primitives": [GEMM], "passes": ["sideways"]},
            "sideways|cannot be empty",
        ),
        ("check_kernel", {"primitives": [GEMM], "depth": 1}, "depth"),
        ("check_network", {"network": {}, "batch": 2, "mode": "infer", "seed": 0}, "layers"),
        ("guess", {}, "guess"),
    ],
)
def test_wrong_request_is_answered_and_survived(
    worker: Worker, verb: str, arguments: dict[str, Any], reason: str
) -> None:
    if verb == "check_kernel":
        arguments = {"passes": [FORWARD], "seed": 0, **arguments}
    with pytest.raises(WorkerError, match=reason) as refused:
        worker.ask(verb, PATIENCE_S, **arguments)
    assert refused.value.kind == "error"
    assert worker.alive
    assert kernel_error(worker, (Gemm(2, 3, 5),), FORWARD) < TOLERANCE


every_engine = pytest.mark.parametrize("engine", ON_CPU)
TALKATIVE = {
    "DNNL_VERBOSE": "2",
    "MKL_VERBOSE": "1",
    "OPENBLAS_VERBOSE": "2",
    "OMP_DISPLAY_ENV": "1",
}


def test_settings_that_bear_on_speed_are_told(worker: Worker) -> None:
    facts = worker.ask("facts", PATIENCE_S)
    for setting in ("version", "precision", "layout", "algorithm_search", "threads"):
        assert facts[setting], setting


@every_engine
def test_what_libraries_print_disturbs_no_answer(engine: str) -> None:
    worker = engine_worker(engine, variables=TALKATIVE)
    try:
        for primitive in (Gemm(64, 48, 32), Conv2d(2, 8, 9, 9, 8, (3, 3))):
            assert kernel_error(worker, (primitive,), FORWARD) < TOLERANCE
    finally:
        worker.close()


@every_engine
def test_crash_is_named_after_its_signal(engine: str) -> None:
    """Even from inside a root of its own; here as if memory had run out."""
    worker = engine_worker(engine)
    try:
        os.kill(worker.ask("facts", PATIENCE_S)["pid"], signal.SIGKILL)
        with pytest.raises(WorkerError, match="SIGKILL") as crashed:
            worker.ask("facts", PATIENCE_S)
        assert crashed.value.kind == "crash"
    finally:
        worker.close()


@every_engine
def test_hang_ends_the_worker(engine: str) -> None:
    worker = engine_worker(engine)
    try:
        pid = worker.ask("facts", PATIENCE_S)["pid"]
        os.kill(pid, signal.SIGSTOP)
        with pytest.raises(WorkerError, match="no answer within 1 s") as hung:
            worker.ask("facts", 1.0)
        assert hung.value.kind == "timeout"
        assert not worker.alive
        assert is_gone(pid)
    finally:
        worker.close()


def is_gone(pid: int, patience_s: float = 5.0) -> bool:
    """Whether a process ends soon; inside a root of its own it outlives its parent a moment."""
    deadline = time.monotonic() + patience_s
    while Path(f"/proc/{pid}/stat").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    return not Path(f"/proc/{pid}/stat").exists()


BOTH_MODES = {mode: {"mode": mode, "whole": True} for mode in MODES}


@pytest.fixture(scope="module", params=ON_CPU)
def built(request: pytest.FixtureRequest) -> Iterator[tuple[Worker, dict[str, Any]]]:
    """A worker of each engine on two CPUs with a network built, and what it said of that."""
    running = engine_worker(request.param, cpus=2)
    answer = running.ask(
        "build",
        PATIENCE_S,
        network=NETWORKS["alexnet-r"]().to_json(),
        batch=64,
        subjects=BOTH_MODES,
        seed=0,
        warm_up_s=0.5,
    )
    yield running, answer
    running.close()


def thread_run_ns(pid: int) -> dict[str, int]:
    """How long each thread of a process has run."""
    return {
        stat.parent.name: int(stat.read_text().split()[0])
        for stat in Path(f"/proc/{pid}/task").glob("*/schedstat")
    }


def own_pool(worker: Worker, pid: int) -> set[str]:
    """The threads of a pool that others stand in for, so that they need not run most; or none."""
    if worker.environment.adapter != "jax":
        return set()
    names = {
        path.parent.name: path.read_text() for path in Path(f"/proc/{pid}/task").glob("*/comm")
    }
    return {tid for tid, name in names.items() if name.strip() == "tf_XLAEigen"}


def thread_cpus(pid: int) -> dict[str, tuple[int, ...]]:
    """The CPUs that each thread of a process may run on, as the kernel tells the host."""
    found = {}
    for status in Path(f"/proc/{pid}/task").glob("*/status"):
        (listed,) = [
            line.partition(":")[2]
            for line in status.read_text().splitlines()
            if line.startswith("Cpus_allowed_list:")
        ]
        found[status.parent.name] = parse_cpus(listed)
    return found


def test_threads_are_those_asked_for(built: tuple[Worker, dict[str, Any]]) -> None:
    worker, _ = built
    facts = worker.ask("facts", PATIENCE_S)
    assert facts["threads"] == 2
    allowed = thread_cpus(facts["pid"])
    assert len(allowed) >= 2
    assert set(joined.from_iterable(allowed.values())) == set(worker.cpus)
    told = {tid: tuple(cpus) for tid, cpus in facts["thread_cpus"].items()}
    assert told == allowed


@pytest.mark.parametrize("mode", MODES)
def test_busiest_threads_have_a_cpu_each(built: tuple[Worker, dict[str, Any]], mode: str) -> None:
    worker, _ = built
    pid = worker.ask("facts", PATIENCE_S)["pid"]
    before = thread_run_ns(pid)
    worker.ask("turn", PATIENCE_S, subject=mode, rounds=[0, 1, 2])
    ran = {tid: ns - before.get(tid, 0) for tid, ns in thread_run_ns(pid).items()}
    busiest = own_pool(worker, pid) or sorted(ran, key=lambda tid: -ran[tid])[:2]
    allowed = thread_cpus(pid)
    assert sorted(allowed[tid] for tid in busiest) == sorted((cpu,) for cpu in worker.cpus)


@every_engine
def test_the_pool_is_told_from_the_oracles_threads(engine: str) -> None:
    """Those spin for a while after the check, longer than a short kernel takes to warm up."""
    with closing(engine_worker(engine, cpus=2)) as worker:
        build(worker, alone(Gemm(512, 512, 512)))
        pid = worker.ask("facts", PATIENCE_S)["pid"]
        before = thread_run_ns(pid)
        turn(worker, range(20))
        ran = {tid: ns - before.get(tid, 0) for tid, ns in thread_run_ns(pid).items()}
        pinned = [tid for tid, cpus in thread_cpus(pid).items() if len(cpus) == 1]
        assert len(pinned) == 2
        if pool := own_pool(worker, pid):
            assert set(pinned) == pool
        else:
            assert all(ran[tid] > max(ran.values()) / 10 for tid in pinned)


@pytest.mark.parametrize("mode", MODES)
def test_everything_is_built_and_checked(built: tuple[Worker, dict[str, Any]], mode: str) -> None:
    _, answer = built
    network = NETWORKS["alexnet-r"]()
    kernels = answer[mode]["kernels"]
    assert answer[mode]["first_call_ns"] > 0
    assert all(kernel["failure"] is None for kernel in kernels)
    assert all(0 <= kernel["error"] < TOLERANCE for kernel in kernels)
    assert sum(kernel["compute_flop"] for kernel in kernels) == network.flop(64, mode)


@pytest.mark.parametrize("mode", MODES)
def test_samples_keep_the_harness_small(built: tuple[Worker, dict[str, Any]], mode: str) -> None:
    """Below 0.1 % of every sample, of each kernel and of the whole network."""
    worker, answer = built
    facts = worker.ask("facts", PATIENCE_S)
    asked = [5, 6, 7, 8, 9]
    rounds = worker.ask("turn", PATIENCE_S, subject=mode, rounds=asked)["rounds"]
    assert [round_["round"] for round_ in rounds] == asked
    places = [str(place) for place in range(len(answer[mode]["kernels"]))]
    assert all(list(round_["kernels"]) == places for round_ in rounds)
    series = [[round_["whole"] for round_ in rounds]]
    series += [[round_["kernels"][place] for round_ in rounds] for place in places]
    for calls, _, duration, *_ in joined.from_iterable(series):
        clock = ClockFacts(1, facts["clock_block_ns"], facts["clock_loop_ns"])
        assert clock.harness_ns(calls) < HARNESS_SHARE * duration
