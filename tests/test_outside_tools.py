"""Running tools that look from outside: what they say, and what stops them in one line."""

from __future__ import annotations

import os

import pytest

from kernelprof.diagnosis.outside_tools import run_tool
from kernelprof.errors import KernelprofError


def test_a_tool_says_what_it_found_in_english() -> None:
    assert run_tool("sh", ["sh", "-c", "echo $LC_ALL >&2"], 10) == "C\n"


def test_a_tool_may_write_to_an_open_file() -> None:
    read, write = os.pipe()
    try:
        run_tool("sh", ["sh", "-c", f"echo found >/dev/fd/{write}"], 10, [write])
        assert os.read(read, 100) == b"found\n"
    finally:
        os.close(read)
        os.close(write)


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ("Access is limited.\\nMore words", "Access is limited."),
        ("Error:\\nAccess is limited.\\nMore words", "Access is limited."),
        ("[WARN] slow\\nError: Permission denied\\nReason: no", "Permission denied"),
        ("", "status 3"),
        ("Error:", "status 3"),
    ],
)
def test_a_tool_that_fails_is_told_in_one_line(said: str, reason: str) -> None:
    with pytest.raises(KernelprofError) as refused:
        run_tool("tool", ["sh", "-c", f"printf '{said}' >&2; exit 3"], 10)
    assert str(refused.value) == f"tool: {reason}"


def test_a_tool_that_is_not_there() -> None:
    with pytest.raises(KernelprofError, match=r"^no-such-tool cannot be run: No such file"):
        run_tool("tool", ["no-such-tool"], 10)


def test_a_tool_that_does_not_end() -> None:
    with pytest.raises(KernelprofError, match=r"^tool did not end within 0 s$"):
        run_tool("tool", ["sleep", "60"], 0.1)
