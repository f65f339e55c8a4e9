"""Commands under nsys: what it is asked for, what goes wrong, and what arrives."""

from __future__ import annotations

import os
import signal
import sqlite3
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import psutil
import pytest

from kernelprof.engines import NVTX
from kernelprof.errors import KernelprofError
from kernelprof.nsys import tool
from kernelprof.nsys.captured import captured, why_missing
from kernelprof.nsys.record import Wider, profile, profile_words
from kernelprof.nsys.tool import Nsys
from kernelprof.probes.ranges import DOMAIN

BASE = Path("/folder/a")
EMIT = f"""
import sys, nvtx
for _ in range(7):
    with nvtx.annotate("network", domain={DOMAIN!r}), nvtx.annotate("layer", domain={DOMAIN!r}):
        pass
with nvtx.annotate("else"), nvtx.annotate("else", domain="other"):
    pass
"""
HELPFUL = "NVIDIA Nsight Systems version 2024.6.2.225-2x\n\t--cuda-graph-trace=\n"


def fake_nsys(path: Path, does: str, helps: str = HELPFUL) -> Path:
    """A program in nsys's place; ``does`` sees its words, ``$base``, and the command's after."""
    path.write_text(
        "#!/bin/sh\n"
        f"case $1$2 in --version*|*--help) printf '{helps}'; exit;; esac\n"
        "for word; do case $word in --output=*) base=${word#--output=};; esac; done\n"
        'while [ "${1%%=*}" != --session-new ]; do shift; done; shift\n' + does
    )
    path.chmod(0o755)
    return path


@pytest.fixture
def nsys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Puts a fake nsys where it is found."""

    def put(does: str) -> None:
        monkeypatch.setenv(tool.VARIABLE, str(fake_nsys(tmp_path / "fake-nsys", does)))

    return put


@pytest.fixture
def real() -> None:
    """The test is skipped by name where nsys is not installed."""
    if tool.find() is None:
        pytest.skip("nsys is not installed: `kernelprof nsys install`")


class TestWords:
    """What nsys is asked for."""

    def test_the_least_by_default(self) -> None:
        words = profile_words(None, BASE, Wider())
        assert words[:2] == ["nsys", "profile"]
        assert {"--trace=nvtx", "--sample=none", "--cpuctxsw=none"} <= set(words)
        assert {"--export=sqlite", "--output=/folder/a", "--wait=primary"} <= set(words)

    def test_all_of_it(self) -> None:
        words = profile_words(None, BASE, Wider(gpu=True, osrt=True, sampling=True))
        assert "--trace=nvtx,cuda,cudnn,cublas,osrt" in words
        assert {"--sample=process-tree", "--cuda-graph-trace=node"} <= set(words)
        assert "--python-sampling=true" in words
        assert "--cpuctxsw=none" not in words

    def test_only_what_this_nsys_knows(self, tmp_path: Path) -> None:
        old = Nsys(fake_nsys(tmp_path / "nsys", ""), "2024.6")
        words = profile_words(old, BASE, Wider(gpu=True, sampling=True))
        assert "--cuda-graph-trace=node" in words
        assert "--python-sampling=true" not in words
        assert words[0] == str(old.path)

    def test_a_name_is_no_pattern(self) -> None:
        assert "--output=/50%%p of it" in profile_words(None, Path("/50%p of it"), Wider())


@pytest.fixture
def heeding_ctrl_c() -> Iterator[None]:
    """A shell's background jobs ignore it, and so does whatever they start."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


