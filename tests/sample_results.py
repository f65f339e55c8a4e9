"""TEST DATA: made-up results of a plausible shape. No number here was measured."""

from __future__ import annotations

from dataclasses import replace
from random import Random

from kernelprof.diagnosis.ledger import (
    CALLING,
    COPIES,
    FAULTS,
    FEEDING,
    IDLE,
    KERNELS,
    RESIDUAL,
    TIMER,
    UPDATING,
)
from kernelprof.results import (
    CaseResult,
    Diagnosis,
    Estimate,
    FailureResult,
    Finding,
    KernelResult,
    LayerResult,
    LedgerPart,
    Results,
    Sampling,
    Saving,
)

PASSES = ("forward", "backward_data", "backward_weights")
SPEED = {"torch": 95e9, "tensorflow": 80e9, "numpy": 42e9}  # flop/s of one thread
BATCH = {"fcn-r": 1024, "alexnet-s": 16, "lstm": 256}
PARAMETERS = {"fcn-r": 14_205_962, "alexnet-s": 62_378_344, "lstm": 6_180_624}

# layer -> kind, primitive, flop of one forward pass
LAYERS = {
    "fcn-r": {
        "fc1": ("fully connected", "gemm m=1024 n=2048 k=784", 3.29e9),
        "sigmoid1": ("activation", "activation sigmoid size=2097152", 8.4e6),
        "fc2": ("fully connected", "gemm m=1024 n=4096 k=2048", 17.2e9),
        "sigmoid2": ("activation", "activation sigmoid size=4194304", 16.8e6),
        "fc3": ("fully connected", "gemm m=1024 n=1024 k=4096", 8.59e9),
        "sigmoid3": ("activation", "activation sigmoid size=1048576", 4.2e6),
        "fc4": ("fully connected", "gemm m=1024 n=10 k=1024", 21e6),
        "loss": ("loss", "softmax_loss rows=1024 classes=10", 0.1e6),
    },
    "alexnet-s": {
        "conv1": ("convolution", "conv2d 16x3x224x224 96x11x11 stride=4x4", 3.37e9),
        "pool1": ("pooling", "pool2d max 16x96x55x55 3x3 stride=2x2", 10e6),
        "conv2": ("convolution", "conv2d 16x96x27x27 256x5x5", 14.3e9),
        "pool2": ("pooling", "pool2d max 16x256x27x27 3x3 stride=2x2", 6.2e6),
        "conv3": ("convolution", "conv2d 16x256x13x13 384x3x3", 4.78e9),
        "conv4": ("convolution", "conv2d 16x384x13x13 384x3x3", 7.18e9),
        "conv5": ("convolution", "conv2d 16x384x13x13 256x3x3", 4.78e9),
        "pool5": ("pooling", "pool2d max 16x256x13x13 3x3 stride=2x2", 1.3e6),
        "fc6": ("fully connected", "gemm m=16 n=4096 k=9216", 1.21e9),
        "fc7": ("fully connected", "gemm m=16 n=4096 k=4096", 537e6),
        "fc8": ("fully connected", "gemm m=16 n=1000 k=4096", 131e6),
        "loss": ("loss", "softmax_loss rows=16 classes=1000", 0.2e6),
    },
    "lstm": {
        "embedding": ("embedding", "embedding rows=10000 size=256", 0),
        "lstm1": ("lstm", "lstm_cell batch=256 input=256 hidden=256", 8.59e9),
        "lstm2": ("lstm", "lstm_cell batch=256 input=256 hidden=256", 8.59e9),
        "decoder": ("fully connected", "gemm m=8192 n=10000 k=256", 41.9e9),
        "loss": ("loss", "softmax_loss rows=8192 classes=10000", 0.4e9),
    },
}

MACHINE = {
    "cpu": "Made-up CPU @ 2.80GHz (test data)",
    "cores": 2,
    "isa": ["avx2", "fma", "avx512f"],
    "memory_bytes": 16 * 1024**3,
    "ceilings": {"float32_flop_per_s": {"1": 1.31e11, "2": 2.52e11}, "memory_bytes_per_s": 1.7e10},
}
ENGINES = {
    "torch": {"version": "2.9.1", "python": "3.11.2", "blas": "MKL 2024.2"},
    "tensorflow": {"version": "2.20.0", "python": "3.11.2"},
    "numpy": {"version": "2.3.4", "python": "3.11.2", "blas": "OpenBLAS 0.3.30"},
}
OUT_OF_MEMORY = FailureResult(
    "alexnet-s", "mxnet", 2, 16, "train", "out_of_memory", "killed by the kernel at 7.9 GiB"
)
NO_ENGINE = FailureResult(
    "lstm",
    "tensorflow",
    2,
    256,
    "train",
    "wrong_result",
    "lstm_cell batch=256 input=256 hidden=256: backward_weights differs from the float64"
    " reference by 0.031, tolerance 0.0004",
)


