"""Two runs compared: of a simulated machine whose truth is known, and files that are not whole."""

from __future__ import annotations

import json
import math
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from kernelprof import cli, cli_compare
from kernelprof.compare.comparing import compare
from kernelprof.compare.results import (
    FASTER,
    NOTHING_COMPARABLE,
    REGRESSED,
    SAME_OR_FASTER,
    SLOWER,
    Change,
    RunComparison,
)
from kernelprof.errors import KernelprofError
from kernelprof.plan import alone
from kernelprof.probes.network import INFER, TRAIN
from kernelprof.reports.compare import COMPARISON_FORMATS, case_name, sentences
from kernelprof.runfile import RunFile
from kernelprof.sizes import primitives
from tests.compared_run import MACHINE, NETWORK, Simulated, changed, simulate
from tests.planted_run import perceptron

USUAL = Simulated()
LAYERS = {"fc1", "relu1", "fc2", "relu2", "fc3", "relu3"}
ERROR = 2

Compared = Callable[..., RunComparison]


@pytest.fixture
def compared(tmp_path: Path) -> Iterator[Compared]:
    """Simulates two runs and compares them."""
    opened: list[RunFile] = []

    def _compared(before: Simulated, after: Simulated, threshold: float = 0.0) -> RunComparison:
        paths = [tmp_path / f"{len(opened) + n}.kprof" for n in (0, 1)]
        files = [
            RunFile.open(simulate(path, run))
            for path, run in zip(paths, (before, after), strict=True)
        ]
        opened.extend(files)
        return compare(*files, threshold)

    yield _compared
    for file in opened:
        file.close()


def layers(changes: tuple[Change, ...]) -> set[str]:
    return {change.layer for change in changes}


def of(found: RunComparison, layer: str) -> Change:
    (change,) = (one for one in found.changes if one.layer == layer)
    return change


def test_a_run_is_as_fast_as_itself(compared: Compared) -> None:
    found = compared(USUAL, USUAL)
    assert found.exit_status == SAME_OR_FASTER
    assert layers(found.changes) == {*LAYERS, ""}
    for change in found.changes:
        assert change.ratio.value == pytest.approx(1)
        assert change.ratio.low < 1 < change.ratio.high
        assert change.before_s == change.after_s
    assert not found.unmatched
    assert not found.settings


@pytest.mark.parametrize("processes", [1, 3, 5])
def test_a_slower_layer_is_named_and_no_other(compared: Compared, processes: int) -> None:
    before = replace(USUAL, processes=processes)
    found = compared(before, changed(before, factors={"fc2": 1.5}))
    assert layers(found.slower) - {""} == {"fc2"}
    assert of(found, "fc2").ratio.value == pytest.approx(1.5, rel=0.03)
    assert found.exit_status == REGRESSED


def test_more_processes_tell_a_smaller_slow_down(compared: Compared) -> None:
    told = []
    for processes in (1, 3, 9):
        before = replace(USUAL, processes=processes)
        told.append(of(compared(before, changed(before)), "fc2").told_from)
    assert told[0] > told[1] > told[2] > 1


def test_the_other_way_round_it_is_faster(compared: Compared) -> None:
    slow = changed(USUAL, factors={"fc2": 1.5})
    there, back = compared(USUAL, slow), compared(slow, USUAL)
    assert back.exit_status == SAME_OR_FASTER
    assert "fc2" in layers(back.faster)
    for change in there.changes:
        other = of(back, change.layer)
        assert change.ratio.value * other.ratio.value == pytest.approx(1)


def test_the_machine_is_not_the_engine(compared: Compared) -> None:
    found = compared(USUAL, changed(USUAL, drift=1.2))
    assert found.exit_status == SAME_OR_FASTER
    (drift,) = found.drifts
    assert drift.ratio.value == pytest.approx(1.2, rel=0.02)
    assert drift.removed == pytest.approx(1.2, rel=0.02)
    assert of(found, "fc2").ratio.value == pytest.approx(1, abs=0.04)


def test_an_engine_that_is_slower_as_a_whole_is_not_the_machine(compared: Compared) -> None:
    found = compared(USUAL, changed(USUAL, factors=dict.fromkeys(LAYERS, 1.2)))
    assert {"", "fc1", "fc2", "fc3"} <= layers(found.slower)


