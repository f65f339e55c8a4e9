"""What nsys starts: ``target.py FILE RECORDER OUT ERR COMMAND...`` becomes the command.

First it says in FILE which process it is, and gives the command the streams of the one who
records: nsys would put a pipe in their place, and its own messages between.  OUT and ERR are open
files of the process RECORDER, which are handed down; where nsys closed them they are opened anew.
"""

from __future__ import annotations

import os
import sys
from contextlib import suppress


def main() -> None:
    """Become the command."""
    file, recorder, *streams = sys.argv[1:5]
    with open(f"{file}.new", "w") as told:
        told.write(str(os.getpid()))
    os.rename(f"{file}.new", file)
    for own, stream in enumerate(map(int, streams), start=1):
        with suppress(OSError):  # then nsys keeps what the command says
            _take(own, stream, recorder)
    os.execvp(sys.argv[5], sys.argv[5:])


def _take(own: int, stream: int, recorder: str) -> None:
    try:
        os.dup2(stream, own)
        os.close(stream)
    except OSError:
        again = os.open(f"/proc/{recorder}/fd/{stream}", os.O_WRONLY | os.O_APPEND)
        os.dup2(again, own)
        os.close(again)


if __name__ == "__main__":
    main()
