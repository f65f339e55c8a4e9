"""What a worker's calls are doing when one looks in, many times a second: shares of its stacks.

py-spy looks in from outside and stops the worker each time, so nothing may be timed meanwhile.  It
sees threads that run Python and no others: what the engine's own threads do while Python's waits
for them is in no share but ``waiting``.  Which part of a library a function belongs to is told by
its name, and with N samples a share s is known to about sqrt(s (1 - s) / N).
"""

from __future__ import annotations

import os
import re
import shutil
import sysconfig
import tempfile
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

from kernelprof.diagnosis.outside_tools import run_tool
from kernelprof.errors import KernelprofError

RATE_PER_S = 200
PATIENCE_S = 120.0  # it reads an engine's symbols before it looks
HOTTEST = 12
MOST_OF_SYMBOL = 120  # characters
CALLS = re.compile(r"\brepeat \(.*\bobserver\.py:\d+\)")  # the frame that a call is made from
FLAME_GRAPH, SPEEDSCOPE = "flamegraph", "speedscope"
SUFFIXES = {FLAME_GRAPH: ".svg", SPEEDSCOPE: ".speedscope.json"}

PYTHON = "python"  # the interpreter, and calls from it to C
DISPATCH = "dispatch"  # an engine's code around its kernels
KERNEL = "kernel"  # arithmetic: of the engine, of BLAS or oneDNN, or written while it runs
SYSTEM = "system"  # the C library and the operating system: memory, mostly
WAITING = "waiting"  # for other threads
OTHER = "other"
WHATS = (PYTHON, DISPATCH, KERNEL, SYSTEM, WAITING, OTHER)

LINE = re.compile(r".* \((.*\.(\w+)|<.*>):\d+\)")  # a frame whose source is known
NATIVE = re.compile(r"(.*) \(([^()]*)\)")
GENERATED = "?"  # the library of code that was written while running
INTERPRETER = re.compile(r"(^|/)(lib)?python\d|_ctypes|libffi")
INTERPRETER_SOURCES = ("py", "pyx", "c", "h")  # of native code only Python's tells its lines
LIBRARIES_OF_KERNELS = re.compile(
    r"openblas|libmkl|mklml|libblas|lib[gi]?omp|libdnnl|onednn|libm(vec)?[-.]", re.IGNORECASE
)
LIBRARIES_OF_SYSTEM = re.compile(r"(^|/)(libc|libpthread|ld-linux|librt|libdl)\b|vdso")
LIBRARIES_OF_ENGINES = re.compile(
    r"torch|libc10|tensorflow|_pywrap|mxnet|caffe|cntk|numpy|jax|onnxruntime"
    r"|boost_python|libstdc\+\+|proto|_message|nvtx",
    re.IGNORECASE,
)
KERNELS = re.compile(
    r"gemm|gemv|mkl_|im2col|col2im|[pP]ool|kernel_impl|[vV]ectorized|_loop|dnnl::impl::(cpu|para)"
    r"|jit_|Eigen::internal|TensorExecutor|mshadow|mxnet_op|Kernel<|::(For|Back)ward_cpu|CPUMatrix"
    r"|caffe_|::Loop\b|softmax|sigmoid|_?(contig|strided|aligned)_|^[A-Z]+_[a-z]+_|^simd_|^0x"
)
AROUND_KERNELS = re.compile(
    r"pd_t|create|_desc|hash|cache|check|_ops::|wrap|Variable|ThreadPool|::~|std::_Rb|std::vector"
)
WAITS = re.compile(
    r"pthread_cond_(clock|timed)?wait|pthread_join|sem_wait|condition_variable::wait|Futex"
    r"|WaitFor|nanosleep|sched_yield|^(select|poll|epoll_wait|read) "
)
FRAMES_THAT_WAIT = 4  # the innermost


@dataclass(frozen=True)
class Hot:
    """A native function that many samples end in; ``symbol`` is empty where it has no name."""

    symbol: str
    library: str
    share: float


