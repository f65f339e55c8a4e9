"""The command line: what it prints, what it refuses, and how it exits."""

from __future__ import annotations

import csv
import json
import os
import re
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from kernelprof import cli, cli_doctor, cli_measure, measure
from kernelprof.engines import ENGINES
from kernelprof.fitness import BLOCK, PASS, WARN, Check
from kernelprof.machine import this_machine, usable_cpus
from kernelprof.probes.networks import NETWORKS
from kernelprof.runfile import RunFile

ROOT = Path(__file__).resolve().parent.parent
FAKE = ROOT / "tests" / "fake_engine.py"
LITTLE = ("run", "alexnet-r", "--batch", "1", "--threads", "1", "--budget", "2s")
COMMANDS = (
    ("doctor",),
    ("networks",),
    ("show",),
    ("run",),
    ("bench",),
    ("diagnose",),
    ("predict",),
    ("scale",),
    ("compare",),
    ("selfcheck",),
    ("report",),
    ("export",),
    ("machine",),
    ("engines", "list"),
    ("engines", "install"),
    ("engines", "check"),
    ("engines", "remove"),
    ("nsys", "record"),
    ("nsys", "command"),
    ("nsys", "import"),
    ("nsys", "scrub"),
    ("nsys", "install"),
)
CASE_KEYS = {
    *("network", "engine", "device", "threads", "cpus", "batch", "mode"),
    *("measured_s", "measured_low_s", "measured_high_s"),
    *("predicted_s", "predicted_low_s", "predicted_high_s", "error"),
    *("reference_s", "ceiling_s", "coverage", "parameters", "flop"),
    *("layers", "ledger", "findings"),
}
LAYER_KEYS = {
    *("name", "kind", "primitives", "engine_s", "reference_s", "ceiling_s", "in_network_s")
}


def make_home(folder: Path) -> Path:
    """A folder of engines in which there is a fake one."""
    folder.mkdir(exist_ok=True)
    (folder / "engines.toml").write_text(f'[fake]\nadapter = "{FAKE}"\n')
    plant_ceilings(folder)
    return folder


def plant_ceilings(folder: Path) -> None:
    """Ceilings of this machine at every thread count, so that no test has to measure them."""
    rate = {"best_per_s": 1e12, "median_per_s": 1e12, "windows": 1}
    placement = {
        "cpus": [],
        "measured": "",
        "clock_hz": rate,
        "arithmetic": [{"isa": "x", "dtype": "float32", "rate": rate, "loop": "", "doubts": []}],
        "memory": [{"level": "DRAM", "operation": "read", "thread_bytes": 1, "rate": rate}],
        "capacity_bytes": {},
    }
    usable = usable_cpus()
    placements = {
        str(n + 1): {**placement, "cpus": list(usable[: n + 1])} for n in range(len(usable))
    }
    fingerprint = this_machine().fingerprint
    (folder / "machines").mkdir()
    (folder / "machines" / f"{fingerprint}.json").write_text(
        json.dumps({"schema": 1, "fingerprint": fingerprint, "placements": placements})
    )


def shell_environment(home: Path) -> dict[str, str]:
    """A shell's variables, with engines and lock of its own."""
    return {**os.environ, "KERNELPROF_HOME": str(home), "TMPDIR": str(home)}


