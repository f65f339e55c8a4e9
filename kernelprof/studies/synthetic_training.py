"""Large synthetic exports: the training of a network by two processes, step by step.

Forward is four ranges deep, backward runs on a thread of its own, the optimizer comes last.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np

from kernelprof.nsys.rows import KERNEL, MEMCPY, MEMSET, Integers
from kernelprof.studies.export_schema import HTOD, NEW, PUSH_POP
from kernelprof.studies.synthetic_export import REST_OF_KERNEL, Synthetic, process_id, thread_id

LAYERS = 8
LAUNCH = "cudaLaunchKernel_v7000"
OPERATORS = (  # of a layer: kernels and the nanoseconds that they take
    ("aten::conv2d", (("void cutlass::gemm<float, 128, 64>(Params)", 90_000),)),
    ("aten::batch_norm", (("void bn<float>(float*)", 18_000), ("void scale<float>(T*)", 9_000))),
    ("aten::relu", (("void elementwise<relu>(int, float*)", 7_000),)),
)
UPDATE = ("void multi_tensor_apply<sgd>(int, float*)", 80_000)
ALL_REDUCE = ("ncclDevKernel_AllReduce_Sum_f32(ncclDevKernelArgs)", 400_000)
COMPUTE, COPY, COMMUNICATION = 7, 13, 20  # streams
MAIN, AUTOGRAD = 0, 1  # threads
LAUNCH_NS, BETWEEN_NS = 4_000, 1_000
PROCESSES = 2
STEPS_AT_ONCE = 200
BATCH_BYTES = 4 * 64 * 3 * 224 * 224
REST_OF_KIND = {
    KERNEL: {"contextId": 1, **REST_OF_KERNEL},
    MEMCPY: {"contextId": 1, "bytes": BATCH_BYTES, "copyKind": HTOD},
    MEMSET: {"contextId": 1, "bytes": 4, "value": 0},
}


def generate(path: Path, rows: int, seed: int, schema: str = NEW) -> int:
    """Write what a training of two processes would leave: about so many ranges, launches and work.

    Kernels run on one stream for arithmetic and one for communication, copies on a third; both
    processes count their correlations from 1.  The same seed writes the same rows.

    Returns:
        How many rows of these kinds there are.
    """
    step = _Step()
    count = max(1, round(rows / (PROCESSES * step.rows)))
    random = np.random.default_rng(seed)
    with Synthetic(path, schema) as export:
        processes = [_Training(export, step, 4000 + 100 * place) for place in range(PROCESSES)]
        for done in range(0, count, STEPS_AT_ONCE):
            for process in processes:
                process.write(min(STEPS_AT_ONCE, count - done), random)
        export.session(0, max(process.end_ns for process in processes))
    return PROCESSES * count * step.rows


class _Range(NamedTuple):
    """An NVTX range."""

    start_ns: int
    end_ns: int
    thread: int
    name: str
    registered: bool


class _Launch(NamedTuple):
    """A call of the CUDA runtime."""

    start_ns: int
    thread: int
    name: str


class _Operation(NamedTuple):
    """Work of the GPU."""

    kind: str
    launch: int  # its place among the launches
    stream: int
    name: str
    duration_ns: int


class _Step:
    """One step of a training, in nanoseconds since it began."""

    def __init__(self) -> None:
        self.ranges: list[_Range] = []
        self.launches: list[_Launch] = []
        self.operations: list[_Operation] = []
        self._now = 0
        with self._range("train_step", MAIN):
            self._launch("cudaMemcpyAsync_v3020", MAIN, MEMCPY, COPY, "", 30_000)
            with self._range("forward", MAIN):
                self._layers(MAIN, "", 1)
            with self._range("backward", MAIN):
                self._launch("cudaMemsetAsync_v3020", MAIN, MEMSET, COMPUTE, "", 2_000)
                self._layers(AUTOGRAD, ".backward", 2)
                self._launch("cuLaunchKernelEx", AUTOGRAD, KERNEL, COMMUNICATION, *ALL_REDUCE)
            with self._range("optimizer", MAIN):
                self._launch(LAUNCH, MAIN, KERNEL, COMPUTE, *UPDATE)
            self.launches.append(_Launch(self._now, MAIN, "cudaStreamSynchronize_v3020"))
            self._now += LAUNCH_NS
        busy_ns = sum(one.duration_ns for one in self.operations)
        self.period_ns = 2 * max(self._now, busy_ns)  # or the GPU would fall behind for ever

    @property
    def rows(self) -> int:
        """Rows of an export that it leaves."""
        return len(self.ranges) + len(self.launches) + len(self.operations)

    def _layers(self, thread: int, suffix: str, cost: int) -> None:
        for layer in range(LAYERS):
            with self._range(f"layer{layer}{suffix}", thread):
                for operator, kernels in OPERATORS:
                    with self._range(operator, thread, registered=False):
                        for name, ns in kernels:
                            self._launch(LAUNCH, thread, KERNEL, COMPUTE, name, cost * ns)

    @contextmanager
    def _range(self, name: str, thread: int, registered: bool = True) -> Iterator[None]:
        start = self._now
        self._now += BETWEEN_NS
        yield
        self._now += BETWEEN_NS
        self.ranges.append(_Range(start, self._now, thread, name, registered))

    def _launch(
        self, call: str, thread: int, kind: str, stream: int, name: str, duration_ns: int
    ) -> None:
        self.operations.append(_Operation(kind, len(self.launches), stream, name, duration_ns))
        self.launches.append(_Launch(self._now, thread, call))
        self._now += LAUNCH_NS + BETWEEN_NS


class _Training:
    """A process of the training, that goes on step by step."""

    def __init__(self, export: Synthetic, step: _Step, pid: int) -> None:
        self._export = export
        self._step = step
        self._process = process_id(pid)
        self._threads = [thread_id(pid, pid + place) for place in (MAIN, AUTOGRAD)]
        self._domain = export.domain("training", self._threads[MAIN])
        self._launched = 0
        self._free_ns: dict[int, int] = {}  # when a stream has nothing left to do
        self.end_ns = pid * 1_000  # that the processes begin at different times

    def write(self, steps: int, random: np.random.Generator) -> None:
        """Add so many steps; how long kernels take differs from one to the next."""
        begins = self.end_ns + self._step.period_ns * np.arange(steps)
        self._write_ranges(begins)
        launched = self._write_launches(begins)
        for stream in (COMPUTE, COPY, COMMUNICATION):
            own = [one for one in self._step.operations if one.stream == stream]
            takes = np.array([one.duration_ns for one in own]) * random.uniform(
                0.8, 1.2, (steps, len(own))
            )
            submitted = launched[:, [one.launch for one in own]] + LAUNCH_NS
            starts, ends = self._queue(stream, submitted, takes.astype(np.int64))
            self._write_operations(own, starts, ends)
        self._launched += steps * len(self._step.launches)
        self.end_ns += steps * self._step.period_ns

    def _write_ranges(self, begins: Integers) -> None:
        for registered in (True, False):
            own = [one for one in self._step.ranges if one.registered == registered]
            names = [self._export.name(one.name) if registered else one.name for one in own]
            self._export.insert_many(
                "NVTX_EVENTS",
                {"eventType": PUSH_POP, "domainId": self._domain if registered else 0},
                {
                    "start": _times(begins, [one.start_ns for one in own]).ravel().tolist(),
                    "end": _times(begins, [one.end_ns for one in own]).ravel().tolist(),
                    "globalTid": [self._threads[one.thread] for one in own] * len(begins),
                    "textId" if registered else "text": names * len(begins),
                },
            )

    def _write_launches(self, begins: Integers) -> Integers:
        """The starts of all launches, by step."""
        own = self._step.launches
        starts = _times(begins, [one.start_ns for one in own])
        names = [self._export.name(one.name) for one in own]
        first = self._launched + 1
        self._export.insert_many(
            "CUPTI_ACTIVITY_KIND_RUNTIME",
            {"eventClass": 0, "returnValue": 0},
            {
                "start": starts.ravel().tolist(),
                "end": (starts + LAUNCH_NS).ravel().tolist(),
                "globalTid": [self._threads[one.thread] for one in own] * len(begins),
                "correlationId": list(range(first, first + starts.size)),
                "nameId": names * len(begins),
            },
        )
        return starts

    def _queue(
        self, stream: int, submitted: Integers, takes: Integers
    ) -> tuple[Integers, Integers]:
        """When operations start and end: each once it is submitted and the one before is done."""
        done = takes.ravel().cumsum()
        before = done - takes.ravel()
        ready = np.maximum(submitted.ravel(), self._free_ns.get(stream, 0))
        ends = done + np.maximum.accumulate(ready - before)
        self._free_ns[stream] = int(ends[-1])
        return (ends - takes.ravel()).reshape(takes.shape), ends.reshape(takes.shape)

    def _write_operations(self, own: list[_Operation], starts: Integers, ends: Integers) -> None:
        first = self._launched + 1 + len(self._step.launches) * np.arange(len(starts))
        correlations = _times(first, [one.launch for one in own])
        for kind in dict.fromkeys(one.kind for one in own):
            places = [place for place, one in enumerate(own) if one.kind == kind]
            names = [self._export.name(own[place].name) for place in places] * len(starts)
            named = {"demangledName": names, "shortName": names} if kind == KERNEL else {}
            self._export.insert_many(
                f"CUPTI_ACTIVITY_KIND_{kind.upper()}",
                {
                    "deviceId": 0,
                    "streamId": own[0].stream,
                    "globalPid": self._process,
                    **REST_OF_KIND[kind],
                },
                {
                    "start": starts[:, places].ravel().tolist(),
                    "end": ends[:, places].ravel().tolist(),
                    "correlationId": correlations[:, places].ravel().tolist(),
                    **named,
                },
            )


def _times(begins: Integers, offsets: list[int]) -> Integers:
    """Offsets from each of the begins, one row by begin."""
    sums: Integers = begins[:, None] + np.array(offsets)
    return sums
