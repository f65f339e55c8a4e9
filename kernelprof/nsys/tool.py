"""Where nsys is, which version it has, and what that version can do."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from kernelprof.engines import home
from kernelprof.errors import KernelprofError, UsageError

VARIABLE = "KERNELPROF_NSYS"
OLDEST = 2022, 1
USUAL = (  # where NVIDIA's packages put it, and CUDA's
    "/opt/nvidia/nsight-systems/*/bin/nsys",
    "/opt/nvidia/nsight-systems-cli/*/bin/nsys",
    "/usr/local/cuda*/bin/nsys",
)
VERSION = re.compile(r"version (\d{4})\.(\d+)\S*")
PATIENCE_S = 60.0
MISSING = (
    "nsys is not installed: `kernelprof nsys install` fetches it on Debian; elsewhere take "
    f"NVIDIA's package nsight-systems-cli ({VARIABLE} names an nsys); a timeline without it: "
    "`kernelprof export RUN --format perfetto`"
)


@dataclass(frozen=True)
class Nsys:
    """An nsys that can be run."""

    path: Path
    version: str

    @cached_property
    def _help(self) -> str:
        return asked(self.path, "profile", "--help")

    def knows(self, option: str) -> bool:
        """Whether its ``profile`` has an option; they come and go with the version."""
        return re.search(rf"(?<!\S){re.escape(option)}(?![\w-])", self._help) is not None


def folder() -> Path:
    """Where ``kernelprof nsys install`` puts it."""
    return home() / "nsys"


def find() -> Path | None:
    """The nsys to take: the one that is named, on the PATH, fetched, or in one of the usual places.

    Raises:
        UsageError: what is named is no program.
    """
    if named := os.environ.get(VARIABLE):
        if found := shutil.which(named):
            return Path(found).absolute()
        raise UsageError(f"{VARIABLE}={named}: no program that can be run; name the file nsys")
    if found := shutil.which("nsys"):
        return Path(found).absolute()
    fetched = program_in(folder())
    if os.access(fetched, os.X_OK):
        return fetched
    return next(iter(_usual()), None)


def program_in(root: Path) -> Path:
    """Where nsys is in a folder that Debian's package was unpacked into."""
    return root / "usr" / "bin" / "nsys"


def _usual(places: Sequence[str] = USUAL) -> list[Path]:
    """Those in the usual places, the newest first."""
    found = [path for place in places for path in Path("/").glob(place.lstrip("/"))]
    return sorted((path for path in found if os.access(path, os.X_OK)), key=_numbers, reverse=True)


def _numbers(path: Path) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", str(path))]


def require() -> Nsys:
    """An nsys that is new enough.

    Raises:
        KernelprofError: there is none, it is too old, or it does not say what it is.
    """
    path = find()
    if path is None:
        raise KernelprofError(MISSING)
    return identify(path)


def identify(path: Path) -> Nsys:
    """What a program says that it is.

    Raises:
        KernelprofError: it is no nsys that can be used.
    """
    said = asked(path, "--version")
    match = VERSION.search(said)
    if match is None:
        last = (said.strip().splitlines() or ["nothing"])[-1][:200]
        raise KernelprofError(
            f"{path} does not say its version, but: {last}; name another nsys in {VARIABLE}"
        )
    if (int(match[1]), int(match[2])) < OLDEST:
        oldest = ".".join(map(str, OLDEST))
        raise KernelprofError(
            f"{path} is nsys {match[1]}.{match[2]}, and {oldest} or newer is needed; install a "
            f"newer one, or name it in {VARIABLE}"
        )
    return Nsys(path, match[0].removeprefix("version "))


def asked(path: Path, *words: str) -> str:
    """What a program prints, wherever it does.

    Raises:
        KernelprofError: it cannot be run, or does not end.
    """
    try:
        done = subprocess.run(
            [path, *words],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=PATIENCE_S,
            check=False,
        )
    except OSError as error:
        raise KernelprofError(f"{path} cannot be run: {error.strerror}") from error
    except subprocess.TimeoutExpired:
        raise KernelprofError(f"{path} {words[0]} did not end within {PATIENCE_S:.0f} s") from None
    return done.stdout
