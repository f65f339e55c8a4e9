"""Run a command under nsys: what nsys is asked for, and what came of it.

Exit statuses of nsys tell of the command, and nothing of what was captured: see ``captured``.
"""

from __future__ import annotations

import fcntl
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import psutil

from kernelprof.errors import KernelprofError
from kernelprof.nsys import target, tool
from kernelprof.nsys.tool import Nsys

REPORT, EXPORT = ".nsys-rep", ".sqlite"
# Workers in the Debian root share this folder with the host, so nsys has to put its files there.
SHARED = "/tmp"
FIRST_STREAM = 200  # numbers of open files that nsys has no use for itself
LAST_LINES = 5
PROGRESS = re.compile(r"\[\d+/\d+\] \[")
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@dataclass(frozen=True)
class Wider:
    """What to capture beside NVTX ranges; each costs what is measured some time."""

    gpu: bool = False  # CUDA's calls, kernels and copies, cuDNN and cuBLAS
    osrt: bool = False  # calls of the operating system's libraries
    sampling: bool = False  # stacks, of Python too where nsys can


@dataclass(frozen=True)
class Recording:
    """What nsys wrote; ``status`` is that of the command."""

    report: Path
    export: Path
    status: int


def profile_words(nsys: Nsys | None, base: Path, wider: Wider) -> list[str]:
    """The words that run what follows them under nsys; None stands for a current one elsewhere.

    ``base`` is the files' name without its ending.  Of processes that outlive the command nothing
    is waited for: workers end before their host does.
    """
    traced = ["nvtx", *(("cuda", "cudnn", "cublas") if wider.gpu else ())]
    words = [
        *(str(nsys.path) if nsys else "nsys", "profile"),
        f"--trace={','.join([*traced, *(['osrt'] if wider.osrt else [])])}",
        *(("--sample=process-tree",) if wider.sampling else ("--sample=none", "--cpuctxsw=none")),
        *("--wait=primary", "--force-overwrite=true", "--export=sqlite"),
        f"--output={str(base.absolute()).replace('%', '%%')}",
    ]
    known = {
        "--cuda-graph-trace=node": wider.gpu,  # or all of a graph is one piece of work
        "--python-sampling=true": wider.sampling,
    }
    for option, wanted in known.items():
        if wanted and (nsys is None or nsys.knows(option.partition("=")[0])):
            words.append(option)
    return words


def profile(command: Sequence[str], base: Path, wider: Wider | None = None) -> Recording:
    """Run a command under nsys to its end; what it prints goes where this process prints.

    Signals that ask this process to end go to the command instead, and what nsys captured until
    then is kept; if the command has ended, they end nsys.

    Raises:
        KernelprofError: there is no nsys, or it wrote no export.
    """
    nsys = tool.require()
    recording = Recording(Path(f"{base}{REPORT}"), Path(f"{base}{EXPORT}"), 0)
    for stale in (recording.report, recording.export):
        stale.unlink(missing_ok=True)
    with tempfile.TemporaryDirectory(prefix="kernelprof-nsys-") as folder:
        session = _Session(Path(folder))
        words = profile_words(nsys, base, wider or Wider())
        status = session.run(words, command)
        if not recording.export.is_file():
            started = "wrote no export" if session.target() else "did not start the command"
            raise KernelprofError(f"nsys {nsys.version} {started}; it said:\n{session.said()}")
    return Recording(recording.report, recording.export, status)


class _Session:
    """One nsys at work.

    It gets a session of the operating system to itself: a terminal's Ctrl-C must not reach it, for
    it would end the command at once.
    """

    def __init__(self, folder: Path) -> None:
        self._file, self._log = folder / "target", folder / "nsys.log"
        self._name = f"kernelprof-{os.getpid()}"
        self._process: subprocess.Popen[bytes] | None = None

    def run(self, words: Sequence[str], command: Sequence[str]) -> int:
        """The status of the command."""
        own = ["env", f"TMPDIR={os.environ['TMPDIR']}"] if "TMPDIR" in os.environ else []
        python = [sys.executable, "-I", "-S", str(Path(target.__file__).resolve())]
        with _streams() as streams, self._log.open("wb") as log, self._signals():
            told = [str(self._file), str(os.getpid()), *map(str, streams)]
            self._process = subprocess.Popen(
                [*words, f"--session-new={self._name}", *python, *told, *own, *command],
                env={**os.environ, "TMPDIR": SHARED},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=streams,
                start_new_session=True,
            )
            try:
                return self._process.wait()
            except BaseException:
                self._end()
                raise

    def target(self) -> int | None:
        """The number of the command's process, once it was started."""
        return int(self._file.read_text()) if self._file.exists() else None

    def said(self) -> str:
        """The last lines of nsys's own."""
        lines = re.split(r"[\r\n]+", self._log.read_text(errors="replace"))
        told = [line.rstrip() for line in lines if line.strip() and not PROGRESS.match(line)]
        return "\n".join(told[-LAST_LINES:]) or "nothing"

    @contextmanager
    def _signals(self) -> Iterator[None]:
        heeded = [number for number in SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
        before = {number: signal.signal(number, self._pass_on) for number in heeded}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _pass_on(self, number: int, _: FrameType | None) -> None:
        process = self.target()
        try:
            if process is None:
                raise ProcessLookupError
            os.kill(process, number)
        except ProcessLookupError:
            raise KeyboardInterrupt from None

    def _end(self) -> None:
        """End nsys with all that it started: its agent has left for a session of its own."""
        assert self._process is not None
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        for process in psutil.process_iter(["cmdline"]):
            if f"--session-name={self._name}" in (process.info["cmdline"] or ()):
                with suppress(psutil.Error):
                    process.kill()
        self._process.wait()


@contextmanager
def _streams() -> Iterator[tuple[int, int]]:
    """Copies of this process's stdout and stderr that can be handed down."""
    sys.stdout.flush()
    sys.stderr.flush()
    copies = [fcntl.fcntl(number, fcntl.F_DUPFD_CLOEXEC, FIRST_STREAM) for number in (1, 2)]
    try:
        yield copies[0], copies[1]
    finally:
        for copy in copies:
            os.close(copy)