@pytest.mark.parametrize("processes", [1, 3])
def test_layers_that_slow_down_by_different_factors_are_no_noise(
    compared: Compared, processes: int
) -> None:
    """As all do where an engine takes other instructions; how far they move apart is no chance."""
    factors = {"fc1": 1.7, "relu1": 1.05, "fc2": 1.3, "relu2": 1.0, "fc3": 2.2, "relu3": 1.1}
    before = Simulated(processes=processes, engines=("fake", "other"))
    found = compared(before, replace(before, factors=factors, seed=2))
    assert found.exit_status == REGRESSED
    whole = [one for one in found.changes if not one.layer]
    assert len(whole) == 2
    assert max(one.told_from for one in whole) < 1.35


def test_a_machine_that_drifts_hides_no_slow_down(compared: Compared) -> None:
    found = compared(USUAL, changed(USUAL, drift=0.8, factors={"fc3": 1.4}))
    assert layers(found.slower) - {""} == {"fc3"}


def test_a_reference_that_changed_tells_nothing_of_the_machine(compared: Compared) -> None:
    found = compared(USUAL, changed(USUAL, versions={"numpy": "2"}))
    assert not found.drifts
    assert any(one.what == "numpy version" for one in found.settings)
    assert any(
        "not known" in line for line in COMPARISON_FORMATS["text"](found, False).splitlines()
    )


def test_up_to_the_threshold_nothing_is_slower(compared: Compared) -> None:
    slow = changed(USUAL, factors={"fc2": 1.2})
    assert compared(USUAL, slow, 0.1).exit_status == REGRESSED
    assert compared(USUAL, slow, 0.3).exit_status == SAME_OR_FASTER
    assert of(compared(USUAL, slow, 0.3), "fc2").told_from > 1.3


def test_equal_runs_are_rarely_told_apart(compared: Compared) -> None:
    """At most two alarms in sixty pairs: one in fifty is what may be."""
    runs = [replace(USUAL, seed=seed, noise=0.02, processes=1 + seed % 3) for seed in range(120)]
    pairs = zip(runs[::2], runs[1::2], strict=True)
    alarms = sum(compared(a, replace(b, processes=a.processes)).exit_status for a, b in pairs)
    assert alarms <= 4


def test_fresh_pages_of_a_single_process_are_no_slow_down(compared: Compared) -> None:
    """A layer's result sometimes comes from fresh pages: that is told by its page faults."""

    def in_the_first(layer: str, process: int) -> int:
        return 500 if layer == "fc2" and process == 0 else 0

    found = compared(USUAL, changed(USUAL, faults=in_the_first))
    assert found.exit_status == SAME_OR_FASTER


def test_versions_and_settings_that_differ_are_listed(compared: Compared) -> None:
    after = changed(USUAL, versions={"fake": "2"}, processes=4)
    found = compared(USUAL, after)
    differences = {one.what: (one.before, one.after) for one in found.settings}
    assert differences == {"fake version": ("1", "2"), "processes": (3, 4)}
    assert found.after.engines["fake"] == "2"
    assert found.changes  # versions are what one compares


def test_machines_that_differ_are_not_comparable(compared: Compared) -> None:
    other = {**MACHINE, "fingerprint": "other", "processor": "Another CPU", "system": "Linux 2"}
    found = compared(USUAL, changed(USUAL, machine=other))
    assert found.exit_status == NOTHING_COMPARABLE
    assert {one.what for one in found.machine} == {"processor", "system"}
    text = COMPARISON_FORMATS["text"](found, False)
    assert "Made-up CPU before, Another CPU after" in text


