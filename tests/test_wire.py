"""Messages over real pipes, and a worker's loop that survives what is none."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from kernelprof.probes.engine import start
from kernelprof.probes.wire import Channel
from kernelprof.probes.worker import Worker


@pytest.fixture
def ends() -> Iterator[tuple[Channel, Channel]]:
    """Two channels that talk to each other."""
    there_read, there_write = os.pipe()
    back_read, back_write = os.pipe()
    here = Channel(os.fdopen(back_read, "rb"), os.fdopen(there_write, "wb"))
    there = Channel(os.fdopen(there_read, "rb"), os.fdopen(back_write, "wb"))
    yield here, there
    for channel in (here, there):
        channel.close()


Ends = tuple[Channel, Channel]


def test_round_trip(ends: Ends) -> None:
    here, there = ends
    messages = [
        {},
        {
            "do": "facts",
            "text": "a\nb \u00fc \u2713",
            "list": [1, 2.5, None, True],
            "deep": {"a": {}},
        },
        {"ns": 2**63, "small": 5e-324},
    ]
    for message in messages:
        here.send(message)
    assert [there.receive() for _ in messages] == messages
    there.send({"ok": {}})
    assert here.receive() == {"ok": {}}


def test_closed_pipe_ends_the_talk(ends: Ends) -> None:
    here, there = ends
    here.send({"last": 1})
    here.outgoing.close()
    assert there.receive() == {"last": 1}
    assert there.receive() is None


def test_half_a_line_is_no_message(ends: Ends) -> None:
    """The other side died while it wrote."""
    here, there = ends
    here.outgoing.write(b'{"ok": {}}')
    here.outgoing.close()
    assert there.receive() is None


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf")])
def test_what_json_lacks_is_refused(ends: Ends, number: float) -> None:
    here, _ = ends
    with pytest.raises(ValueError, match="JSON"):
        here.send({"seconds": number})


@pytest.mark.parametrize("line", [b"[1]\n", b"7\n", b"null\n", b'"ok"\n', b"\n", b"{nonsense}\n"])
def test_what_is_no_object_is_refused(ends: Ends, line: bytes) -> None:
    here, there = ends
    here.outgoing.write(line)
    here.outgoing.flush()
    with pytest.raises(ValueError, match=r"JSON|Expecting"):
        there.receive()


def test_send_to_nobody_is_an_os_error(ends: Ends) -> None:
    here, there = ends
    there.incoming.close()
    with pytest.raises(BrokenPipeError):
        here.send({"do": "facts"})
    with pytest.raises(BrokenPipeError):  # what was not sent is still in the buffer
        here.outgoing.close()


def test_worker_answers_nonsense_and_lives_on(ends: Ends) -> None:
    here, there = ends
    here.outgoing.write(b"{nonsense}\n[]\n{}\n")
    here.send({"do": "drop"})
    here.outgoing.close()
    Worker(start("numpy")).serve(there)
    answers = [here.receive() for _ in range(4)]
    assert [answer and "failure" in answer for answer in answers] == [True, True, True, False]
    assert answers[3] == {"ok": {}}
