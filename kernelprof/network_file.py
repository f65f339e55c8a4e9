"""A network file: Python of the user's own, run as such, whose ``network()`` builds a network.

::

    from kernelprof import Builder, Network


    def network():
        net = Builder()
        x = net.relu("relu1", net.fully_connected("fc1", net.input(784), 100))
        net.softmax_loss(net.fully_connected("fc2", x, 10))
        return Network("small", "my own", tuple(net.layers), batch=64, quick_batch=16)
"""

from __future__ import annotations

import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

from kernelprof.errors import UsageError
from kernelprof.probes.network import Builder, Network, NetworkError

FUNCTION = "network"
LAYERS = ", ".join(
    name for name, value in vars(Builder).items() if callable(value) and not name.startswith("_")
)


def read_network_file(path: Path) -> Network:
    """The network that a file builds.

    What the file prints goes to stderr, so that it does not mix with what is asked for.

    Raises:
        UsageError: the file cannot be read or run, or builds no network; the message names the
            line, and the layer where it is to blame.
    """
    try:
        source = path.read_bytes()
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}; name a file that can be read") from error
    with _beside(path), redirect_stdout(sys.stderr):
        try:
            names: dict[str, Any] = {"__name__": path.stem, "__file__": str(path)}
            exec(compile(source, str(path), "exec"), names)
            if not callable(names.get(FUNCTION)):
                raise UsageError(
                    f"{path}: it defines no function `{FUNCTION}()` that returns a "
                    "kernelprof.Network"
                )
            built = names[FUNCTION]()
        except UsageError:
            raise
        except (Exception, SystemExit) as error:
            raise UsageError(f"{path}{_line(error, path)}: {_reason(error)}") from error
    if not isinstance(built, Network):
        raise UsageError(
            f"{path}: {FUNCTION}() returned {type(built).__name__}, not a kernelprof.Network"
        )
    return built


@contextmanager
def _beside(path: Path) -> Iterator[None]:
    """Let the file import what lies beside it, as a script may."""
    folder = str(path.resolve().parent)
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        sys.path.remove(folder)


def _line(error: BaseException, path: Path) -> str:
    """The last line of the user's file that led to an error."""
    if isinstance(error, SyntaxError) and error.filename == str(path):
        return f", line {error.lineno}"
    lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename == str(path)]
    return f", line {lines[-1]}" if lines else ""


def _reason(error: BaseException) -> str:
    """What went wrong, on one line."""
    if isinstance(error, NetworkError):
        return str(error)
    if isinstance(error, AttributeError) and isinstance(error.obj, Builder):
        return f"unknown layer {error.name!r}; known: {LAYERS}"
    said = error.msg if isinstance(error, SyntaxError) else error
    return f"{type(error).__name__}: {' '.join(str(said).split()) or 'without a word'}"
