"""The engines: what each one's environment is made of, and how a worker of it is started.

Environments lie under the user's cache folder; the variable KERNELPROF_HOME moves them.
``engines.toml`` there points an engine at an interpreter of the user's own::

    [torch]
    python = "/opt/torch/bin/python"
    variables = { MKL_ENABLE_INSTRUCTIONS = "AVX2" }
    library_path = "/opt/torch/lib"
"""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import platformdirs

from kernelprof import debian
from kernelprof.errors import UsageError
from kernelprof.probes.device import CPU

NVTX = (
    "nvtx==0.2.11"  # the newest that both the nsys of Debian 12 (2022.4) and current ones capture
)
NVTX_LIBRARY = "nvidia-nvtx==13.5.25"  # where there is no package: through ctypes
GB = 10**9


@dataclass(frozen=True)
class HostPython:
    """kernelprof's own interpreter: nothing to install."""


@dataclass(frozen=True)
class VirtualEnvironment:
    """A virtual environment of packages from PyPI."""

    packages: tuple[str, ...]
    disk_bytes: int = 0


@dataclass(frozen=True)
class DebianRoot:
    """An interpreter of the Debian 11 root, which engines share, with packages of an own folder.

    ``python`` is its version.  ``libraries`` are packages of shared libraries alone, ``links``
    maps names in that folder to files of the root, and ``stand_ins`` are packages that the engine
    imports and does not need.
    """

    python: str
    packages: tuple[str, ...]
    disk_bytes: int
    libraries: tuple[str, ...] = ()
    links: Mapping[str, str] = field(default_factory=dict)
    stand_ins: tuple[str, ...] = ()
    library_path: tuple[str, ...] = ()


Kind = HostPython | VirtualEnvironment | DebianRoot


@dataclass(frozen=True)
class EngineSpec:
    """An engine that kernelprof knows, and the environment that it makes for it."""

    name: str
    title: str
    kind: Kind = HostPython()


LIBRARIES = "/usr/lib/x86_64-linux-gnu"

ENGINES = {
    "numpy": EngineSpec("numpy", "NumPy, the reference kernels"),
    "torch": EngineSpec(
        "torch",
        "PyTorch",
        VirtualEnvironment(("torch==2.13.0", "numpy==2.4.6", NVTX), 2 * GB),
    ),
    "tensorflow": EngineSpec(
        "tensorflow",
        "TensorFlow",
        VirtualEnvironment(("tensorflow-cpu==2.21.0", "numpy==2.4.6", NVTX), 3 * GB),
    ),
    "jax": EngineSpec(
        "jax",
        "JAX",
        VirtualEnvironment(("jax==0.10.2", "jaxlib==0.10.2", "numpy==2.4.6", NVTX), 1 * GB),
    ),
    "cupy": EngineSpec(
        "cupy",
        "CuPy, the reference kernels on a GPU",
        VirtualEnvironment(
            ("cupy-cuda13x[ctk]==14.2.0", "ml_dtypes==0.6.0", "numpy==2.4.6", NVTX), 3 * GB
        ),
    ),
    "mxnet": EngineSpec(
        "mxnet",
        "Apache MXNet",
        VirtualEnvironment(("mxnet==1.9.1", "numpy==1.23.5", NVTX), 1 * GB),
    ),
    "caffe": EngineSpec(
        "caffe",
        "Caffe (BVLC)",
        DebianRoot("3.9", (NVTX,), 2 * GB),
    ),
    "cntk": EngineSpec(
        "cntk",
        "Microsoft CNTK",
        DebianRoot(
            "2.7",
            ("cntk==2.7.post2", "numpy==1.16.6", "scipy==1.2.3", "enum34==1.1.10"),
            2 * GB,
            libraries=(NVTX_LIBRARY,),
            # It was linked against an older Open MPI; one process needs no more than the names.
            links={
                "mpi/libmpi.so.12": f"{LIBRARIES}/libmpi.so.40",
                "mpi/libmpi_cxx.so.1": f"{LIBRARIES}/libmpi_cxx.so.40",
            },
            stand_ins=("pip",),
            library_path=("cntk/libs", "mpi", "nvidia/cu13/lib"),
        ),
    ),
}
REFERENCE = "numpy"
CPU_ONLY = ("numpy", "caffe", "cntk")
GPU_ONLY = ("cupy",)
# A GPU node often has these beside kernelprof, in builds for its driver, and no network.
OF_HOST = ("torch", "cupy", "jax")


