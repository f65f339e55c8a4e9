"""Fetch packages from the machine's own Debian as any user: nothing is installed, only unpacked."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from kernelprof.errors import KernelprofError


def unpack(
    packages: Sequence[str],
    target: Path,
    needed: str,
    advice: str,
    sources: Mapping[str, str] | None = None,
) -> None:
    """Download packages, without what they depend on, and unpack them into a folder.

    Args:
        packages: their names.
        target: the folder, which is made.
        needed: what they are for, as a sentence of an error begins: "X is needed".
        advice: what else the user can do.
        sources: files of apt's sources by name, which are taken instead of the machine's.

    Raises:
        KernelprofError: there is no apt, or it has them not.
    """
    for program in ("apt-get", "dpkg"):
        if shutil.which(program) is None:
            raise KernelprofError(f"{needed}, and there is no {program}; {advice}")
    target.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="apt-", dir=target.parent) as name:
        state = Path(name)
        for folder in ("lists/partial", "archives/partial", "sources"):
            (state / folder).mkdir(parents=True)
        for file, text in (sources or {}).items():
            (state / "sources" / file).write_text(text)
        apt = [*_words(state), *(_only(state / "sources") if sources else ())]
        commands = [[*apt, "update"], [*apt, "download", *packages]]
        for command in commands:
            _run(command, state, needed, advice)
        for package in sorted(state.glob("*.deb")):
            _run(["dpkg", "-x", str(package), str(target)], state, needed, advice)


def _words(state: Path) -> list[str]:
    """The words that begin a command of apt-get which changes nothing but a folder."""
    return [
        *("apt-get", "-qq", "-o", f"Dir::State={state}", "-o", f"Dir::Cache={state}"),
        *("-o", "Dir::State::status=/var/lib/dpkg/status", "-o", "APT::Sandbox::User=root"),
    ]


def _only(folder: Path) -> list[str]:
    """Words for a command of apt-get that knows no sources but those of a folder."""
    return ["-o", "Dir::Etc::sourcelist=/dev/null", "-o", f"Dir::Etc::sourceparts={folder}"]


def _run(command: list[str], folder: Path, needed: str, advice: str) -> None:
    done = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, errors="replace", check=False
    )
    if done.returncode:
        last = " / ".join(done.stderr.strip().splitlines()[-3:]) or f"status {done.returncode}"
        raise KernelprofError(f"{needed}; {command[0]} said: {last}; {advice}")
