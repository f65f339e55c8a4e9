"""Runs that are killed, stopped, carried on with: as real processes, on a fake engine."""

from __future__ import annotations

import dataclasses
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from kernelprof import engines
from kernelprof.errors import UsageError
from kernelprof.machine import usable_cpus
from kernelprof.probes.networks import CANONICAL
from kernelprof.runfile import RunFile
from kernelprof.runner import choose, open_run, seconds

from .test_cli import LITTLE, ROOT, in_a_shell, make_home, shell_environment

BOTH = (*LITTLE, "--engine", "fake,numpy", "--mode", "infer,train")
MEASURED = "SELECT count(*) FROM turns JOIN cases ON cases.id = case_id WHERE NOT calibration"
SAMPLED = "SELECT count(*) FROM turns"
BUILT = "SELECT count(*) FROM kernels"


@contextmanager
def running(home: Path, *words: str) -> Iterator[subprocess.Popen[str]]:
    """A command in a process group of its own, as a shell starts it."""
    with subprocess.Popen(
        [sys.executable, "-m", "kernelprof", *words],
        cwd=ROOT,
        env=shell_environment(home),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        process_group=0,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def wait_for(what: Callable[[], bool], patience_s: float = 120.0) -> None:
    deadline = time.monotonic() + patience_s
    while not what():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)


def counted(path: Path, query: str) -> int:
    """What a query counts in a file that is being written."""
    if not path.exists():
        return 0
    connection = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
    try:
        return int(connection.execute(query).fetchone()[0])
    except sqlite3.OperationalError:  # no tables yet
        return 0
    finally:
        connection.close()


def samples(path: Path) -> dict[tuple[int, int, int], tuple[int, int, int]]:
    """Turn, start and duration by case, round and place."""
    run = RunFile.open(path)
    found = {
        (stored.id, sample["round"], sample["place"]): (
            sample["turn_id"],
            sample["start_ns"],
            sample["duration_ns"],
        )
        for stored in run.cases()
        for sample in run.samples(stored.id)
    }
    run.close()
    return found


def check_complete(path: Path) -> None:
    """Every case has all its rounds from the first, each in one turn, and every kernel in each."""
    run = RunFile.open(path)
    found = samples(path)
    for stored in run.cases():
        assert stored.stopped_by in {"interval", "rounds", "budget"}
        rounds = run.rounds(stored.id)
        assert rounds == set(range(len(rounds)))
        assert len(rounds) >= 3
        places = {place for case, _, place in found if case == stored.id}
        assert places == {-1, *(kernel.place for kernel in run.kernels(stored.id))}
        for round_ in rounds:
            turns = [t for (c, r, _), (t, _, _) in found.items() if (c, r) == (stored.id, round_)]
            assert len(turns) == len(places)
            assert len(set(turns)) == 1
    assert run.failures() == {}
    run.close()


