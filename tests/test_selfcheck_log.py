"""The log of a selfcheck: all that is printed, and never too much of it."""

from __future__ import annotations

import io

import pytest

from kernelprof.console import err, out
from kernelprof.selfcheck.log import CUT, Tee, logged


def test_what_is_printed_is_written_down_too(tmp_path, capsys):
    path = tmp_path / "a.log"
    with logged(path):
        out.print("a table")
        err.print("a warning")
    out.print("later")
    assert path.read_text() == "a table\na warning\n"
    assert capsys.readouterr() == ("a table\nlater\n", "a warning\n")


def test_an_error_ends_the_log(tmp_path, capsys):
    with pytest.raises(KeyError), logged(tmp_path / "a.log"):
        raise KeyError
    out.print("later")
    assert (tmp_path / "a.log").read_text() == ""


@pytest.mark.parametrize("letter", ["a", "é"])
def test_the_log_ends_before_it_is_too_large(tmp_path, letter):
    stream, path = io.StringIO(), tmp_path / "a.log"
    most = len(CUT) + 101
    with path.open("w", encoding="utf-8") as log:
        tee = Tee(stream, log, most)
        for _ in range(30):
            tee.write(10 * letter)
    assert stream.getvalue() == 300 * letter
    written = path.read_bytes()
    assert len(written) <= most
    assert written.decode().count(CUT) == 1
    assert written.decode().startswith(50 * letter)
