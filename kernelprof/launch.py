"""Start workers and talk to them: one fresh process per engine, device and placement."""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kernelprof.debian import TOOL_VARIABLE
from kernelprof.engines import Environment, home
from kernelprof.errors import WorkerError
from kernelprof.probes import boot
from kernelprof.probes.device import CPU, number_of
from kernelprof.probes.wire import Channel, Message
from kernelprof.python27 import TranslationError, write_package

START_TIMEOUT_S = 180.0
HAND_OVER_S = 3.0
STDERR_TAIL_LINES = 12
CRASH = "crash"
Variables = Mapping[str, str | None]  # of the environment; None takes one out of it
SIGNALLED = 128  # plus the signal's number is the exit status of what a signal ended

# One thread count for every pool that an engine may bring along, each fixed before it is imported.
POOL_VARIABLES = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "TF_NUM_INTRAOP_THREADS",
    "MXNET_OMP_MAX_THREADS",  # without it MXNet takes half of the CPUs
    "NPROC",  # the size of XLA's pool, if it is not that of the affinity
)
# Operators run one after another: a second one at a time would take CPUs from the first.
FIXED_VARIABLES = {
    "PYTHONUNBUFFERED": "1",
    "OMP_DYNAMIC": "FALSE",
    "MKL_DYNAMIC": "FALSE",
    "TF_NUM_INTEROP_THREADS": "1",
    "MXNET_CPU_WORKER_NTHREADS": "1",
}
# So that no engine takes a GPU along, or waits for one.
CPU_VARIABLES = {"CUDA_VISIBLE_DEVICES": "", "JAX_PLATFORMS": "cpu"}
# Several engines share the card: none may take all of its memory at its start.
GPU_VARIABLES = {
    "CUDA_DEVICE_ORDER": "PCI_BUS_ID",  # as the driver counts, and the user
    "JAX_PLATFORMS": None,
    "TF_FORCE_GPU_ALLOW_GROWTH": "true",
    "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
}
# What a user's shell may hold that would change how threads are placed or how ranges are taken.
DROPPED_VARIABLES = (
    "GOMP_CPU_AFFINITY",
    "KMP_AFFINITY",
    "NVTX_DISABLE",  # who wants no ranges sets it for an engine
    "OMP_PLACES",
    "OMP_PROC_BIND",
    "OMP_WAIT_POLICY",
    "PYTHONHOME",
    "PYTHONPATH",
)


