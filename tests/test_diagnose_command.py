"""The command ``diagnose``: a fake engine's run, looked at through the command line."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from kernelprof.runfile import RunFile
from tests.test_cli import LITTLE, in_a_shell, make_home

SCREEN = 24


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_home(tmp_path_factory.mktemp("diagnosed"))


@pytest.fixture(scope="module")
def measured(home: Path) -> Path:
    path = home / "a.kprof"
    ended = in_a_shell(home, *LITTLE, "--engine", "fake,numpy", "-o", str(path))
    assert ended.returncode == 0, ended.stderr
    return path


@pytest.fixture(scope="module")
def diagnosed(home: Path, measured: Path) -> subprocess.CompletedProcess[str]:
    """What the first diagnosis of a copy of that run prints."""
    path = home / "diagnosed.kprof"
    shutil.copy(measured, path)
    ended = in_a_shell(home, "diagnose", str(path), "--engine", "fake", "--budget", "1s")
    assert ended.returncode == 0, ended.stderr
    return ended


def path_of(diagnosed: subprocess.CompletedProcess[str]) -> Path:
    return Path(next(word for word in diagnosed.args if word.endswith(".kprof")))


def test_it_reads_in_under_a_screen(diagnosed: subprocess.CompletedProcess[str]) -> None:
    lines = diagnosed.stdout.splitlines()
    assert len(lines) <= SCREEN
    assert lines[0].startswith("fake")
    assert "Next: kernelprof diagnose" in diagnosed.stdout


def test_what_was_seen_is_in_the_run_and_its_reports(
    home: Path, diagnosed: subprocess.CompletedProcess[str]
) -> None:
    report = in_a_shell(home, "report", str(path_of(diagnosed)), "--format", "json")
    cases = json.loads(report.stdout)["cases"]
    own = [case for case in cases if case["engine"] == "fake"]
    assert len(own) == 2
    for case in own:
        total = sum(part["seconds"] for part in case["ledger"])
        assert total == pytest.approx(case["measured_s"])
        assert any(layer["in_network_s"] for layer in case["layers"])
    others = [case for case in cases if case["engine"] != "fake"]
    assert others
    assert not any(case["ledger"] or case["findings"] for case in others)


def test_a_second_time_nothing_is_looked_at_anew(
    home: Path, diagnosed: subprocess.CompletedProcess[str]
) -> None:
    path = path_of(diagnosed)
    before = [RunFile.open(path).evidence(stored.id) for stored in RunFile.open(path).cases()]
    words = ("diagnose", str(path), "--engine", "fake", "--budget", "1s")
    again = in_a_shell(home, *words)
    assert again.returncode == 0, again.stderr
    after = [RunFile.open(path).evidence(stored.id) for stored in RunFile.open(path).cases()]
    assert [seen.get("profile") for seen in after] == [seen.get("profile") for seen in before]


def test_a_single_case_has_its_ladder_and_json(
    home: Path, diagnosed: subprocess.CompletedProcess[str]
) -> None:
    path = str(path_of(diagnosed))
    one = ("--engine", "fake", "--mode", "infer", "--budget", "1s")
    shown = in_a_shell(home, "diagnose", path, *one)
    assert "conv1" in shown.stdout
    as_json = in_a_shell(home, "diagnose", path, *one, "--json")
    (case,) = json.loads(as_json.stdout)
    assert (case["engine"], case["mode"]) == ("fake", "infer")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--engine", "nothing"), "holds nothing of that; it holds fake, numpy"),
        (("--network", "lstm"), "alexnet-r"),
        (("--budget", "soon"), "--budget soon"),
        (("--threads", "many"), "--threads"),
    ],
)
def test_what_is_not_there_is_told(
    words: tuple[str, ...], told: str, home: Path, measured: Path
) -> None:
    ended = in_a_shell(home, "diagnose", str(measured), *words)
    assert ended.returncode == 2
    assert told in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_run_of_another_machine_is_diagnosed_there(home: Path, measured: Path) -> None:
    path = home / "elsewhere.kprof"
    shutil.copy(measured, path)
    file = RunFile.open(path)
    file.record("machine", {**file.meta("machine"), "fingerprint": "other"})
    file.close()
    ended = in_a_shell(home, "diagnose", str(path))
    assert ended.returncode == 2
    assert "another machine" in ended.stderr


def test_an_engine_that_is_gone_is_named(home: Path, measured: Path, tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    bare.mkdir()
    shutil.copytree(home / "machines", bare / "machines")
    ended = in_a_shell(bare, "diagnose", str(measured), "--engine", "fake")
    assert ended.returncode == 2
    assert "fake" in ended.stderr
    assert "Traceback" not in ended.stderr
