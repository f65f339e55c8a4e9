"""The Debian 11 root: where engines live that no current Debian and no PyPI package brings.

It is made by mmdebstrap and entered with bubblewrap, both as any user.  Where the machine has
neither, private copies are taken from its own Debian's packages.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterable
from pathlib import Path

from kernelprof import apt
from kernelprof.errors import KernelprofError

RELEASE = "bullseye"
PACKAGES = ("python3-caffe", "libopenblas0-pthread", "python2.7", "libpython2.7", "libopenmpi3")
# Empty folders of every Debian: where the probes are seen inside, and a profiler's own files.
PROBES = "/mnt"
TOOL = "/media"
TOOL_VARIABLE = "NVTX_INJECTION64_PATH"  # names the library through which NVTX reaches a profiler

Tell = Callable[[str], None]


def root(home: Path) -> Path:
    """Where the root lies."""
    return home / "debian-11"


def packages_folder(python: str) -> str:
    """Where an interpreter of the root looks for packages that are not Debian's."""
    return f"/usr/local/lib/python{python}/dist-packages"


def _stamp_file(home: Path) -> Path:
    return home / "debian-11.complete.txt"


def is_complete(home: Path) -> bool:
    """Whether the root was made to the end, of today's packages, and can be entered."""
    stamp = _stamp_file(home)
    return (
        stamp.is_file() and stamp.read_text().split() == [*PACKAGES] and bool(find("bwrap", home))
    )


def find(tool: str, home: Path) -> str | None:
    """The path of a tool: the machine's, or a private copy."""
    return shutil.which(tool) or shutil.which(tool, path=str(home / "tools" / "usr" / "bin"))


def enter(home: Path, site: Path, probes: Path, python: str) -> list[str]:
    """The words that run what follows them inside the root.

    The process numbers stay those of the host, so that a worker's threads are found in /proc
    from outside.  What the user or a profiler preloads is made for the host, and stays there: in
    bubblewrap, which closes the files of its threads, nsys's would spin on the worker's CPU.
    """
    binds = {str(root(home)): "/", str(probes): PROBES, str(site): packages_folder(python)}
    words = ["env", "--unset=LD_PRELOAD", find("bwrap", home) or "bwrap", "--die-with-parent"]
    for source, target in [*binds.items(), ("/proc", "/proc"), ("/sys", "/sys")]:
        words += ["--ro-bind", source, target]
    words += ["--tmpfs", "/run", *(_shared_with_tool() or ("--dev", "/dev", "--tmpfs", "/tmp"))]
    return [*words, "--chdir", "/tmp"]


def _shared_with_tool() -> list[str]:
    """The words that let NVTX find the user's tool inside, if there is one, and the tool its peers.

    Beside it lie the libraries that it needs; it talks to a profiler outside through files in /tmp
    and /dev/shm.
    """
    named = Path(os.environ.get(TOOL_VARIABLE, ""))
    if not (named.is_absolute() and os.path.isfile(named)):
        return []
    tool = named.resolve()
    return [
        *("--dev-bind", "/dev", "/dev", "--bind", "/tmp", "/tmp"),
        *("--ro-bind", str(tool.parent), TOOL, "--setenv", TOOL_VARIABLE, f"{TOOL}/{tool.name}"),
        *("--setenv", "MPLCONFIGDIR", "/run"),  # or each worker of Caffe leaves a folder in /tmp
    ]


def make(home: Path, tell: Tell) -> None:
    """Make the root, unless it is there.

    Raises:
        KernelprofError: a tool is missing and cannot be had, or mmdebstrap failed.
    """
    for tool in ("mmdebstrap", "bwrap"):
        if find(tool, home) is None:
            _fetch_tools(home, tell)
    if is_complete(home):
        return
    remove(home)
    root(home).mkdir(parents=True)
    _unpack(home, tell)
    for python in ("2.7", "3.9"):
        (root(home) / packages_folder(python).lstrip("/")).mkdir(parents=True, exist_ok=True)
    _stamp_file(home).write_text("\n".join(PACKAGES))


def remove(home: Path) -> None:
    """Delete the root, its stamp first: half a root is none."""
    _stamp_file(home).unlink(missing_ok=True)
    shutil.rmtree(root(home), ignore_errors=True)


def _unpack(home: Path, tell: Tell) -> None:
    """Let mmdebstrap write an archive and unpack it: so the files are the user's own."""
    mirror = os.environ.get("KERNELPROF_DEBIAN_MIRROR")
    command = [
        *(str(find("mmdebstrap", home)), "--variant=apt", f"--include={','.join(PACKAGES)}"),
        *(RELEASE, "-", *([mirror] if mirror else [])),
    ]
    unpacking = ["tar", "-x", "-C", str(root(home)), "--exclude=./dev/*"]
    with (
        subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as made,
        subprocess.Popen(unpacking, stdin=made.stdout, stderr=subprocess.DEVNULL) as tar,
    ):
        assert made.stdout is not None
        assert made.stderr is not None
        made.stdout.close()  # tar holds it now
        last = _told(made.stderr, tell)
    if made.returncode or tar.returncode:
        raise KernelprofError(
            "the Debian 11 root could not be made; mmdebstrap said:\n"
            + "\n".join(last)
            + "\nAs an ordinary user it needs the package uidmap; the variable "
            "KERNELPROF_DEBIAN_MIRROR names another mirror."
        )


def _told(lines: Iterable[str], tell: Tell) -> list[str]:
    """Pass lines on; the last ones."""
    last: list[str] = []
    for line in lines:
        if line.strip():
            last = [*last, line.rstrip()][-5:]
            tell(line.strip()[:100])
    return last


def _fetch_tools(home: Path, tell: Tell) -> None:
    """Unpack mmdebstrap and bubblewrap beside the environments: apt needs no rights for that."""
    tell("fetching mmdebstrap and bubblewrap")
    apt.unpack(
        ("mmdebstrap", "bubblewrap"),
        home / "tools",
        "mmdebstrap and bwrap are needed",
        "install them with `apt-get install mmdebstrap bubblewrap uidmap` and try again",
    )
