"""A log of what is printed, that cannot fill a disk."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import IO

MOST_BYTES = 60 * 10**6
CUT = "\nthe log ends here: it has its most bytes\n"


class Tee(io.TextIOBase):
    """A stream that also writes down what goes through it, up to so many bytes in all."""

    def __init__(self, stream: IO[str], log: IO[str], most_bytes: int = MOST_BYTES) -> None:
        self.stream = stream
        self.log = log
        self.most_bytes = most_bytes

    def write(self, text: str) -> int:
        """Pass the text on; what the log has no room for is not written down."""
        room = self.most_bytes - len(CUT) - self.log.tell()
        if room > 0:
            fits = text.encode()[:room].decode(errors="ignore")
            self.log.write(fits if fits == text else fits + CUT)
        return self.stream.write(text)

    def flush(self) -> None:
        self.stream.flush()
        self.log.flush()

    def isatty(self) -> bool:
        return self.stream.isatty()

    def fileno(self) -> int:
        return self.stream.fileno()


@contextmanager
def logged(path: Path) -> Iterator[None]:
    """Write down what is printed meanwhile."""
    with (
        path.open("w", encoding="utf-8") as log,
        redirect_stdout(Tee(sys.stdout, log)),
        redirect_stderr(Tee(sys.stderr, log)),
    ):
        yield