def is_running(pid: int) -> bool:
    """Whether a process lives; one that only waits to be collected does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def worker_pids(path: Path) -> list[int]:
    run = RunFile.open(path)
    pids = [facts["pid"] for _, _, facts in run.workers()]
    run.close()
    return pids


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return make_home(tmp_path / "home")


def test_a_killed_run_is_carried_on_with(home, tmp_path):
    path = tmp_path / "a.kprof"
    with running(home, *BOTH, "-o", str(path)) as killed:
        wait_for(lambda: counted(path, MEASURED) >= 3)
        killed.kill()
    workers = worker_pids(path)
    before = samples(path)
    run = RunFile.open(path)
    assert any(stored.stopped_by is None for stored in run.cases())
    run.close()
    wait_for(lambda: not any(map(is_running, workers)), 5.0)

    ended = in_a_shell(home, "run", "-o", str(path))
    assert ended.returncode == 0, ended.stderr
    assert "4 of 4 cases measured." in ended.stdout
    after = samples(path)
    assert before
    assert before.items() <= after.items()
    assert len(after) > len(before)
    check_complete(path)


def test_a_finished_run_is_left_alone(home, tmp_path):
    path = tmp_path / "a.kprof"
    words = (*LITTLE, "--engine", "fake", "--mode", "infer", "-o", str(path))
    first = in_a_shell(home, *words)
    before, workers = samples(path), worker_pids(path)
    second = in_a_shell(home, *words)
    assert (first.returncode, second.returncode) == (0, 0)
    assert samples(path) == before
    assert worker_pids(path) == workers

    other = in_a_shell(home, *words, "--seed", "2")
    assert other.returncode == 2
    assert other.stdout == ""
    assert other.stderr.count("\n") == 1
    assert "measures something else" in other.stderr
    assert " ".join(words) in other.stderr
    assert samples(path) == before


def test_ctrl_c_says_how_to_go_on(home, tmp_path):
    path = tmp_path / "a.kprof"
    with running(home, *BOTH, "-o", str(path)) as stopped:
        wait_for(lambda: counted(path, SAMPLED) > 0)
        os.killpg(stopped.pid, signal.SIGINT)
        said = stopped.communicate(timeout=20)[1]
    assert stopped.returncode == 130
    assert f"`kernelprof run -o {path}` goes on" in said
    assert "Traceback" not in said
    assert not any(map(is_running, worker_pids(path)))
    assert samples(path)
    assert in_a_shell(home, "report", str(path)).returncode == 0


def test_ctrl_c_does_not_wait_for_a_hung_worker(home, tmp_path):
    path = tmp_path / "a.kprof"
    hung = ("--engine", "fake", "--mode", "train", "--env", "fake:FAKE_HANG_TURN=1")
    with running(home, *LITTLE, *hung, "-o", str(path)) as stopped:
        wait_for(lambda: counted(path, BUILT) > 0)
        time.sleep(0.5)
        os.killpg(stopped.pid, signal.SIGINT)
        stopped.communicate(timeout=10)
    assert stopped.returncode == 130
    assert not any(map(is_running, worker_pids(path)))


def holds_open(pid: int, path: Path) -> bool:
    opened = Path(f"/proc/{pid}/fd").iterdir()
    return any(link.exists() and link.resolve() == path for link in opened)


def test_ctrl_c_in_any_other_command(home, tmp_path):
    path, pipe = tmp_path / "a.kprof", tmp_path / "pipe"
    RunFile.create(path, {}).close()
    os.mkfifo(pipe)  # to write into it waits for a reader
    with running(home, "export", str(path), "-o", str(pipe)) as stopped:
        wait_for(lambda: holds_open(stopped.pid, path))
        time.sleep(0.5)
        os.killpg(stopped.pid, signal.SIGINT)
        said = stopped.communicate(timeout=20)[1]
    assert stopped.returncode == 130
    assert "Traceback" not in said


def test_another_kernelprof_waits_its_turn(home, tmp_path):
    with running(home, *BOTH, "-o", str(tmp_path / "a.kprof")):
        wait_for(lambda: counted(tmp_path / "a.kprof", BUILT) > 0)
        second = in_a_shell(home, *BOTH, "-o", str(tmp_path / "b.kprof"))
    assert second.returncode == 2
    assert second.stderr == (
        "kernelprof: another kernelprof is measuring on this machine; wait until it is done\n"
    )
    assert not (tmp_path / "b.kprof").exists()


OPTIONS = choose(["fcn-r"], engines="numpy", threads="1", modes="infer", quick=True)


def test_a_file_of_another_machine_is_refused(tmp_path):
    path = tmp_path / "a.kprof"
    run, _ = open_run(path, OPTIONS, "kernelprof run fcn-r")
    run.record("machine", {**run.meta("machine"), "fingerprint": "0", "processor": "Z80"})
    run.close()
    for options in (OPTIONS, None):
        with pytest.raises(UsageError, match=r"another machine \(Z80\); name another file"):
            open_run(path, options, "")


def test_options_come_back_from_the_file(tmp_path):
    path = tmp_path / "a.kprof"
    options = choose(
        ["lstm", "fcn-r", "lstm"],
        engines="numpy",
        threads="1",
        modes="train",
        batches="3,5",
        budget="1h",
        seed=7,
        variables=["numpy:A=B=C"],
    )
    assert options.variables == (("numpy", "A", "B=C"),)
    open_run(path, options, "words")[0].close()
    for repeated in (options, None):
        run, stored = open_run(path, repeated, "other words")
        assert stored == options
        assert run.meta("command") == "words"
        run.close()
    with pytest.raises(UsageError, match="`words`, which measures something else"):
        open_run(path, dataclasses.replace(options, batches=(4,)), "")


def test_nothing_to_carry_on_with(tmp_path):
    with pytest.raises(UsageError, match="no such file"):
        open_run(tmp_path / "a.kprof", None, "")
    assert not (tmp_path / "a.kprof").exists()


class TestChoose:
    """From words to options."""

    def test_what_is_not_said(self, tmp_path, monkeypatch):
        monkeypatch.setenv("KERNELPROF_HOME", str(tmp_path))
        monkeypatch.setattr(engines, "OF_HOST", ())
        options = choose()
        assert [network.name for network in options.networks] == list(CANONICAL)
        assert options.batches == ()
        assert options.modes == ("infer", "train")
        assert options.engines == ("numpy",)
        assert {len(cpus) for cpus in options.placements} == {1, len(usable_cpus())}
        assert options.budget_s == 900

    def test_a_word_said_twice_counts_once(self):
        options = choose(
            ["lstm", "lstm"],
            engines="numpy, numpy",
            threads="1,1",
            modes="infer,infer",
            batches="8,4,8",
        )
        assert [network.name for network in options.networks] == ["lstm"]
        assert options.batches == (8, 4)
        assert options.engines == ("numpy",)
        assert options.modes == ("infer",)
        assert options.placements == (usable_cpus()[:1],)

    def test_cpus_in_the_order_given(self):
        cpus = usable_cpus()[::-1]
        words = ",".join(map(str, cpus))
        options = choose(["lstm"], engines="numpy", threads="1", cpus=words)
        assert options.placements == ((cpus[0],),)

    @pytest.mark.parametrize(
        ("text", "expected"), [("90", 90), ("90s", 90), ("1.5m", 90), (" 2 h ", 7200)]
    )
    def test_durations(self, text, expected):
        assert seconds(text) == expected

    @pytest.mark.parametrize("text", ["", "m", "5d", "-5s", "0", "1e3", "nan", "5 5m"])
    def test_what_is_no_duration(self, text):
        with pytest.raises(UsageError, match="90s, 5m or 1h"):
            seconds(text)


def test_a_run_without_any_installed_engine_writes_nothing(home, tmp_path):
    """The engine of kernelprof's own table is not in this home."""
    done = in_a_shell(home, "run", "fcn-r", "--engine", "mxnet", "-o", str(tmp_path / "a.kprof"))
    assert done.returncode == 2
    assert done.stderr == (
        "kernelprof: not installed: mxnet; run `kernelprof engines install mxnet`\n"
    )
    assert not (tmp_path / "a.kprof").exists()