class TestSessions:
    """The command's streams, status and signals."""

    def test_the_command_prints_here_and_nsys_does_not(
        self, nsys: Callable[..., None], tmp_path: Path, capfd: pytest.CaptureFixture[str]
    ) -> None:
        nsys('echo chatter; "$@" | sed s/^/lost:/; touch "$base.sqlite"; exit 3')
        script = "import sys; print('out'); print('err', file=sys.stderr)"
        recording = profile([sys.executable, "-c", script], tmp_path / "a")
        assert recording.status == 3
        assert recording.export == tmp_path / "a.sqlite"
        assert capfd.readouterr() == ("out\n", "err\n")

    def test_streams_that_nsys_closes_are_opened_anew(
        self, nsys: Callable[..., None], tmp_path: Path, capfd: pytest.CaptureFixture[str]
    ) -> None:
        close = "import os, sys; os.closerange(3, 1000); os.execvp(sys.argv[1], sys.argv[1:])"
        nsys(f'{sys.executable} -c "{close}" "$@"; touch "$base.sqlite"')
        profile(["sh", "-c", "echo out; echo err >&2"], tmp_path / "a")
        assert capfd.readouterr() == ("out\n", "err\n")

    def test_its_own_last_lines_are_told_when_it_fails(
        self, nsys: Callable[..., None], tmp_path: Path
    ) -> None:
        nsys(r"""printf '[1/2] [50%%] a.nsys-rep\r[1/2] [100%%]\nImporter is gone\n' >&2; "$@" """)
        with pytest.raises(KernelprofError) as failure:
            profile(["true"], tmp_path / "a")
        assert str(failure.value).endswith("wrote no export; it said:\nImporter is gone")

    def test_one_that_refuses(self, nsys: Callable[..., None], tmp_path: Path) -> None:
        nsys("echo unrecognised option; exit 1")
        (tmp_path / "a.sqlite").write_text("of an earlier run")
        with pytest.raises(KernelprofError, match=r"did not start the command; .*\nunrecognised"):
            profile(["true"], tmp_path / "a")

    def test_the_command_keeps_its_folder_of_temporary_files(
        self,
        nsys: Callable[..., None],
        tmp_path: Path,
        capfd: pytest.CaptureFixture[str],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """It is another one that nsys shares with workers in the Debian root."""
        monkeypatch.setenv("TMPDIR", str(tmp_path))
        nsys('echo "$TMPDIR" >"$base.sqlite"; "$@"')
        recording = profile(["sh", "-c", "echo $TMPDIR"], tmp_path / "a")
        assert capfd.readouterr().out == f"{tmp_path}\n"
        assert recording.export.read_text() == "/tmp\n"

    @pytest.mark.usefixtures("heeding_ctrl_c")
    def test_ctrl_c_ends_the_command_and_keeps_what_was_captured(
        self, nsys: Callable[..., None], tmp_path: Path, capfd: pytest.CaptureFixture[str]
    ) -> None:
        nsys('"$@"; status=$?; sleep 0.5; touch "$base.sqlite"; exit $status')
        began = tmp_path / "began"
        script = (
            "import sys, time, pathlib\n"
            f"try: pathlib.Path({str(began)!r}).touch(); time.sleep(60)\n"
            "except KeyboardInterrupt: print('stopped'); sys.exit(130)\n"
        )
        press_once(began)
        recording = profile([sys.executable, "-c", script], tmp_path / "a")
        assert recording.status == 130
        assert recording.export.exists()
        assert capfd.readouterr().out == "stopped\n"

    @pytest.mark.usefixtures("heeding_ctrl_c")
    def test_ctrl_c_after_the_command_ends_nsys(
        self, nsys: Callable[..., None], tmp_path: Path
    ) -> None:
        began = tmp_path / "began"
        nsys(f'"$@"; touch "{began}"; sleep 61.5')
        press_once(began)
        with pytest.raises(KeyboardInterrupt):
            profile(["true"], tmp_path / "a")
        lines = [process.info["cmdline"] for process in psutil.process_iter(["cmdline"])]
        assert ["sleep", "61.5"] not in lines


def press_once(began: Path) -> None:
    """Ask this process to stop as soon as a file is there."""

    def press() -> None:
        while not began.exists():
            time.sleep(0.02)
        time.sleep(0.2)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=press, daemon=True).start()


def export_without_ranges(path: Path) -> Path:
    """What nsys writes when nothing came."""
    with closing(sqlite3.connect(path)) as db, db:
        db.execute("CREATE TABLE META_DATA_EXPORT (name TEXT, value TEXT)")
        versions = {"EXPORT_PRODUCT_VERSION": "2024.6.2.225", "EXPORT_SCHEMA_VERSION": "3.16.1"}
        db.executemany("INSERT INTO META_DATA_EXPORT VALUES (?, ?)", versions.items())
        db.execute("CREATE TABLE StringIds (id INTEGER PRIMARY KEY, value TEXT)")
    return path


class TestArrived:
    """What of a run is in an export."""

    def test_nothing(self, tmp_path: Path) -> None:
        export = export_without_ranges(tmp_path / "a.sqlite")
        facts = {"pid": 7, "nvtx": "package 0.2.17", "nvtx_tool": "none"}
        arrived = captured(export, [("torch", facts), ("torch", {**facts, "pid": 8})])
        assert (arrived.ranges, arrived.product) == (0, "2024.6.2.225")
        assert arrived.missing == {"torch": why_missing(facts)}

    @pytest.mark.parametrize(
        ("facts", "why"),
        [
            ({"nvtx": "none", "nvtx_tool": "none"}, "NVTX_DISABLE"),
            ({"nvtx": "package 0.2.17", "nvtx_tool": "none"}, f"(package 0.2.17): pin {NVTX}"),
            ({"nvtx": "package 0.2.11", "nvtx_tool": "libTools.so"}, "nsys lost them"),
            ({}, "emits none"),
        ],
    )
    def test_why_not(self, facts: dict[str, str], why: str) -> None:
        assert why in why_missing(facts)

    def test_by_worker_under_the_real_nsys(self, real: None, tmp_path: Path) -> None:
        """Every range of the domain, the last ones too, and of no other."""
        script = f"{EMIT}\nimport os; open({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid()))"
        recording = profile([sys.executable, "-c", script], tmp_path / "50%p")
        assert recording.status == 0
        assert recording.report == tmp_path / "50%p.nsys-rep"
        assert recording.report.exists()
        pid = int((tmp_path / "pid").read_text())
        workers = [("numpy", {"pid": pid}), ("torch", {"pid": 1, "nvtx": "none"})]
        arrived = captured(recording.export, workers)
        assert arrived.ranges == 14
        assert arrived.by_engine == {"numpy": 14, "torch": 0}
        assert list(arrived.missing) == ["torch"]

    def test_statuses_under_the_real_nsys(self, real: None, tmp_path: Path) -> None:
        for script, status in (("exit 3", 3), ("kill -9 $$", 137)):
            assert profile(["sh", "-c", f"sleep 0.1; {script}"], tmp_path / "a").status == status