def test_a_fingerprint_that_differs_for_no_known_reason_is_named(compared: Compared) -> None:
    found = compared(USUAL, changed(USUAL, machine={**MACHINE, "fingerprint": "other"}))
    assert [one.what for one in found.machine] == ["fingerprint"]


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"failed": ("fake",)}, "failed after (crash: it ended with signal SIGSEGV)"),
        ({"unsampled": True}, "failed after (incomplete"),
        ({"engines": ("other",)}, "not measured after"),
        ({"modes": (TRAIN,)}, "not measured after"),
        ({"batches": (32,)}, "not measured after, but with batch 32"),
        ({"threads": 2}, "not measured after"),
        ({"cache": "cold"}, "operands were warm before, and cold after"),
        ({"network": perceptron("made-up", width=128)}, "defined in another way"),
        ({"network": perceptron("another", width=256)}, "not measured after"),
    ],
)
def test_what_cannot_be_compared_says_why(
    compared: Compared, fields: dict[str, Any], reason: str
) -> None:
    found = compared(USUAL, changed(USUAL, **fields))
    assert found.exit_status == NOTHING_COMPARABLE
    assert not found.changes
    assert found.unmatched[0].engine == "fake"
    assert reason in found.unmatched[0].reason
    assert "Nothing was compared" in " ".join(sentences(found))


def test_a_case_that_one_run_lacks_does_not_keep_the_others_from_being_compared(
    compared: Compared,
) -> None:
    before = replace(USUAL, modes=(INFER, TRAIN))
    found = compared(before, changed(before, modes=(INFER,)))
    assert {change.mode for change in found.changes} == {INFER}
    assert [(one.mode, one.reason) for one in found.unmatched] == [(TRAIN, "not measured after")]
    assert found.exit_status == SAME_OR_FASTER


def test_a_layer_that_one_run_lacks_is_named(compared: Compared) -> None:
    found = compared(USUAL, changed(USUAL, unmeasured=("fc2",)))
    assert layers(found.changes) == {*LAYERS, ""} - {"fc2"}
    assert [(one.layer, one.reason) for one in found.unmatched] == [("fc2", "not measured after")]


def test_failures_of_both_runs_are_told(compared: Compared) -> None:
    failed = replace(USUAL, failed=("fake",))
    (unmatched,) = compared(failed, changed(failed)).unmatched
    assert unmatched.reason.startswith("failed before (crash")
    assert "; failed after (crash" in unmatched.reason


def test_cases_are_paired_by_what_they_compute(compared: Compared) -> None:
    before = replace(USUAL, modes=(INFER, TRAIN), batches=(16, 64))
    after = changed(before, factors={"fc1": 2.0})
    found = compared(before, after)
    slower = {(one.mode, one.batch) for one in found.slower if one.layer == "fc1"}
    assert slower == {(mode, batch) for mode in (INFER, TRAIN) for batch in (16, 64)}
    assert len(found.drifts) == 2  # one for each group that takes turns


@pytest.mark.parametrize("count", [2, 8])
def test_primitives_by_themselves_are_compared(compared: Compared, count: int) -> None:
    """With few of them nothing is known of the machine's drift; with many, all tell of it."""
    sizes = tuple(primitives("gemm", "64..8192x64x64"))[:count]
    before = replace(USUAL, primitives=sizes, batches=(1,))
    found = compared(before, changed(before, drift=1.02, factors={sizes[1].label: 1.5}))
    (slower,) = found.slower
    assert slower.network == alone(sizes[1]).name
    assert len(found.changes) == count
    assert len(found.drifts) == (count > 2)
    assert slower.ratio.value == pytest.approx(1.5, rel=0.05)