def estimate(seconds: float, spread: float) -> Estimate:
    return Estimate(seconds, seconds * (1 - spread), seconds * (1 + 1.3 * spread))


def layer_result(
    name: str, kind: str, primitive: str, flop: float, mode: str, rates: tuple[float, float]
) -> LayerResult:
    """A layer at an engine's and the reference's rates; memory-bound ones move bytes at both."""
    passes = PASSES if mode == "train" else PASSES[:1]
    memory_bound = kind not in {"convolution", "fully connected", "lstm"}
    engine_s, reference_s = (
        (3e-4 + flop / 4e9) * (9e10 / rate) if memory_bound else 5e-6 + flop / rate
        for rate in rates
    )
    kernels = tuple(
        KernelResult(
            (primitive, "bias size=4096"), (one,), estimate(engine_s, 0.012), int(flop), 9_437_184
        )
        for one in passes
    )
    calls = len(passes)
    work = int(flop) * calls
    return LayerResult(name, kind, kernels, engine_s * calls, reference_s * calls, work, work)


def case_result(
    network: str,
    engine: str,
    threads: int,
    mode: str,
    layers: tuple[LayerResult, ...],
    random: Random,
) -> CaseResult:
    """A case whose prediction adds up and whose measured time is a few per cent off."""
    kernels_s = sum(layer.engine_s or 0.0 for layer in layers)
    dispatch_s = 4e-6 * len(layers)
    predicted_s = kernels_s + dispatch_s
    return CaseResult(
        network=network,
        engine=engine,
        device="cpu",
        threads=threads,
        cpus=tuple(range(threads)),
        batch=BATCH.get(network, 64),
        mode=mode,
        measured=estimate(predicted_s / (1 + random.gauss(0.005, 0.025)), 0.004),
        predicted=estimate(predicted_s, 0.022),
        dispatch_s=dispatch_s,
        reference_s=sum(layer.reference_s or 0.0 for layer in layers),
        coverage=1.0,
        uncovered=(),
        parameters=PARAMETERS.get(network, 1_000_000),
        flop=sum(layer.flop for layer in layers),
        sampling=Sampling(rounds=15, stopped_by="interval"),
        first_call_s=predicted_s * 6,
        layers=layers,
    )


def sample_case(network: str, engine: str, threads: int, mode: str, random: Random) -> CaseResult:
    """A case of one of the networks above."""
    scale = threads**0.92
    layers = tuple(
        layer_result(
            name,
            kind,
            primitive,
            flop,
            mode,
            (
                SPEED[engine] * scale * (random.uniform(0.45, 1.15) if engine != "numpy" else 1),
                SPEED["numpy"] * scale,
            ),
        )
        for name, (kind, primitive, flop) in LAYERS[network].items()
    )
    return case_result(network, engine, threads, mode, layers, random)


def results_of(
    cases: tuple[CaseResult, ...], failures: tuple[FailureResult, ...] = (), quick: bool = False
) -> Results:
    return Results(
        kernelprof="0.1.0",
        command="kernelprof run fcn-r alexnet-s lstm --engine torch,tensorflow,numpy"
        " --threads 1,2 --mode infer,train -o test-data.run",
        started="2025-11-22T08:14:00+00:00",
        quick=quick,
        machine=MACHINE,
        engines=ENGINES,
        cases=cases,
        failures=failures,
    )


def sample_results(seed: int = 7) -> Results:
    """Three networks in three engines at two thread counts, with two failures."""
    random = Random(seed)
    cases = tuple(
        sample_case(network, engine, threads, mode, random)
        for network in LAYERS
        for mode in ("infer", "train")
        for threads in (1, 2)
        for engine in SPEED
        if (network, engine, threads, mode) != ("lstm", "tensorflow", 2, "train")
    )
    return results_of(cases, (OUT_OF_MEMORY, NO_ENGINE))


def large_results(networks: int = 10, layers: int = 25) -> Results:
    """Four cases of every network, each with that many layers."""
    random = Random(11)
    cases = tuple(
        case_result(
            f"network-{number}",
            engine,
            1,
            mode,
            tuple(
                layer_result(
                    f"conv{index}",
                    "convolution",
                    f"conv2d 16x{8 * index + 8}x56x56 {8 * index + 8}x3x3",
                    1e8 * (index + 1),
                    mode,
                    (9e10, 4e10),
                )
                for index in range(layers)
            ),
            random,
        )
        for number in range(networks)
        for engine in ("torch", "numpy")
        for mode in ("infer", "train")
    )
    return results_of(cases)


