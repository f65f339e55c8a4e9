"""The documentation is true: its examples run and print what it shows, its tables are complete."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from kernelprof.cli import app
from kernelprof.nsys.tool import find
from kernelprof.reports.contract import to_json
from kernelprof.runfile import EVIDENCE, HEADER, TABLES
from tests.conftest import engine_worker
from tests.fences import ROOT, Fence, Workspace, fences, home, matches, workspace
from tests.sample_results import diagnosed_results

__all__ = ["home", "workspace"]  # fixtures

DOCS = ROOT / "docs"
FIRST = DOCS / "first-run.md"  # makes what the others look at
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *DOCS.rglob("*.md")])
FENCES = [fence for page in PAGES for fence in fences(page)]

# What is shown and not executed: the beginning of a command or a file, and why.
NOT_EXECUTED = {
    "make ": "sets everything up and takes many minutes; continuous integration does it",
    "kernelprof diagnose five.kprof": "of a run of five engines, which takes half an hour",
    "kernelprof selfcheck": "needs a GPU",
    "python -m kernelprof.studies": "takes an hour of a quiet machine",
}
LANGUAGES = {"console", "python", "toml", "yaml", "text"}


def is_executed(fence: Fence) -> bool:
    """Whether a block is a program, a command or a file, and is not excepted."""
    commands = " ".join(command for command, _ in fence.commands)
    if any(commands.startswith(beginning) for beginning in NOT_EXECUTED):
        return False
    return fence.language in ("console", "python") or bool(fence.title)


def pages() -> list[Path]:
    """The pages with something to execute."""
    return [p for p in PAGES if p != FIRST and any(map(is_executed, fences(p)))]


@pytest.fixture(scope="session")
def first(tmp_path_factory: pytest.TempPathFactory, home: Path) -> Workspace:
    """What the first page leaves: a small run of torch and NumPy, which the other pages look at."""
    engine_worker("torch").close()
    if find() is None:
        pytest.skip("nsys is not installed: `kernelprof nsys install`")
    made = Workspace(tmp_path_factory.mktemp("first"), home)
    for fence in filter(is_executed, fences(FIRST)):
        made.execute(fence)
    return made


@pytest.mark.timeout(600)
def test_the_first_page(first: Workspace) -> None:
    assert (first.folder / "a.kprof").exists()


@pytest.mark.timeout(600)
@pytest.mark.parametrize("page", pages(), ids=lambda path: str(path.relative_to(ROOT)))
def test_examples_do_what_pages_say(page: Path, first: Workspace, workspace: Workspace) -> None:
    shutil.copytree(first.folder, workspace.folder, dirs_exist_ok=True)
    for fence in filter(is_executed, fences(page)):
        workspace.execute(fence)


@pytest.mark.parametrize("fence", FENCES, ids=lambda fence: fence.name)
def test_nothing_that_could_run_is_left_out(fence: Fence) -> None:
    """A block has a language; what looks like a command is one, and runs or is excepted above."""
    assert fence.language in LANGUAGES
    if fence.language == "console":
        assert fence.commands
        assert fence.text.startswith("$ ")
    else:
        assert not re.search(r"^\$ ", fence.text, re.MULTILINE)
    if fence.language == "yaml":
        yaml.safe_load(fence.text)


@pytest.mark.parametrize("beginning", NOT_EXECUTED)
def test_exceptions_are_needed(beginning: str) -> None:
    assert any(c.startswith(beginning) for fence in FENCES for c, _ in fence.commands)


class TestMatching:
    def test_dots_stand_for_any_number_of_lines(self) -> None:
        assert matches("a\n...\nb\n", "a\nb\n", measured=False)
        assert matches("a\n...\nb\n", "a\nx\ny\nb\n", measured=False)
        assert not matches("a\n...\nb\n", "a\nx\n", measured=False)

    def test_within_a_line_they_stand_for_anything(self) -> None:
        assert matches("in ... seconds\n", "in a few seconds\n", measured=False)
        assert not matches("in ... seconds\n", "in a few minutes\n", measured=False)

    def test_measured_numbers_are_not_compared_but_words_are(self) -> None:
        shown, printed = "fc1   2.04 ms  1.1x ██ ───\n", "fc1 970 µs -12.3x █▎ ─────\n"
        assert matches(shown, printed, measured=True)
        assert not matches(shown, printed, measured=False)
        assert not matches(shown, "fc2 970 µs -12.3x\n", measured=True)

    def test_warnings_of_this_machine_are_left_out_unless_shown(self) -> None:
        assert matches("a\n", "warning: load\na\n", measured=False)
        assert not matches("warning: steal\na\n", "warning: load\na\n", measured=False)


def commands(group: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
    """Every command of the command line with its words."""
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, (*path, name))
        else:
            yield " ".join((*path, name)), command


COMMANDS = dict(commands(typer.main.get_command(app)))
OPTIONS = {o for command in COMMANDS.values() for p in command.params for o in p.opts}
OF_OTHERS = {"--trace"}  # of nsys


def flags() -> list[tuple[str, str]]:
    """Each page, and an option that it names."""
    return sorted(
        {
            (str(page.relative_to(ROOT)), flag)
            for page in PAGES
            for flag in re.findall(r"(?<![\w-])--[a-z][a-z-]+", page.read_text())
        }
    )


@pytest.mark.parametrize(("page", "flag"), flags())
def test_options_exist(page: str, flag: str) -> None:
    assert flag in OPTIONS | OF_OTHERS


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_is_documented(command: str) -> None:
    """On a page of docs/, with what it is for."""
    assert any(f"kernelprof {command}" in page.read_text() for page in DOCS.rglob("*.md"))


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_commands_exist(page: Path) -> None:
    known = {name.split()[0] for name in COMMANDS}
    assert set(re.findall(r"`kernelprof ([a-z]+)", page.read_text())) <= known


def test_make_targets_exist() -> None:
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    said = {t for page in PAGES for t in re.findall(r"(?:`|^\$ |^)make (\w+)", page.read_text())}
    assert said <= targets


def documented(page: str, heading: str) -> set[str]:
    """The names in the first column of the table below a heading."""
    section = (DOCS / page).read_text().split(f"# {heading}\n", 1)[1].split("\n#", 1)[0]
    rows = re.findall(r"^\| (`[^|]+) \|", section, re.MULTILINE)
    return {name for row in rows for name in re.findall(r"`([^`]+)`", row)}


def report() -> dict[str, Any]:
    """A report that has one of everything."""
    return to_json(diagnosed_results())


OBJECTS = {
    "The report": lambda r: r,
    "A case": lambda r: r["cases"][1],
    "A layer": lambda r: r["cases"][1]["layers"][0],
    "A kernel": lambda r: r["cases"][1]["layers"][0]["kernels"][0],
    "A part of the ledger": lambda r: r["cases"][1]["ledger"][0],
    "A finding": lambda r: r["cases"][1]["findings"][0],
}


@pytest.mark.parametrize("heading", OBJECTS)
def test_the_contract_is_documented_key_by_key(heading: str) -> None:
    assert documented("reference/json.md", heading) == set(OBJECTS[heading](report()))


def test_the_run_file_is_documented_table_by_table() -> None:
    assert HEADER.split()[-1].rstrip(";") in (DOCS / "reference/run-file.md").read_text()
    tables = set(re.findall(r"CREATE TABLE (?:IF NOT EXISTS )?(\w+)", TABLES + EVIDENCE))
    assert tables <= documented("reference/run-file.md", "Tables")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The documentation as users get it, built strictly: no link goes nowhere."""
    folder = tmp_path_factory.mktemp("site")
    words = [sys.executable, "-m", "mkdocs", "build", "--strict", "-d", str(folder)]
    built = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    return folder


def test_every_page_is_in_the_site(site: Path) -> None:
    made = {page.relative_to(site).with_suffix(".md") for page in site.rglob("*.html")}
    assert {page.relative_to(DOCS) for page in DOCS.rglob("*.md")} <= made


def test_the_site_loads_nothing_from_elsewhere(site: Path) -> None:
    loaded = r"""<(?:script|img|iframe)[^>]+src="?(?:https?:)?//|<link[^>]+stylesheet[^>]+//"""
    for page in site.rglob("*.html"):
        assert not re.search(loaded, page.read_text()), page
    for style in site.rglob("*.css"):
        assert "url(http" not in style.read_text(), style
