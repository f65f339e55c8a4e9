"""Make and remove the environments of engines.

A half-made environment is never used: it carries no stamp, and is made anew.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
import venv
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec

from kernelprof import debian
from kernelprof.engines import (
    ENGINES,
    GB,
    DebianRoot,
    EngineSpec,
    HostPython,
    Kind,
    VirtualEnvironment,
    configured,
    environment,
    folder,
    home,
    is_complete,
    made_environment,
    stamp,
)
from kernelprof.errors import KernelprofError, UsageError

Tell = Callable[[str], None]

# Builds of packages that run in the Debian root, by the version of its interpreter.
BUILDS = {
    "2.7": ("--abi=cp27mu", "--abi=none", "--platform=manylinux1_x86_64", "--platform=any"),
    "3.9": ("--platform=manylinux2014_x86_64", "--platform=manylinux_2_28_x86_64"),
}


def install(name: str, tell: Tell) -> bool:
    """Make the environment of an engine; False where there is nothing to do.

    ``tell`` is told each step.

    Raises:
        UsageError: no engine of this name is known.
        KernelprofError: something is lacking or failed; the message says what to do.
    """
    if environment(name) is not None:
        return False
    spec = ENGINES[name]
    _require_room(spec)
    try:
        with _locked(name):
            if is_complete(spec):  # another process was faster
                return False
            shutil.rmtree(folder(name), ignore_errors=True)
            tell(f"making {folder(name)}")
            if isinstance(spec.kind, VirtualEnvironment):
                _make_virtual_environment(name, spec.kind, tell)
            elif isinstance(spec.kind, DebianRoot):
                _make_in_debian_root(name, spec.kind, tell)
            _try_out(name, spec.kind, tell)
            (folder(name) / "complete.txt").write_text(stamp(spec))
    except OSError as error:
        raise KernelprofError(f"{name}: {folder(name)} could not be made: {error}") from error
    return True


def remove(name: str) -> bool:
    """Delete an engine's environment, and the Debian root with the last engine in it.

    Returns:
        Whether there was one.

    Raises:
        UsageError: the engine has no environment that kernelprof made.
    """
    if name in configured():
        raise UsageError(f"{name} is your own: delete its entry in {home() / 'engines.toml'}")
    if name not in ENGINES or isinstance(ENGINES[name].kind, HostPython):
        raise UsageError(f"kernelprof makes no environment for {name!r}")
    there = folder(name).exists()
    (folder(name) / "complete.txt").unlink(missing_ok=True)
    shutil.rmtree(folder(name), ignore_errors=True)
    residents = [spec.name for spec in ENGINES.values() if isinstance(spec.kind, DebianRoot)]
    if name in residents and not any(folder(other).exists() for other in residents):
        debian.remove(home())
    return there


def _require_room(spec: EngineSpec) -> None:
    needed = 0 if isinstance(spec.kind, HostPython) else spec.kind.disk_bytes
    home().mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(home()).free
    if free < needed:
        raise KernelprofError(
            f"{spec.name} needs {needed / GB:.0f} GB in {home()}, {free / GB:.1f} GB are free; "
            "make room, or move the folder with the variable KERNELPROF_HOME"
        )


@contextmanager
def _locked(name: str) -> Iterator[None]:
    """Hold the right to make something under the home folder."""
    locks = home() / "locks"
    locks.mkdir(parents=True, exist_ok=True)
    with (locks / name).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _make_virtual_environment(name: str, kind: VirtualEnvironment, tell: Tell) -> None:
    venv.create(folder(name), with_pip=True)
    _pip_install([str(folder(name) / "bin" / "python")], kind.packages, name, tell)


def _make_in_debian_root(name: str, kind: DebianRoot, tell: Tell) -> None:
    with _locked("debian-11"):
        debian.make(home(), tell)
    if find_spec("pip") is None:
        raise KernelprofError(f"{sys.executable} has no pip; `{sys.executable} -m ensurepip`")
    site = folder(name)
    site.mkdir(parents=True)
    # Shared libraries by themselves are published for Python 3 alone, and 2.7 loads them too.
    for python, packages in ((kind.python, kind.packages), ("3.9", kind.libraries)):
        foreign = (f"--target={site}", f"--python-version={python}", "--implementation=cp")
        options = (*foreign, *BUILDS[python], "--only-binary=:all:", "--no-deps")
        requirements = (*options, "--ignore-requires-python", *packages)
        if packages:
            _pip_install([sys.executable], requirements, name, tell)
    for link, target in kind.links.items():
        (site / link).parent.mkdir(exist_ok=True)
        (site / link).symlink_to(target)
    for package in kind.stand_ins:
        (site / package).mkdir()
        (site / package / "__init__.py").touch()


def _try_out(name: str, kind: Kind, tell: Tell) -> None:
    """Import the engine, so that what does not run here is told now and not in a measurement."""
    if isinstance(kind, HostPython):
        return
    tell("trying it out")
    made = made_environment(name, kind)
    done = subprocess.run(
        [*made.interpreter(home()), "-c", f"import {name}"],
        env={**os.environ, **{n: v for n, v in made.variables.items() if v is not None}},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        said = (done.stdout + done.stderr).strip().splitlines()[-1:]
        raise KernelprofError(f"{name} was installed and does not run: {' '.join(said)}")


def _pip_install(python: list[str], words: tuple[str, ...], name: str, tell: Tell) -> None:
    options = ("--progress-bar=off", "--disable-pip-version-check", "--root-user-action=ignore")
    last: list[str] = []
    with subprocess.Popen(
        [*python, "-m", "pip", "install", *options, *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as pip:
        assert pip.stdout is not None
        for line in pip.stdout:
            last = [*last, line.rstrip()][-5:]
            tell(line.strip()[:100])
    if pip.returncode:
        raise KernelprofError(
            f"the environment of {name} could not be made; pip said:\n"
            + "\n".join(last)
            + f"\nMend that and run `kernelprof engines install {name}` again."
        )
