"""The commands of ``nsys``: a run of numpy under the real one, and what is refused before it."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from kernelprof.cli_nsys import base_of
from kernelprof.nsys import tool
from kernelprof.runfile import RunFile
from tests.test_cli import ROOT, here, make_home, shell_environment
from tests.test_nsys_record import export_without_ranges, fake_nsys

NUMPY = ("--engine", "numpy", "--threads", "1", "--batch", "2", "--mode", "infer")
LITTLE = ("alexnet-r", *NUMPY, "--processes", "1", "--budget", "1s", "--force")


def nsys_command(
    home: Path, *words: str, nsys: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """What a command of ``nsys`` prints, and how it ends."""
    found = nsys or tool.find()
    named = {tool.VARIABLE: str(found)} if found else {}
    return subprocess.run(
        [sys.executable, "-m", "kernelprof", "nsys", *words],
        cwd=home,
        env={**shell_environment(home), **named, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=100,
    )


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_home(tmp_path_factory.mktemp("recorded"))


@pytest.fixture(scope="module")
def recorded(home: Path) -> subprocess.CompletedProcess[str]:
    """A run of numpy, recorded."""
    if tool.find() is None:
        pytest.skip("nsys is not installed: `kernelprof nsys install`")
    ended = nsys_command(home, "record", *LITTLE, "-o", "a.kprof")
    assert ended.returncode == 0, ended.stderr
    return ended


class TestRecording:
    """One run, from the command line to the report."""

    def test_the_run_is_seen_and_nsys_is_not(
        self, home: Path, recorded: subprocess.CompletedProcess[str]
    ) -> None:
        assert recorded.stdout.startswith("network")
        assert "The run is in a.kprof" in recorded.stdout
        for chatter in ("Generating", "[1/2]", "re-parented"):
            assert chatter not in recorded.stdout + recorded.stderr

    def test_it_says_what_was_captured(
        self, home: Path, recorded: subprocess.CompletedProcess[str]
    ) -> None:
        own = recorded.stdout.partition("The run is in")[2]
        assert "ranges: numpy" in own
        assert "a.nsys-rep (" in own
        assert "a.sqlite (" in own
        assert "`kernelprof nsys scrub a.sqlite -o shared.sqlite`" in own
        assert own.splitlines()[-1] == "Next: kernelprof nsys import a.sqlite a.kprof"

    def test_what_it_says_next_works(
        self, home: Path, recorded: subprocess.CompletedProcess[str]
    ) -> None:
        shutil.copy(home / "a.kprof", home / "b.kprof")
        taken = nsys_command(home, "import", "a.sqlite", "b.kprof")
        assert taken.returncode == 0, taken.stderr
        assert "`kernelprof report b.kprof`" in taken.stdout
        clean = nsys_command(home, "scrub", "a.sqlite", "-o", "shared.sqlite")
        assert clean.returncode == 0, clean.stderr
        assert "PATH=" not in (home / "shared.sqlite").read_bytes().decode(errors="replace")

    def test_a_run_that_goes_on_keeps_its_first_report(
        self, home: Path, recorded: subprocess.CompletedProcess[str]
    ) -> None:
        before = (home / "a.sqlite").stat().st_mtime_ns
        again = nsys_command(home, "record", "-o", "a.kprof", "--force")
        assert again.returncode == 1
        assert "no worker was started" in again.stderr
        assert (home / "a.sqlite").stat().st_mtime_ns == before
        assert not list(home.glob("a-2.*"))

    def test_its_next_report_has_a_name_of_its_own(self, tmp_path: Path) -> None:
        run = tmp_path / "a.kprof"
        (tmp_path / "a.sqlite").touch()
        assert base_of(run) == tmp_path / "a"
        run.touch()
        assert base_of(run) == tmp_path / "a-2"
        (tmp_path / "a-2.nsys-rep").touch()
        assert base_of(run) == tmp_path / "a-3"


class TestRefusals:
    """Before nsys starts: one that is started here would leave a mark."""

    @pytest.fixture
    def nsys(self, home: Path) -> Path:
        return fake_nsys(home / "nsys", f"touch {shlex.quote(str(home / 'started'))}\n")

    @pytest.mark.parametrize(
        ("words", "told"),
        [
            (("--wrong",), "--wrong"),
            (("no-such-network",), "unknown network"),
            (("--engine", "nope"), "unknown engine 'nope'"),
            (("--threads", "many"), "--threads many"),
            (("--device", "cuda"), "cpu or cuda:N is needed"),
            (("-o", "nowhere/a.kprof"), "no such folder"),
            (("-o", "engines.toml"), "is not a kernelprof run file"),
        ],
    )
    def test_of_what_run_would_refuse(
        self, words: tuple[str, ...], told: str, home: Path, nsys: Path
    ) -> None:
        ended = nsys_command(home, "record", *words, nsys=nsys)
        assert ended.returncode == 2
        assert told in ended.stderr
        assert len(ended.stderr.splitlines()) == 1
        assert not (home / "started").exists()

    def test_without_nsys_it_is_said_how_to_get_it(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setattr(tool, "find", lambda: None)
        status, _, told = here(monkeypatch, capsys, "nsys", "record")
        assert status == 1
        assert "`kernelprof nsys install`" in told
        assert "--format perfetto" in told
        assert len(told.splitlines()) == 1


class TestFailures:
    """What a fake nsys does wrong."""

    def record(self, home: Path, does: str, name: str) -> subprocess.CompletedProcess[str]:
        nsys = fake_nsys(home / "failing", does)
        return nsys_command(home, "record", *LITTLE, "-o", name, nsys=nsys)

    def test_nothing_captured_is_an_error_with_a_remedy(self, home: Path, tmp_path: Path) -> None:
        empty = export_without_ranges(tmp_path / "empty.sqlite")
        does = f'"$@"; touch "$base.nsys-rep"; cp {empty} "$base.sqlite"\n'
        ended = self.record(home, does, "empty.kprof")
        assert ended.returncode == 1
        assert "captured no range of kernelprof" in ended.stderr
        assert "numpy: this nsys does not take those of its nvtx" in ended.stderr
        assert RunFile.open(home / "empty.kprof").workers()

    def test_one_that_refuses(self, home: Path) -> None:
        ended = self.record(home, "echo no permission; exit 1\n", "refused.kprof")
        assert ended.returncode == 1
        assert "did not start the command; it said:\nno permission" in ended.stderr


class TestCommand:
    """The line for others to run."""

    def test_it_can_be_run_by_a_shell(self, home: Path) -> None:
        printed = nsys_command(home, "command", "--gpu", "fcn-r", "-o", "a b$.kprof")
        words = shlex.split(printed.stdout)
        assert len(printed.stdout.splitlines()) == 1
        assert f"--output={home / 'a b$'}" in words
        assert "--trace=nvtx,cuda,cudnn,cublas" in words
        run = words.index("run")
        assert words[run - 2 :] == ["-m", "kernelprof", "run", "fcn-r", "-o", "a b$.kprof"]

    def test_without_a_name_it_has_one(self, home: Path) -> None:
        words = shlex.split(nsys_command(home, "command").stdout)
        output = next(word for word in words if word.startswith("--output="))
        assert words[-1] == f"{os.path.basename(output)}.kprof"

    def test_nsys_need_not_be_there(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setattr(tool, "find", lambda: None)
        _, printed, _ = here(monkeypatch, capsys, "nsys", "command", "--sampling")
        assert printed.startswith("nsys profile --trace=nvtx --sample=process-tree ")
        assert "--python-sampling=true" in printed

    def test_words_that_run_does_not_know(self, home: Path) -> None:
        ended = nsys_command(home, "command", "--wrong")
        assert ended.returncode == 2
        assert "--wrong" in ended.stderr
