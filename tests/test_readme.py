"""What README promises: its commands exist, and its examples print what it shows."""

from __future__ import annotations

import fnmatch
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()
CONSOLE = "\n".join(re.findall(r"```console\n(.*?)```", README, re.DOTALL))
EXAMPLES = re.findall(r"^\$ kernelprof (.*)\n((?:(?!\$ ).*\n)*)", CONSOLE, re.MULTILINE)
COMMANDS = sorted(set(re.findall(r"`kernelprof ([a-z]+)", README)))


def kernelprof(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "kernelprof", *words],
        cwd=ROOT,
        env={**os.environ, "COLUMNS": "100"},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize(("command", "shown"), EXAMPLES, ids=[words for words, _ in EXAMPLES])
def test_examples_print_what_readme_shows(command: str, shown: str) -> None:
    """Line by line; a line of dots stands for any number of lines."""
    printed = [line.rstrip() for line in kernelprof(*command.split()).stdout.splitlines()]
    pattern = "\n".join("*" if line == "..." else line for line in shown.splitlines())
    escaped = pattern.replace("[", "[[]")
    assert fnmatch.fnmatchcase("\n".join(printed), escaped), "\n".join(printed)


def test_there_are_examples() -> None:
    assert len(EXAMPLES) >= 2


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_exist(command: str) -> None:
    assert kernelprof(command, "--help").returncode == 0


def test_make_targets_exist() -> None:
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"^make (\w+)", README, re.MULTILINE)) <= targets