# The command line


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    made = {
        "a": USUAL,
        "b": changed(USUAL),
        "slow": changed(USUAL, factors={"fc2": 1.5}),
        "failed": changed(USUAL, failed=("fake",)),
        "elsewhere": changed(USUAL, machine={**MACHINE, "fingerprint": "x", "cpus": 8}),
    }
    return {name: simulate(tmp_path / f"{name}.kprof", run) for name, run in made.items()}


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Runs the command line; its exit status."""

    def _command(*words: object) -> int:
        monkeypatch.setattr("sys.argv", ["kernelprof", "compare", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        return int(ended.value.code or 0)

    return _command


@pytest.mark.parametrize(
    ("before", "after", "status"),
    [
        ("a", "b", SAME_OR_FASTER),
        ("slow", "a", SAME_OR_FASTER),
        ("a", "slow", REGRESSED),
        ("a", "failed", NOTHING_COMPARABLE),
        ("failed", "failed", NOTHING_COMPARABLE),
        ("a", "elsewhere", NOTHING_COMPARABLE),
    ],
)
@pytest.mark.parametrize("format_", sorted(COMPARISON_FORMATS))
def test_exit_statuses(
    files: dict[str, Path],
    command: Callable[..., int],
    capsys: pytest.CaptureFixture[str],
    before: str,
    after: str,
    status: int,
    format_: str,
) -> None:
    assert command(files[before], files[after], "--format", format_) == status
    assert capsys.readouterr().out


def test_a_threshold_is_a_percentage(
    files: dict[str, Path], command: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(files["a"], files["slow"], "--threshold", "60 %") == SAME_OR_FASTER
    for wrong in ("2", "0.02", "two", "-1%", "2%%"):
        assert command(files["a"], files["slow"], f"--threshold={wrong}") == ERROR
        assert f"--threshold {wrong}: a percentage such as 2% is needed" in " ".join(
            capsys.readouterr().err.split()
        )


STATEMENTS = {
    "of a newer schema": "PRAGMA user_version = 99",
    "without tables": "DROP TABLE samples",
    "without options": "DELETE FROM meta WHERE key = 'options'",
    "with half a fact": "UPDATE meta SET value = '{\"a' WHERE key = 'machine'",
}
CONTENTS: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda content: b"",
    "text": lambda content: b"no run at all",
    "cut": lambda content: content[: len(content) // 3],
    "overwritten": lambda content: content[:4096] + b"\xff" * (len(content) - 4096),
}


def damage(path: Path, how: str) -> None:
    if how in STATEMENTS:
        database = sqlite3.connect(path)
        database.execute(STATEMENTS[how])
        database.commit()
        database.close()
        return
    content = path.read_bytes()
    path.unlink()
    if how == "folder":
        path.mkdir()
    elif how in CONTENTS:
        path.write_bytes(CONTENTS[how](content))


@pytest.mark.parametrize("place", [0, 1])
@pytest.mark.parametrize("how", [*STATEMENTS, *CONTENTS, "missing", "folder"])
def test_a_file_that_is_not_whole_is_an_error_in_one_line(
    files: dict[str, Path],
    command: Callable[..., int],
    capsys: pytest.CaptureFixture[str],
    how: str,
    place: int,
) -> None:
    damage(files["b"], how)
    words = [files["a"], files["b"]] if place else [files["b"], files["a"]]
    assert command(*words) == ERROR
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1, captured.err
    assert str(files["b"]) in captured.err
    assert "Traceback" not in captured.err
    assert not captured.out


@pytest.mark.parametrize("error", [KernelprofError("no"), ValueError("a bug")])
def test_whatever_goes_wrong_is_no_slow_down(
    files: dict[str, Path],
    command: Callable[..., int],
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
) -> None:
    def fails(*_: object) -> None:
        raise error

    monkeypatch.setattr(cli_compare, "compare", fails)
    assert command(files["a"], files["b"]) == ERROR


def test_comparing_leaves_both_files_as_they_were(
    files: dict[str, Path], command: Callable[..., int]
) -> None:
    contents = {name: path.read_bytes() for name, path in files.items()}
    command(files["a"], files["b"])
    assert {name: path.read_bytes() for name, path in files.items()} == contents


def test_a_file_is_written_where_one_is_asked_for(
    files: dict[str, Path],
    command: Callable[..., int],
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    path = tmp_path / "comparison.md"
    assert command(files["a"], files["slow"], "--format", "md", "-o", path) == REGRESSED
    assert "**slower**" in path.read_text()
    assert not capsys.readouterr().out
    assert command(files["a"], files["b"], "-o", tmp_path / "no" / "folder") == ERROR
    assert command(files["a"], files["b"], "--format", "html") == ERROR
    assert "known: text, md, json, github" in " ".join(capsys.readouterr().err.split())


# Reports


def test_json_holds_every_number(compared: Compared) -> None:
    found = compared(USUAL, changed(USUAL, factors={"fc2": 1.5}))
    told = json.loads(COMPARISON_FORMATS["json"](found, False))
    assert told["exit_status"] == REGRESSED
    assert len(told["changes"]) == len(found.changes)
    (change,) = (one for one in told["changes"] if one["layer"] == "fc2")
    assert change["verdict"] == SLOWER
    assert change["ratio"]["low"] > 1
    assert change["ratio"]["value"] == of(found, "fc2").ratio.value
    assert all(math.isfinite(one["told_from"]) for one in told["changes"])


def test_text_and_markdown_show_the_changed_layer(compared: Compared) -> None:
    found = compared(USUAL, changed(USUAL, factors={"fc2": 1.5}))
    for format_ in ("text", "md"):
        lines = COMPARISON_FORMATS[format_](found, False).splitlines()
        (line,) = (one for one in lines if "fc2" in one)
        assert "slower" in line
        assert any("became slower" in one for one in lines)
        assert len(line) <= 100 or format_ == "md"


HOSTILE = "a::b%\n|<script>*_`@[x](y)"


def test_names_stay_text(compared: Compared) -> None:
    found = compared(USUAL, changed(USUAL, factors={"fc2": 1.5}))
    renamed = tuple(
        replace(one, network=HOSTILE, layer=one.layer and HOSTILE) for one in found.changes
    )
    hostile = replace(found, changes=renamed)
    markdown = COMPARISON_FORMATS["md"](hostile, True)
    assert "<script>" not in markdown
    rows = [line for line in markdown.splitlines() if line.startswith("|")]
    assert {line.replace("\\|", "").count("|") for line in rows} == {rows[0].count("|")}
    annotations = COMPARISON_FORMATS["github"](hostile, False).splitlines()
    assert all(line.startswith(("::error ", "::notice ", "::warning ")) for line in annotations)
    title, message = annotations[0].removeprefix("::error title=").split("::", 1)
    assert "a%3A%3Ab%25%0A|" in title
    assert "a::b%25%0A|" in message
    text = COMPARISON_FORMATS["text"](hostile, True).splitlines()
    assert not any(line.startswith("|<script>") for line in text)


def test_annotations_tell_of_each_slow_down_and_how_it_ended(compared: Compared) -> None:
    found = compared(USUAL, changed(USUAL, factors={"fc2": 1.5, "fc3": 0.5}))
    lines = COMPARISON_FORMATS["github"](found, False).splitlines()
    assert sum(line.startswith("::error ") for line in lines) == len(found.slower)
    assert any(line.startswith("::notice title=faster%3A made-up fc3::") for line in lines)
    other = {**MACHINE, "fingerprint": "x", "cpus": 8}
    none = compared(USUAL, changed(USUAL, machine=other))
    lines = COMPARISON_FORMATS["github"](none, False).splitlines()
    assert lines
    assert all(line.startswith("::warning ") for line in lines)
    assert any("cpus" in line for line in lines)


def test_many_layers_are_shown_where_that_is_asked_for(compared: Compared) -> None:
    before = replace(USUAL, network=perceptron("deep", width=128, depth=12))
    found = compared(before, changed(before, factors={"fc2": 1.5}))
    short, long = (COMPARISON_FORMATS["text"](found, every) for every in (False, True))
    assert "fc2" in short
    assert "relu7" not in short
    assert "relu7" in long


def test_a_case_is_named_with_all_that_tells_it_from_others(compared: Compared) -> None:
    change = compared(USUAL, changed(USUAL)).changes[0]
    assert case_name(change) == f"{NETWORK.name}, infer, batch 64, fake, 1 thread"
    gpu = replace(change, device="cuda:0")
    assert case_name(gpu) == f"{NETWORK.name}, infer, batch 64, fake, cuda:0, 1 thread"


def test_sentences_count_what_was_told(compared: Compared) -> None:
    found = compared(USUAL, changed(USUAL, factors={"fc2": 1.5}))
    words = " ".join(sentences(found))
    assert f"of {len(found.changes)} comparisons became slower" in words
    assert all(one.verdict != FASTER for one in found.changes) == ("Nothing became faster" in words)


def test_a_copy_of_a_file_is_the_same_run(
    files: dict[str, Path], command: Callable[..., int]
) -> None:
    copy = files["a"].with_name("copy.kprof")
    shutil.copy(files["a"], copy)
    assert command(files["a"], copy) == SAME_OR_FASTER