class Worker:
    """A running worker.  It dies with this object's ``close`` or with the host."""

    def __init__(
        self,
        environment: Environment,
        cpus: tuple[int, ...],
        variables: Variables | None = None,
        device: str = CPU,
    ) -> None:
        """Start the process on the given CPUs, as many threads as CPUs in every pool.

        ``variables`` come on top of those of the environment.  A GPU is the only one that the
        process sees, so that it has the number 0 there.

        Raises:
            WorkerError: it did not start, or its engine or the device is not there.
        """
        self.environment = environment
        self.cpus = cpus
        self.device = device
        command = environment.command(_boot(environment))
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115  closed with the worker
        own = {**environment.variables, **(variables or {})}
        self._process, self._channel = self._start(command, own)
        try:
            self._receive(START_TIMEOUT_S, "starting the engine")
        except BaseException:
            self.close()
            raise

    def _start(
        self, command: list[str], variables: Variables
    ) -> tuple[subprocess.Popen[bytes], Channel]:
        requests_read, requests_write = os.pipe()
        answers_read, answers_write = os.pipe()
        own_cpus = os.sched_getaffinity(0)
        try:
            # The child inherits the affinity, so it holds before its first instruction.
            os.sched_setaffinity(0, self.cpus)
            process = subprocess.Popen(
                [
                    *(*command, self.environment.adapter, self.device),
                    *(str(requests_read), str(answers_write)),
                ],
                env=worker_environment(len(self.cpus), variables, self.device),
                pass_fds=(requests_read, answers_write),
                stdin=subprocess.DEVNULL,
                stdout=self._stderr,
                stderr=self._stderr,
                start_new_session=True,
            )
        except OSError as error:
            os.close(requests_write)
            os.close(answers_read)
            self._stderr.close()
            raise WorkerError(
                "no_engine", f"cannot run {self.environment.python}: {error}"
            ) from error
        finally:
            os.sched_setaffinity(0, own_cpus)
            os.close(requests_read)
            os.close(answers_write)
        return process, Channel(os.fdopen(answers_read, "rb"), os.fdopen(requests_write, "wb"))

    @property
    def pid(self) -> int:
        """The process; of an interpreter in the Debian root the one that entered it."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether the process still runs."""
        return self._process.poll() is None

    def ask(self, verb: str, timeout_s: float, **arguments: Any) -> Message:
        """Send a request and wait for its answer.

        Raises:
            WorkerError: the worker answered with a failure, crashed, or did not answer in time.
        """
        self.begin(verb, **arguments)
        return self.finish(verb, timeout_s)

    def begin(self, verb: str, **arguments: Any) -> None:
        """Send a request; the worker is at it while the host does something else.

        Raises:
            WorkerError: the worker crashed.
        """
        try:
            self._channel.send({"do": verb, **arguments})
        except OSError:
            raise self._crashed() from None

    def finish(self, verb: str, timeout_s: float) -> Message:
        """Wait for the answer to the request that was begun.

        Raises:
            WorkerError: the worker answered with a failure, crashed, or did not answer in time.
        """
        return self._receive(timeout_s, verb)

    def _receive(self, timeout_s: float, doing: str) -> Message:
        with selectors.DefaultSelector() as selector:
            selector.register(self._channel.incoming, selectors.EVENT_READ)
            if not selector.select(timeout_s):
                self.close()
                raise WorkerError(
                    "timeout", f"no answer within {timeout_s:.0f} s ({doing}); worker ended"
                )
        answer = self._channel.receive()
        if answer is None:
            raise self._crashed()
        if "failure" in answer:
            failure = WorkerError(answer["failure"]["kind"], answer["failure"]["reason"])
            if failure.kind == CRASH:  # these were its last words
                self.close()
            raise failure
        result: Message = answer["ok"]
        return result

    def _crashed(self) -> WorkerError:
        status = self._process.wait()
        how = f"exit status {status}"
        if self.environment.site is not None and status > SIGNALLED:  # as bubblewrap hands it on
            status = SIGNALLED - status
        if status < 0:
            how = f"signal {signal.Signals(-status).name}"
        tail = self.stderr_tail()
        return WorkerError(CRASH, f"the worker ended with {how}" + (f": {tail}" if tail else ""))

    def printed(self) -> str:
        """All that the worker or its engine printed; it goes on printing at the end of it."""
        size = os.fstat(self._stderr.fileno()).st_size
        return os.pread(self._stderr.fileno(), size, 0).decode(errors="replace")

    def stderr_tail(self) -> str:
        """The last lines of it."""
        lines = self.printed().strip().splitlines()
        return "\n".join(lines[-STDERR_TAIL_LINES:])

    def close(self) -> None:
        """End the process.  If a tool takes its ranges, it has the time to hand over the last."""
        with contextlib.suppress(BrokenPipeError):  # a request that the worker never read
            self._channel.outgoing.close()  # at which it ends by itself, unless it is at work
        if TOOL_VARIABLE in os.environ:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(HAND_OVER_S)
        if self.alive:
            self._process.kill()
        self._process.wait()
        self._channel.incoming.close()
        self._stderr.close()


def _boot(environment: Environment) -> Path:
    """The file that starts a worker; an engine in Python 2.7 has a translation of its own."""
    here = Path(boot.__file__).resolve()
    if not environment.python27:
        return here
    try:
        return write_package(here.parent, home() / "probes-2.7")
    except (OSError, TranslationError) as error:
        raise WorkerError("no_engine", f"no probes for Python 2.7: {error}") from error


def misplacement(facts: Message, cpus: tuple[int, ...], pool: int | None) -> str | None:
    """How a worker's threads differ from what was asked for, from its own facts, or None.

    ``pool`` is the size that its pool should have, None where the user decides.
    """
    astray = {cpu for allowed in facts["thread_cpus"].values() for cpu in allowed} - set(cpus)
    if astray:
        return f"threads may run on CPUs {sorted(astray)}, not only on {sorted(cpus)}"
    if None not in (pool, facts["threads"]) and facts["threads"] != pool:
        return f"the engine's pool has {facts['threads']} threads, not {pool}"
    return None


def worker_environment(threads: int, variables: Variables, device: str = CPU) -> dict[str, str]:
    """The host's environment with every pool set to ``threads``, then the engine's variables."""
    environment = {k: v for k, v in os.environ.items() if k not in DROPPED_VARIABLES}
    environment.update(dict.fromkeys(POOL_VARIABLES, str(threads)))
    wanted = {**environment, **FIXED_VARIABLES, **device_variables(device), **variables}
    return {name: value for name, value in wanted.items() if value is not None}


def device_variables(device: str) -> Variables:
    """The variables by which a process sees one GPU, or none."""
    number = number_of(device)
    if number is None:
        return CPU_VARIABLES
    return {**GPU_VARIABLES, "CUDA_VISIBLE_DEVICES": str(number)}