# The share of each part of the time that no kernel takes; copies and faults are of the layers.
BESIDE_KERNELS = {
    COPIES: 0.06,
    FAULTS: 0.02,
    CALLING: 0.03,
    UPDATING: 0.04,
    FEEDING: 0.01,
    IDLE: 0.004,
    TIMER: 0.0001,
    RESIDUAL: 0.012,
}
CAPPED = "instruction set capped"
REORDERS = "layout reorders"


def with_diagnosis(
    case: CaseResult,
    findings: tuple[Finding, ...] = (),
    missing: dict[str, str] | None = None,
    **shares: float,
) -> CaseResult:
    """A case whose ledger adds up, with these shares of its parts instead of the usual ones.

    A part's name is that of its constant.  Layers take of kernels, copies and faults what they take
    of the prediction, and within the network no more than that, and an equal share of the update.
    """
    parts = {**BESIDE_KERNELS, **{globals()[name]: share for name, share in shares.items()}}
    if case.mode == "infer":
        parts[UPDATING] = 0.0
    parts = {KERNELS: 1 - sum(parts.values()), **parts}
    measured_s = case.measured.value_s
    alone_s = sum(layer.engine_s or 0.0 for layer in case.layers)
    weights = {layer.name: (layer.engine_s or 0.0) / alone_s for layer in case.layers}
    ledger, within = [], dict.fromkeys(weights, 0.0)
    for part, share in parts.items():
        if part in (KERNELS, COPIES, FAULTS):
            for name, weight in weights.items():
                ledger.append(LedgerPart(part, share * weight * measured_s, name))
                within[name] += share * weight * measured_s
        else:
            ledger.append(LedgerPart(part, share * measured_s))
    update_s = parts[UPDATING] * measured_s / len(weights)
    layers = tuple(
        replace(
            layer,
            in_network_s=within[layer.name] + update_s,
            ceiling_s=0.6 * min(layer.engine_s or 0.0, layer.reference_s or 0.0),
        )
        for layer in case.layers
    )
    return replace(
        case,
        layers=layers,
        ceiling_s=sum(layer.ceiling_s or 0.0 for layer in layers),
        diagnosis=Diagnosis(tuple(ledger), 0.08, findings, missing or {}),
    )


def capped(case: CaseResult, saved: float | None = None, actual: float = 0.0) -> Finding:
    """A cap that was not tried, or that was foretold to save a share of the time and saved some."""
    measured_s = case.measured.value_s
    known = None if saved is None else estimate_saving(saved * measured_s)
    return Finding(
        CAPPED,
        None if saved is None else saved * measured_s,
        0.45 * measured_s,
        ("ONEDNN_MAX_CPU_ISA=SSE41 is set", "oneDNN says it may use SSE4.1"),
        "unset ONEDNN_MAX_CPU_ISA",
        (("ONEDNN_MAX_CPU_ISA", None),),
        foretold=known,
        actual=None if saved is None else estimate_saving(actual * measured_s),
    )


def reorders(case: CaseResult, share: float = 0.06) -> Finding:
    """Copies between layouts, as the ledger has them; not tried."""
    seconds = share * case.measured.value_s
    return Finding(
        REORDERS,
        seconds,
        seconds,
        ("6.0 % of the time moves data (conv2 3.10 ms, conv3 1.20 ms)", "oneDNN made 12 reorders"),
        "keep images channels last",
        (("KERNELPROF_LAYOUT", "channels_last"),),
    )


def estimate_saving(seconds: float) -> Saving:
    return Saving(seconds, seconds - 0.02 * abs(seconds), seconds + 0.02 * abs(seconds))


def twenty_cases(engine: str = "torch") -> tuple[CaseResult, ...]:
    """The cases of five networks in two modes and at two thread counts, all without a diagnosis."""
    random = Random(5)
    names = {"resnet-56": "alexnet-s", "alexnet-r": "alexnet-s"}
    return tuple(
        replace(
            sample_case(names.get(network, network), engine, threads, mode, random), network=network
        )
        for network in (*LAYERS, *names)
        for mode in ("infer", "train")
        for threads in (1, 2)
    )


def diagnosed_results() -> Results:
    """Twenty cases of torch that lose to a cap, which was tried, and twenty healthy ones."""
    cases = []
    for number, case in enumerate(twenty_cases()):
        findings = [reorders(case)]
        if number % 2:
            findings.insert(0, capped(case, 0.31, 0.29))
        if number % 5 == 0:
            findings.append(
                Finding(
                    "dispatch-bound",
                    0.03 * case.measured.value_s,
                    0.03 * case.measured.value_s,
                    ("3.0 % of the time passes between and around kernels",),
                    f"more samples per call than {case.batch}",
                )
            )
        missing = {"stacks": "py-spy may not look into other processes: ptrace is not permitted"}
        cases.append(with_diagnosis(case, tuple(findings), missing))
    healthy = [with_diagnosis(case) for case in twenty_cases("tensorflow")]
    return results_of((*cases, *healthy))
