"""Try an engine out: start a worker and run every kind of primitive once against the oracle."""

from __future__ import annotations

from kernelprof.engines import Environment
from kernelprof.errors import WorkerError
from kernelprof.launch import Worker
from kernelprof.probes.attention import LayerNorm, Scale, Softmax, Transpose
from kernelprof.probes.compute_bound import BatchedGemm, Conv2d, Gemm, LstmCell
from kernelprof.probes.device import CPU
from kernelprof.probes.memory_bound import (
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
from kernelprof.probes.primitive import Primitive
from kernelprof.results import EngineCheck

PATIENCE_S = 120.0

# One of each kind, as the known networks use it, and small.
SPECIMENS: tuple[Primitive, ...] = (
    Gemm(64, 48, 32, trans_b=True),
    BatchedGemm(6, 16, 16, 8, trans_b=True),
    Conv2d(2, 8, 12, 12, 16, (3, 3), padding=(1, 1, 1, 1)),
    LstmCell(4, 16, 24, steps=3),
    Bias(4, 16, 9),
    Activation("relu", 1000),
    Pool2d("max", 2, 4, 13, 13, (3, 3), (2, 2)),
    LocalResponseNorm(2, 8, 25),
    BatchNorm(4, 8, 25, training=True),
    Dropout(1000),
    Softmax(16, 10),
    LayerNorm(16, 24),
    Transpose(8, 12, 16),
    Scale(1000),
    SoftmaxLoss(16, 10),
    Embedding(12, 50, 8),
    Add(1000),
    PadChannels(2, 8, 49, added=8),
    SgdUpdate(1000, momentum=0.9, learning_rate=0.1),
    Copy(1000),
)


def check(environment: Environment, cpus: tuple[int, ...], device: str = CPU) -> EngineCheck:
    """Start the engine on a device and hold each specimen, in every pass, against the oracle.

    ``cpus`` are those that it computes on, or hands the GPU its work from.
    """
    result = EngineCheck(environment.engine)
    try:
        worker = Worker(environment, cpus, device=device)
    except WorkerError as error:
        result.failures["start"] = error.reason
        return result
    try:
        facts = worker.ask("facts", PATIENCE_S)
        result.version, result.threads = str(facts["version"]), facts["threads"]
        for primitive in SPECIMENS:
            _check_primitive(worker, primitive, result)
    except WorkerError as error:  # the worker is gone
        result.failures["worker"] = error.reason
    finally:
        worker.close()
    return result


def _check_primitive(worker: Worker, primitive: Primitive, result: EngineCheck) -> None:
    described = [primitive.to_json()]
    try:
        answers = [
            worker.ask("check_kernel", PATIENCE_S, primitives=described, passes=[pass_], seed=1)
            for pass_ in primitive.passes
        ]
    except WorkerError as error:
        if not worker.alive:
            raise
        kind = result.unsupported if error.kind == "unsupported" else result.failures
        kind[primitive.label] = error.reason
    else:
        result.errors[primitive.label] = max(float(answer["error"]) for answer in answers)