def in_a_shell(home: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """What a command prints, and how it ends."""
    return subprocess.run(
        [sys.executable, "-m", "kernelprof", *words],
        cwd=ROOT,
        env=shell_environment(home),
        capture_output=True,
        text=True,
        timeout=100,
    )


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Engines and the lock of this test only."""
    folder = make_home(tmp_path / "home")
    monkeypatch.setenv("KERNELPROF_HOME", str(folder))
    monkeypatch.setattr(measure, "LOCK", folder / "lock")
    return folder


@pytest.fixture(scope="module")
def finished_command(tmp_path_factory: pytest.TempPathFactory) -> subprocess.CompletedProcess[str]:
    """A run of the fake engine."""
    folder = make_home(tmp_path_factory.mktemp("finished"))
    path = str(folder / "a.kprof")
    ended = in_a_shell(folder, *LITTLE, "--engine", "fake", "-o", path)
    assert ended.returncode == 0, ended.stderr
    return ended


@pytest.fixture(scope="module")
def finished(finished_command: subprocess.CompletedProcess[str]) -> Path:
    """Its file."""
    return Path(finished_command.args[-1])


def here(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *words: str
) -> tuple[int, str, str]:
    """Exit status, stdout and stderr of a command in this process."""
    monkeypatch.setattr(sys, "argv", ["kernelprof", *words])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    printed = capsys.readouterr()
    return int(ended.value.code or 0), printed.out, printed.err


ENGINE_NAMES = ", ".join([*ENGINES, "fake"])
NETWORK_NAMES = ", ".join(NETWORKS)

BAD_WORDS = {
    "network": (("run", "vgg"), f"known: {NETWORK_NAMES}"),
    "engine": (("run", "--engine", "nope"), f"known: {ENGINE_NAMES}"),
    "no engine": (("run", "--engine", ","), f"known: {ENGINE_NAMES}"),
    "mode": (("run", "--mode", "test"), "known: infer, train"),
    "no mode": (("run", "--mode", ","), "known: infer, train"),
    "device": (("run", "--device", "gpu0"), "cpu or cuda:N is needed, such as cuda:0"),
    "0 threads": (("run", "--threads", "0"), "from 1 to "),
    "-1 threads": (("run", "--threads", "-1"), "whole numbers"),
    "99999 threads": (("run", "--threads", "99999"), "from 1 to "),
    "x threads": (("run", "--threads", "x"), "whole numbers"),
    "superscript threads": (("run", "--threads", "²"), "whole numbers"),
    "CPU": (("run", "--cpus", "99999"), "usable are "),
    "x CPUs": (("run", "--cpus", "x"), "whole numbers"),
    "more threads than CPUs": (("run", "--cpus", "{cpu}", "--threads", "2"), "from 1 to 1"),
    "batch 0": (("run", "--batch", "0"), "at least 1"),
    "batch -5": (("run", "--batch", "-5"), "whole numbers"),
    "batch x": (("run", "--batch", "8,x"), "whole numbers"),
    "budget": (("run", "--budget", "soon"), "90s, 5m or 1h"),
    "budget 0": (("run", "--budget", "0s"), "90s, 5m or 1h"),
    "budget -5": (("run", "--budget", "-5s"), "90s, 5m or 1h"),
    "variable": (("run", "--env", "nonsense"), "ENGINE:NAME=VALUE"),
    "variable of another": (("run", "--engine", "fake", "--env", "torch:A=B"), "'torch'"),
    "seed": (("run", "--seed", "-1"), "--seed -1"),
    "no folder": (("run", "-o", "{folder}/none/a.kprof"), "folder that you may write to"),
    "a folder": (("run", "-o", "{folder}"), "is a folder"),
    "a text": (("run", "-o", "{text}"), "not a kernelprof run file"),
    "a database": (("run", "-o", "{database}"), "not a kernelprof run file"),
    "absent engine": (("run", "--engine", "torch"), "kernelprof engines install torch"),
    "shown network": (("show", "vgg"), f"known: {NETWORK_NAMES}"),
    "shown mode": (("show", "fcn-r", "--mode", "x"), "known: infer, train"),
    "shown batch": (("show", "fcn-r", "--batch", "0"), "at least 1"),
    "doctor's engine": (("doctor", "--engine", "nope"), f"known: {ENGINE_NAMES}"),
    "doctor's absent engine": (("doctor", "--engine", "torch"), "not installed: torch"),
    "doctor's threads": (("doctor", "--threads", "99999"), "from 1 to "),
    "doctor's CPU": (("doctor", "--cpus", "99999"), "usable are "),
    "no run": (("report", "{folder}/none.kprof"), "no such file"),
    "report of a text": (("report", "{text}"), "not a kernelprof run file"),
    "report format": (("report", "{text}", "--format", "pdf"), "known: text, json, html"),
    "no exported run": (("export", "{folder}/none.kprof", "-o", "{folder}/x"), "no such file"),
    "export format": (("export", "{text}", "--format", "xls", "-o", "x"), "known: csv, json"),
    "installed engine": (("engines", "install", "nope"), f"known: {ENGINE_NAMES}"),
    "no engine to install": (("engines", "install"), "name the engines to install, or say --all"),
    "engine to remove": (("engines", "remove", "numpy"), "makes no environment for 'numpy'"),
    "engine to check": (("engines", "check", "torch"), "not installed: torch"),
}


@pytest.mark.parametrize("name", BAD_WORDS)
def test_a_mistake_ends_in_one_sentence(name, home, tmp_path, monkeypatch, capsys):
    words, sentence = BAD_WORDS[name]
    text, database = tmp_path / "a.txt", tmp_path / "a.sqlite"
    text.write_text("no database\n" * 100)
    with sqlite3.connect(database) as connection:
        connection.execute("CREATE TABLE own (a)")
    connection.close()
    before = text.read_bytes(), database.read_bytes()
    places = {"folder": tmp_path, "text": text, "database": database}
    filled = [w.format(**places, cpu=min(os.sched_getaffinity(0))) for w in words]
    monkeypatch.chdir(home)
    status, printed, said = here(monkeypatch, capsys, *filled)
    assert status == 2
    assert printed == ""
    assert said.startswith("kernelprof: ")
    assert said.count("\n") == 1
    assert sentence in said
    assert (text.read_bytes(), database.read_bytes()) == before
    assert not list(home.glob("*.kprof")) or name == "absent engine"


@pytest.mark.parametrize("words", [("report",), ("frobnicate",), ("run", "--seed", "x")])
def test_what_the_parser_refuses_ends_in_one_sentence(words, home, monkeypatch, capsys):
    status, printed, said = here(monkeypatch, capsys, *words)
    assert status == 2
    assert printed == ""
    assert "Traceback" not in said
    assert said.startswith("kernelprof: ")
    assert said.count("\n") == 1
    assert "--help`" in said


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_help_has_an_example(words, home, monkeypatch, capsys):
    status, printed, _ = here(monkeypatch, capsys, *words, "--help")
    assert status == 0
    assert f"Example: kernelprof {' '.join(words)}" in printed


def test_every_command_is_known_here(monkeypatch, capsys):
    _, printed, _ = here(monkeypatch, capsys, "--help")
    listed = [
        line.split()[1]
        for line in printed.partition("Commands")[2].splitlines()
        if line.startswith("│ ") and not line.startswith("│  ")
    ]
    assert set(listed) == {words[0] for words in COMMANDS}


def strict(text: str):
    def refuse(constant):
        raise ValueError(f"{constant} is no JSON")

    return json.loads(text, parse_constant=refuse)


def test_networks_as_json(home, monkeypatch, capsys):
    _, printed, _ = here(monkeypatch, capsys, "networks", "--json")
    listed = strict(printed)
    assert [network["name"] for network in listed] == list(NETWORKS)
    assert all({"batch", "layers", "source"} <= set(network) for network in listed)


def test_a_decomposition_as_json(home, monkeypatch, capsys):
    _, printed, _ = here(monkeypatch, capsys, "show", "fcn-r", "--batch", "8", "--json")
    assert "fc1" in json.dumps(strict(printed))


def test_a_report_keeps_the_contract(finished, monkeypatch, capsys):
    _, printed, _ = here(monkeypatch, capsys, "report", str(finished), "--format", "json")
    found = strict(printed)
    assert {"schema", "kernelprof", "machine", "engines", "cases", "failures"} <= set(found)
    assert found["schema"] == 1
    assert set(found["engines"]) == {"fake", "numpy"}
    assert all({"version", "python"} <= set(engine) for engine in found["engines"].values())
    assert [(case["engine"], case["mode"]) for case in found["cases"]] == [
        ("fake", "infer"),
        ("fake", "train"),
    ]
    for case in found["cases"]:
        assert set(case) >= CASE_KEYS
        assert case["measured_low_s"] <= case["measured_s"] <= case["measured_high_s"]
        assert case["error"] == pytest.approx(case["predicted_s"] / case["measured_s"] - 1)
        assert case["coverage"] == 1
        assert all(set(layer) >= LAYER_KEYS for layer in case["layers"])
    assert found["failures"] == []


@pytest.mark.parametrize("format_", ["text", "html", "json"])
def test_a_report_goes_into_a_file(format_, finished, tmp_path, monkeypatch, capsys):
    path = tmp_path / "report"
    words = ("report", str(finished), "--format", format_, "-o", str(path))
    status, printed, said = here(monkeypatch, capsys, *words)
    assert (status, printed, said) == (0, "", f"wrote {path}\n")
    assert "alexnet-r" in path.read_text()


@pytest.mark.parametrize("words", [("report",), ("export", "--format", "csv")])
def test_a_file_that_cannot_be_written(words, finished, tmp_path, monkeypatch, capsys):
    nowhere = str(tmp_path / "none" / "file")
    status, _, said = here(monkeypatch, capsys, *words, str(finished), "-o", nowhere)
    assert status == 2
    assert said.startswith(f"kernelprof: cannot write {nowhere}: ")
    assert said.count("\n") == 1


def test_an_export_holds_every_sample(finished, tmp_path, monkeypatch, capsys):
    path = tmp_path / "a.csv"
    status, _, _ = here(monkeypatch, capsys, "export", str(finished), "-o", str(path))
    assert status == 0
    run = RunFile.open(finished)
    count = sum(len(list(run.samples(stored.id))) for stored in run.cases())
    run.close()
    assert len(list(csv.DictReader(path.read_text().splitlines()))) == count > 0


def test_a_run_prints_each_case_and_its_own_cost(finished, finished_command):
    assert all(line.startswith("warning: ") for line in finished_command.stderr.splitlines())
    assert "2 of 2 cases measured." in finished_command.stdout
    assert "in samples" in finished_command.stdout
    run = RunFile.open(finished)
    assert run.meta("command") == f"kernelprof {' '.join(finished_command.args[3:])}"
    spent = run.spent()
    assert 0 < spent["samples"] + spent["warm-up"] < spent["total"]
    run.close()


def test_a_reader_that_has_seen_enough(home):
    words = [sys.executable, "-m", "kernelprof", "networks", "--json"]
    with subprocess.Popen(
        words, cwd=ROOT, env=shell_environment(home), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as shell:
        assert shell.stdout is not None
        assert shell.stderr is not None
        shell.stdout.close()
        assert shell.stderr.read() == b""


def test_engines_are_checked_against_the_oracle(home):
    done = in_a_shell(home, "engines", "check", "numpy")
    assert done.returncode == 0
    assert re.search(r"numpy +[\d.]+ +1 20 of 20 +\d\.\de-\d\d -", done.stdout)


def test_a_check_names_what_fails(home):
    with (home / "engines.toml").open("a") as table:
        table.write('variables = { FAKE_WRONG = "gemm" }\n')
    done = in_a_shell(home, "engines", "check")
    assert done.returncode == 1
    assert "fake: gemm m=64 n=48 k=32" in done.stderr
    assert (
        "not installed: torch, tensorflow, jax, mxnet, caffe, cntk; `kernelprof engines install"
        in (done.stderr)
    )


def checked(name: str, outcome: str) -> Check:
    """An answer of the doctor's."""
    return (
        Check(name, outcome, f"{name} is bad", f"mend {name}")
        if outcome != PASS
        else Check(name, PASS, f"{name} is well")
    )


def plant_checks(monkeypatch: pytest.MonkeyPatch, *outcomes: str) -> None:
    """What the doctor finds instead of this machine: check1, check2, ..."""
    checks = [checked(f"check{place}", outcome) for place, outcome in enumerate(outcomes, 1)]
    for module in (cli_doctor, cli_measure):
        monkeypatch.setattr(module, "examine", lambda options: iter(checks))


@pytest.mark.parametrize(
    ("outcomes", "status", "verdict"),
    [
        ((PASS,), 0, "Fit to measure."),
        ((PASS, WARN), 0, "Fit to measure, with 1 warning: check2."),
        ((WARN, BLOCK), 1, "Not fit to measure: check2. "),
    ],
)
def test_doctor(outcomes, status, verdict, home, monkeypatch, capsys):
    plant_checks(monkeypatch, *outcomes)
    words = ("doctor", "--engine", "fake", "--threads", "1")
    ended, printed, _ = here(monkeypatch, capsys, *words)
    assert ended == status
    assert verdict in printed
    assert ("-> mend check2" in printed) == (len(outcomes) > 1)
    assert re.search(r"^fake +works +1.0 +3[.\d]+ +1 *$", printed, re.MULTILINE)
    assert re.search(r"^OpenMP runtimes +pass", printed, re.MULTILINE)


def test_doctor_of_this_machine_as_json(home, monkeypatch, capsys):
    usable = len(usable_cpus())
    ended, printed, _ = here(monkeypatch, capsys, "doctor", "--json")
    told = strict(printed)
    assert ended == (0 if told["fit"] else 1)
    assert [check["name"] for check in told["checks"]][:3] == [
        "other runs",
        "CPU quota",
        "affinity",
    ]
    assert all(set(check) == {"name", "outcome", "reason", "try"} for check in told["checks"])
    assert set(told["engines"]) == {"numpy", "fake"}
    assert told["engines"]["fake"]["works"]
    assert told["engines"]["fake"]["threads"] == sorted({1, usable})


def test_doctor_of_an_engine_that_fails(home, monkeypatch, capsys):
    plant_checks(monkeypatch, PASS)
    with (home / "engines.toml").open("a") as table:
        table.write('variables = { FAKE_ABSENT = "1" }\n')
    ended, printed, said = here(monkeypatch, capsys, "doctor")
    assert ended == 1
    assert re.search(r"^fake +fails .*No module named 'fake'", printed, re.MULTILINE)
    assert "cases of fake would fail" in printed
    assert "not installed: torch" in said


def test_doctor_while_another_measures(home, monkeypatch, capsys):
    """It starts no engine: that would cost the other one time."""
    plant_checks(monkeypatch, PASS)
    with measure.sole_measurement():
        ended, printed, said = here(monkeypatch, capsys, "doctor")
    assert ended == 1
    assert "Not fit to measure: other runs." in printed
    assert "works" not in printed
    assert "The engines were not started" in said


MEASURES = {
    "run": ("run", "alexnet-r", "--batch", "1", "--mode", "infer"),
    "bench": ("bench", "gemm", "8x8x8"),
}
SHORT = ("--engine", "fake", "--threads", "1", "--budget", "1s")


@pytest.mark.parametrize("command", MEASURES)
def test_nothing_is_measured_on_an_unfit_machine(command, home, tmp_path, monkeypatch, capsys):
    plant_checks(monkeypatch, WARN, PASS, BLOCK)
    path = tmp_path / "a.kprof"
    words = (*MEASURES[command], *SHORT, "-o", str(path))
    status, printed, said = here(monkeypatch, capsys, *words)
    assert status == 1
    assert printed == ""
    assert said.splitlines() == [
        "warning: check1: check1 is bad; mend check1",
        "not fit: check3: check3 is bad; mend check3",
        "kernelprof: nothing was measured; do as said above, or say --force to go on and mark the "
        "run",
    ]
    assert list(tmp_path.glob("a.kprof*")) == []


@pytest.mark.parametrize("command", MEASURES)
def test_a_forced_run_is_marked(command, home, tmp_path, monkeypatch, capsys):
    plant_checks(monkeypatch, WARN, PASS, BLOCK)
    path = tmp_path / "a.kprof"
    words = (*MEASURES[command], *SHORT, "-o", str(path), "--force")
    status, printed, said = here(monkeypatch, capsys, *words)
    assert status == 0, said
    assert said.splitlines()[:2] == [
        "warning: check1: check1 is bad; mend check1",
        "not fit: check3: check3 is bad; mend check3",
    ]
    sentence = "Forced, although the machine was not fit to measure: check3 is bad."
    assert sentence in " ".join(printed.split())
    _, printed, _ = here(monkeypatch, capsys, "report", str(path))
    assert sentence in " ".join(printed.split())
    assert re.search(r"^check3 +block check3 is bad", printed, re.MULTILINE)
    _, printed, _ = here(monkeypatch, capsys, "report", str(path), "--format", "json")
    fitness = strict(printed)["fitness"]
    assert (fitness["fit"], fitness["forced"]) == (False, True)
    outcomes = {check["name"]: check["outcome"] for check in fitness["checks"]}
    assert (outcomes["check1"], outcomes["check3"], outcomes["threads"]) == (WARN, BLOCK, PASS)


def test_a_run_that_goes_on_keeps_its_mark(home, tmp_path, monkeypatch, capsys):
    """Also where the machine has become fit meanwhile; the file that is there is not deleted."""
    path = tmp_path / "a.kprof"
    plant_checks(monkeypatch, BLOCK)
    here(monkeypatch, capsys, *MEASURES["run"], *SHORT, "-o", str(path), "--force")
    again = ("run", "-o", str(path))
    assert here(monkeypatch, capsys, *again)[0] == 1
    assert path.exists()
    assert here(monkeypatch, capsys, *again, "--force")[0] == 0
    plant_checks(monkeypatch, PASS)
    assert here(monkeypatch, capsys, *again)[0] == 0
    run = RunFile.open(path)
    assert run.meta("fitness")["forced"]
    assert run.meta("fitness")["checks"][1]["outcome"] == BLOCK
    run.close()


def test_a_fit_run_is_not_marked(home, tmp_path, monkeypatch, capsys):
    """Not even where it was to be forced."""
    plant_checks(monkeypatch, PASS)
    path = tmp_path / "a.kprof"
    words = (*MEASURES["run"], *SHORT, "-o", str(path), "--force")
    status, printed, said = here(monkeypatch, capsys, *words)
    assert (status, said) == (0, "")
    assert "Forced" not in printed
    run = RunFile.open(path)
    assert not run.meta("fitness")["forced"]
    run.close()


def test_force_goes_on_beside_another_kernelprof(home, tmp_path, monkeypatch, capsys):
    plant_checks(monkeypatch, PASS)
    words = (*MEASURES["run"], *SHORT, "-o", str(tmp_path / "a.kprof"))
    with measure.sole_measurement():
        assert here(monkeypatch, capsys, *words)[0] == 2
        status, printed, said = here(monkeypatch, capsys, *words, "--force")
    assert status == 0, said
    assert "not fit: other runs: another kernelprof is measuring" in said
    assert "Forced" in printed


@pytest.mark.parametrize("interrupted", ["_record_ceilings", "examine"])
@pytest.mark.parametrize("command", MEASURES)
def test_ctrl_c_at_any_time_says_how_to_go_on(
    interrupted, command, home, tmp_path, monkeypatch, capsys
):
    plant_checks(monkeypatch, PASS)

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli_measure, interrupted, stop)
    path = tmp_path / "a.kprof"
    status, _, said = here(monkeypatch, capsys, *MEASURES[command], *SHORT, "-o", str(path))
    assert status == 130
    assert f"`kernelprof run -o {path}` goes on." in said


@pytest.mark.parametrize("words", [("--format", "html"), ("--charts", "charts"), ()])
def test_a_bench_has_every_report(words, home, tmp_path, monkeypatch, capsys):
    plant_checks(monkeypatch, PASS)
    path = tmp_path / "a.kprof"
    assert here(monkeypatch, capsys, *MEASURES["bench"], *SHORT, "-o", str(path))[0] == 0
    monkeypatch.chdir(tmp_path)
    assert here(monkeypatch, capsys, "report", str(path), *words, "-o", "x")[0] == 0
    if "--charts" in words:
        assert list((tmp_path / "charts").glob("sizes-gemm-*.svg"))
    else:
        assert "gemm 8x8x8" in (tmp_path / "x").read_text()