@dataclass(frozen=True)
class Stacks:
    """Shares of a worker's calls, by what they do and by native function."""

    samples: int
    shares: dict[str, float]
    hottest: tuple[Hot, ...]

    def share(self, name: str) -> float:
        """One of the shares, 0 where nothing was seen of it."""
        return self.shares.get(name, 0.0)

    def to_json(self) -> dict[str, Any]:
        """A JSON object that says the same."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Stacks:
        """The stacks that ``to_json`` wrote."""
        return cls(data["samples"], data["shares"], tuple(Hot(**one) for one in data["hottest"]))


def sample(pid: int, seconds: float, rate_per_s: int = RATE_PER_S) -> Stacks:
    """Look at a worker that calls its network again and again.

    Raises:
        KernelprofError: py-spy is not there, may not look or failed, or there were no calls.
    """
    with tempfile.TemporaryFile() as output:
        _record(pid, seconds, rate_per_s, "raw", output)
        output.seek(0)
        return parse(output.read().decode(errors="replace"))


def keep(pid: int, seconds: float, folder: Path, name: str) -> list[Path]:
    """Record a flame graph and a file for speedscope, one after the other, for people to look at.

    Returns:
        The files' paths.

    Raises:
        KernelprofError: as ``sample`` does, or the folder cannot be written to.
    """
    paths = []
    for form, suffix in SUFFIXES.items():
        path = folder / f"{name}{suffix}"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with path.open("w+b") as output:
                _record(pid, seconds, RATE_PER_S, form, output)
        except OSError as error:
            raise KernelprofError(f"cannot write {path}: {error.strerror}") from error
        except KernelprofError:
            path.unlink(missing_ok=True)
            raise
        paths.append(path)
    return paths


def parse(raw: str) -> Stacks:
    """Read py-spy's raw format: ``frame;frame;...;leaf COUNT``, and keep the calls alone.

    Raises:
        KernelprofError: no call was seen.
    """
    whats: Counter[str] = Counter()
    leaves: Counter[tuple[str, str]] = Counter()
    for line in raw.splitlines():
        stack, _, count = line.rpartition(" ")
        if not CALLS.search(stack) or not count.isdecimal():
            continue  # outside calls, and samples of a thread that is about to start or end
        frames = stack.split(";")
        whats[what(frames)] += int(count)
        if native := _native(frames[-1]):
            leaves[native] += int(count)
    samples = whats.total()
    if not samples:
        raise KernelprofError("py-spy saw no call: they had ended before it could look")
    return Stacks(
        samples=samples,
        shares={name: whats[name] / samples for name in WHATS},
        hottest=tuple(Hot(*leaf, count / samples) for leaf, count in leaves.most_common(HOTTEST)),
    )


def what(frames: list[str]) -> str:
    """What a stack is doing, by its innermost frames."""
    leaf = frames[-1]
    if source := LINE.fullmatch(leaf):
        return PYTHON if source[2] in (None, *INTERPRETER_SOURCES) else OTHER
    match = NATIVE.fullmatch(leaf)
    symbol, library = match.groups() if match else (leaf, "")
    if library == GENERATED or LIBRARIES_OF_KERNELS.search(library):
        return KERNEL
    if INTERPRETER.search(library):
        return PYTHON
    if LIBRARIES_OF_SYSTEM.search(library):
        innermost = frames[-FRAMES_THAT_WAIT:]
        return WAITING if any(WAITS.search(frame) for frame in innermost) else SYSTEM
    if LIBRARIES_OF_ENGINES.search(library):
        is_kernel = KERNELS.search(symbol) and not AROUND_KERNELS.search(symbol)
        return KERNEL if is_kernel else DISPATCH
    return OTHER


def _native(leaf: str) -> tuple[str, str] | None:
    """Function and library of a frame of native code; addresses are no names."""
    match = NATIVE.fullmatch(leaf)
    if match is None or LINE.fullmatch(leaf):
        return None
    symbol, library = match.groups()
    return "" if symbol.startswith("0x") else symbol[:MOST_OF_SYMBOL], library


def _record(pid: int, seconds: float, rate_per_s: int, form: str, output: IO[bytes]) -> None:
    """Let py-spy write to an open file, which it finds by its number in any root."""
    with open(_tool(), "rb") as tool:
        command = [
            *(*_entering(pid), f"/proc/self/fd/{tool.fileno()}", "record", "--native", "--idle"),
            *("--pid", str(pid), "--duration", str(max(1, round(seconds)))),
            *("--rate", str(rate_per_s), "--format", form),
            *("--output", f"/proc/self/fd/{output.fileno()}"),
        ]
        run_tool("py-spy", command, seconds + PATIENCE_S, (tool.fileno(), output.fileno()))


def _tool() -> str:
    """The path of py-spy, which a package of that name brings."""
    beside = sysconfig.get_path("scripts")
    found = shutil.which("py-spy", path=beside) or shutil.which("py-spy")
    if found is None:
        raise KernelprofError("py-spy is not installed: `pip install py-spy`")
    return found


def _entering(pid: int) -> list[str]:
    """The words that run a command where a process lives: its files may be those of another root.

    py-spy finds no native frames from outside of it.
    """
    spaces = {"user": "--user", "mnt": "--mount"}
    try:
        words = [
            word
            for space, word in spaces.items()
            if os.readlink(f"/proc/{pid}/ns/{space}") != os.readlink(f"/proc/self/ns/{space}")
        ]
    except FileNotFoundError:
        raise KernelprofError(f"process {pid} has ended") from None
    except PermissionError:
        raise KernelprofError(f"process {pid} may not be looked at: it is another user's") from None
    if not words:
        return []
    same_user = ["--preserve-credentials"] if "--user" in words else []
    return ["nsenter", "--target", str(pid), *words, *same_user]
