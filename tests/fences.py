"""The code blocks of the documentation: found, executed, and held against what they show.

A block of ``console`` holds commands behind ``$ `` and what each prints, errors included.  One of
``python`` is a program; any block with a ``title`` is a file of that name.  In what is shown
``...`` stands for anything, and alone on a line for any number of lines.  After the comment
``<!-- measured -->`` numbers and their units are not compared, as no two runs have the same, nor
whether something was faster or slower.
``/home/you`` stands for the folder in which a page's blocks are executed.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from kernelprof import engines

ROOT = Path(__file__).resolve().parent.parent
MEASURED = "<!-- measured -->"
OPENING = re.compile(r"^```(?P<language>\w*)(?: title=\"(?P<title>[^\"]+)\")?$")
COMMAND = re.compile(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", re.MULTILINE)
UNIT = r"(?:ns|µs|ms|s|%|x|[KMG]iB|[GMk]?B/s|GFLOP/s|[GM]Hz)(?!\w)"
NUMBER = re.compile(rf"<?[+-]?(?<![\w.])\d[\d,.]*(?:e[+-]?\d+)?(?: ?{UNIT})?|\b[nµm]s\b")
ORDER = re.compile(r"# (?:faster|slower)|as fast")
BAR = re.compile("[█▏▎▍▌▋▊▉]+")
ABOUT_THIS_MACHINE = "warning: "  # what may disturb, on stderr
YOURS = "/home/you"
PATIENCE_S = 280


@dataclass(frozen=True)
class Fence:
    """A code block: the page that it stands in, and the number of its first line there."""

    page: str
    line: int
    language: str
    title: str
    measured: bool
    text: str

    @property
    def name(self) -> str:
        """Page and line, as editors open them."""
        return f"{self.page}:{self.line}"

    @property
    def commands(self) -> list[tuple[str, str]]:
        """Each command, and what it prints."""
        return COMMAND.findall(self.text)


def fences(path: Path) -> Iterator[Fence]:
    """The code blocks of a page, in their order."""
    page = str(path.relative_to(ROOT))
    opened: re.Match[str] | None = None
    measured, start, held = False, 0, []
    for number, line in enumerate(path.read_text().splitlines(), 1):
        if opened is None:
            opened, start, held = OPENING.match(line), number, []
            assert opened or not line.startswith("```"), f"{page}:{number}: {line}"
            if opened is None and line.strip():
                measured = line.strip() == MEASURED
        elif line == "```":
            text = "".join(f"{one}\n" for one in held)
            yield Fence(page, start, opened["language"], opened["title"] or "", measured, text)
            opened, measured = None, False
        else:
            held.append(line)
    assert opened is None, f"{page}:{start}: the block has no end"


def matches(shown: str, printed: str, measured: bool) -> bool:
    """Whether a command printed what a page shows of it."""
    pattern = "".join(
        r"(?:.*\n)*?" if line == "..." else re.escape(line).replace(r"\.\.\.", ".*?") + r"\n"
        for line in _plain(shown, measured)
    )
    wanted = ABOUT_THIS_MACHINE in shown
    lines = [x for x in _plain(printed, measured) if wanted or not x.startswith(ABOUT_THIS_MACHINE)]
    return re.fullmatch(pattern, "".join(f"{line}\n" for line in lines)) is not None


def _plain(text: str, measured: bool) -> list[str]:
    """The lines that are compared, without what is never the same."""
    lines = [line.rstrip() for line in text.splitlines()]
    if not measured:
        return lines
    without = (" ".join(NUMBER.sub("#", BAR.sub("", line)).split()) for line in lines)
    return [ORDER.sub("#", re.sub("─+", "─", line)) for line in without]


@dataclass
class Workspace:
    """A folder in which blocks are executed, and a folder of engines."""

    folder: Path
    home: Path

    def __post_init__(self) -> None:
        """Let `kernelprof` and `python` be those that run the tests."""
        programs = self.home / "programs"
        programs.mkdir(exist_ok=True)
        python = shlex.quote(sys.executable)
        for name, words in (("kernelprof", f"{python} -m kernelprof"), ("python", python)):
            program = programs / name
            program.write_text(f'#!/bin/sh\nexec {words} "$@"\n')
            program.chmod(0o755)

    def variables(self) -> dict[str, str]:
        """Of a shell with engines, a lock and a width of its own."""
        return {
            **os.environ,
            "PATH": f"{self.home / 'programs'}:{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
            "KERNELPROF_HOME": str(self.home),
            "TMPDIR": str(self.home),
            "COLUMNS": "120",
            "HOME": str(self.home),
        }

    def shell(self, command: str) -> subprocess.CompletedProcess[str]:
        """What a command prints, errors included."""
        return subprocess.run(
            ["bash", "-c", command],
            cwd=self.folder,
            env=self.variables(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=PATIENCE_S,
            check=False,
        )

    def execute(self, fence: Fence) -> None:
        """Run a block, or write it as the file that it is.

        Raises:
            AssertionError: it fails, or prints something else than the page shows.
        """
        if fence.title:
            path = self.home if fence.title == "engines.toml" else self.folder
            (path / fence.title).write_text(fence.text.replace(YOURS, str(self.folder)))
        elif fence.language == "python":
            (self.folder / "example.py").write_text(fence.text)
            ended = self.shell("python example.py")
            assert ended.returncode == 0, f"{fence.name}:\n{ended.stdout}"
        for command, shown in fence.commands if fence.language == "console" else []:
            ended = self.shell(command)
            printed = ended.stdout.replace(str(self.folder), YOURS)
            said = f"{fence.name}: {command}\n{printed}"
            assert matches(shown, printed, fence.measured), said
            assert ended.returncode == 0 or "kernelprof: " in shown, f"{said}\n{ended.returncode}"


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The installed engines and tools, and nothing that is known of the machine."""
    folder = tmp_path_factory.mktemp("home")
    for installed in engines.home().iterdir() if engines.home().exists() else ():
        if installed.name not in ("machines", "engines.toml"):
            (folder / installed.name).symlink_to(installed)
    return folder


@pytest.fixture
def workspace(home: Path, tmp_path: Path) -> Iterator[Workspace]:
    """A folder of a test's own."""
    yield Workspace(tmp_path, home)
    (home / "engines.toml").unlink(missing_ok=True)