@dataclass(frozen=True)
class Environment:
    """How to start a worker of an engine.

    ``site`` is the folder of an engine's packages where its interpreter lives in the Debian root.
    """

    engine: str
    python: str
    adapter: str
    variables: Mapping[str, str | None] = field(default_factory=dict)  # None takes one away
    site: Path | None = None
    python27: bool = False

    @property
    def where(self) -> str:
        """The interpreter, for people to read."""
        return self.python if self.site is None else f"{self.python} in {debian.root(home())}"

    def command(self, boot: Path) -> list[str]:
        """The words that start ``boot`` in this interpreter."""
        seen = boot if self.site is None else Path(debian.PROBES) / boot.name
        return [*self.interpreter(boot.parent), str(seen)]

    def interpreter(self, probes: Path) -> list[str]:
        """The words that start the interpreter, shut off from the user's own code."""
        isolated = ("-E", "-s") if self.python27 else ("-I",)
        if self.site is None:
            return [self.python, *isolated, "-B"]
        version = self.python.removeprefix("python")
        return [*debian.enter(home(), self.site, probes, version), self.python, *isolated, "-B"]


def home() -> Path:
    """The folder of engine environments."""
    moved = os.environ.get("KERNELPROF_HOME")
    return Path(moved).absolute() if moved else Path(platformdirs.user_cache_dir("kernelprof"))


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


def installed() -> list[str]:
    """The names of the engines that can be started."""
    return [name for name in known() if environment(name) is not None]


def computing_on(device: str) -> list[str]:
    """The names of the installed engines, without those that never compute on this device."""
    never = GPU_ONLY if device == CPU else CPU_ONLY
    return [name for name in installed() if name not in never]


def environment(name: str) -> Environment | None:
    """How to start this engine, or None where it is not installed.

    What was made for it comes before what kernelprof's own interpreter can import.

    Raises:
        UsageError: no engine of this name is known.
    """
    entry = configured().get(name)
    if entry is not None:
        return _configured_environment(name, entry)
    if name not in ENGINES:
        raise UsageError(f"unknown engine {name!r}; known: {', '.join(known())}")
    spec = ENGINES[name]
    if isinstance(spec.kind, HostPython):
        return Environment(name, sys.executable, name)
    if is_complete(spec):
        return made_environment(name, spec.kind)
    if name in OF_HOST and find_spec(name) is not None:
        return Environment(name, sys.executable, name)
    return None


def made_environment(name: str, kind: VirtualEnvironment | DebianRoot) -> Environment:
    """How to start an engine in the environment that kernelprof makes for it."""
    if isinstance(kind, VirtualEnvironment):
        return Environment(name, str(folder(name) / "bin" / "python"), name)
    variables = {}
    if kind.library_path:
        packages = debian.packages_folder(kind.python)
        variables["LD_LIBRARY_PATH"] = ":".join(f"{packages}/{p}" for p in kind.library_path)
    python27 = kind.python == "2.7"
    return Environment(name, f"python{kind.python}", name, variables, folder(name), python27)


def _configured_environment(name: str, entry: dict[str, Any]) -> Environment:
    variables = {key: str(value) for key, value in entry.get("variables", {}).items()}
    if "library_path" in entry:
        variables["LD_LIBRARY_PATH"] = str(entry["library_path"])
    python = str(entry.get("python", sys.executable))
    return Environment(
        name, python, str(entry.get("adapter", name)), variables, python27=_is_python27(python)
    )


@cache
def _is_python27(python: str) -> bool:
    if python == sys.executable:
        return False
    asked = subprocess.run([python, "--version"], capture_output=True, text=True, check=False)
    return "Python 2." in asked.stdout + asked.stderr  # the old one answers on stderr


def folder(name: str) -> Path:
    """Where the environment of an engine lies."""
    return home() / "engines" / name


def stamp(spec: EngineSpec) -> str:
    """What a finished environment says of itself; one that says something else is made anew."""
    kind = spec.kind
    lines = [f"python {sys.version.split()[0]}"]
    if isinstance(kind, DebianRoot):
        lines = [f"python {kind.python} of {debian.RELEASE}", *kind.links, *kind.stand_ins]
        lines += kind.libraries
    packages = () if isinstance(kind, HostPython) else kind.packages
    return "\n".join([*lines, *packages, ""])


def is_complete(spec: EngineSpec) -> bool:
    """Whether the environment was made to the end, and as it is made today."""
    found = folder(spec.name) / "complete.txt"
    if isinstance(spec.kind, DebianRoot) and not debian.is_complete(home()):
        return False
    return found.is_file() and found.read_text() == stamp(spec)
