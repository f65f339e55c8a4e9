"""The engines: where each one's interpreter is, and how its environment is made.

An environment is a virtual environment of pinned packages under the user's cache folder; the
variable KERNELPROF_HOME moves it.  ``engines.toml`` there points an engine at an interpreter of
the user's own::

    [torch]
    python = "/opt/torch/bin/python"
    variables = { MKL_ENABLE_INSTRUCTIONS = "AVX2" }
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tomllib
import venv
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import platformdirs

from kernelprof.errors import KernelprofError, UsageError

NVTX = (
    "nvtx==0.2.11"  # the newest that both the nsys of Debian 12 (2022.4) and current ones capture
)


@dataclass(frozen=True)
class EngineSpec:
    """An engine that kernelprof knows: its adapter, and the packages of its environment.

    An engine without packages lives in kernelprof's own interpreter.
    """

    name: str
    title: str
    packages: tuple[str, ...] = ()


ENGINES = {
    "numpy": EngineSpec("numpy", "NumPy, the reference kernels"),
    "torch": EngineSpec("torch", "PyTorch", ("torch==2.13.0", "numpy==2.4.6", NVTX)),
    "tensorflow": EngineSpec("tensorflow", "TensorFlow 2", ("tensorflow-cpu==2.21.0", NVTX)),
    "mxnet": EngineSpec("mxnet", "Apache MXNet", ("mxnet==1.9.1", "numpy==1.23.5", NVTX)),
    "caffe": EngineSpec("caffe", "BVLC Caffe", ("caffe",)),
    "cntk": EngineSpec("cntk", "Microsoft CNTK", ("cntk",)),
}
REFERENCE = "numpy"


@dataclass(frozen=True)
class Environment:
    """How to start a worker of an engine."""

    engine: str
    python: str
    adapter: str
    variables: dict[str, str] = field(default_factory=dict)


def home() -> Path:
    """The folder of engine environments."""
    moved = os.environ.get("KERNELPROF_HOME")
    return Path(moved) if moved else Path(platformdirs.user_cache_dir("kernelprof"))


def configured() -> dict[str, dict[str, Any]]:
    """What the user's engines.toml says, by engine.

    Raises:
        UsageError: the file is no TOML, or an entry has no interpreter that runs or no adapter.
    """
    path = home() / "engines.toml"
    if not path.is_file():
        return {}
    try:
        entries = tomllib.loads(path.read_text())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: {error}") from error
    for name, entry in entries.items():
        python = entry.get("python", sys.executable) if isinstance(entry, dict) else ""
        if not os.access(str(python), os.X_OK):
            raise UsageError(f"{path}: [{name}] python = {python!r} is no program that can be run")
        if not isinstance(entry.get("variables", {}), dict):
            raise UsageError(f"{path}: [{name}] variables must be a table of names and values")
        adapter = str(entry.get("adapter", name))
        if adapter not in ENGINES and not Path(adapter).is_file():
            raise UsageError(
                f"{path}: [{name}] adapter = {adapter!r} is no file, nor one of "
                f"{', '.join(ENGINES)}"
            )
    return entries


def known() -> list[str]:
    """The names of all engines, the user's own among them."""
    return list(dict.fromkeys([*ENGINES, *configured()]))


def environment(name: str) -> Environment | None:
    """How to start this engine, or None where it is not installed.

    Raises:
        UsageError: no engine of this name is known.
    """
    entry = configured().get(name)
    if entry is not None:
        return Environment(
            name,
            str(entry.get("python", sys.executable)),
            str(entry.get("adapter", name)),
            {key: str(value) for key, value in entry.get("variables", {}).items()},
        )
    if name not in ENGINES:
        raise UsageError(f"unknown engine {name!r}; known: {', '.join(known())}")
    if not ENGINES[name].packages:
        return Environment(name, sys.executable, name)
    python = _folder(name) / "bin" / "python"
    return Environment(name, str(python), name) if _is_complete(ENGINES[name]) else None


def _folder(name: str) -> Path:
    return home() / "engines" / name


def _stamp(spec: EngineSpec) -> str:
    """What a finished environment says of itself; another one is made anew."""
    return "\n".join([f"python {sys.version.split()[0]}", *spec.packages, ""])


def _is_complete(spec: EngineSpec) -> bool:
    stamp = _folder(spec.name) / "complete.txt"
    return stamp.is_file() and stamp.read_text() == _stamp(spec)


def install(name: str, report: Callable[[str], None]) -> bool:
    """Make the environment of an engine; False where there is nothing to do.

    ``report`` is told each step.  A half-made environment is never used: it carries no stamp, and
    the next call makes it anew.

    Raises:
        UsageError: no engine of this name is known.
        KernelprofError: pip failed; the message holds its last lines.
    """
    if environment(name) is not None:
        return False
    spec, folder = ENGINES[name], _folder(name)
    shutil.rmtree(folder, ignore_errors=True)
    report(f"{name}: making {folder}")
    venv.create(folder, with_pip=True)
    _pip_install(spec, folder, report)
    (folder / "complete.txt").write_text(_stamp(spec))
    return True


def _pip_install(spec: EngineSpec, folder: Path, report: Callable[[str], None]) -> None:
    command = [folder / "bin" / "python", "-m", "pip", "install", "--progress-bar=off"]
    lines: list[str] = []
    with subprocess.Popen(
        [*map(str, command), *spec.packages],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as pip:
        assert pip.stdout is not None
        for line in pip.stdout:
            lines.append(line.rstrip())
            report(f"{spec.name}: {line.strip()[:100]}")
    if pip.returncode:
        raise KernelprofError(
            f"the environment of {spec.name} could not be made; pip said:\n"
            + "\n".join(lines[-5:])
            + f"\nMend that and run `kernelprof engines install {spec.name}` again."
        )
