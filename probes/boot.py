"""Start a worker: ``PYTHON -I -B boot.py ADAPTER REQUESTS_FD ANSWERS_FD``.

Run by path under any interpreter: it loads its own folder as a package, so that nothing of the
host's environment is needed and no file here can shadow an engine.
"""

from __future__ import annotations

import ctypes
import importlib
import importlib.util
import os
import signal
import sys

PACKAGE = "kernelprof_probes"
PR_SET_PDEATHSIG = 1


def main() -> None:
    """Load the package, start the engine, answer requests."""
    adapter, requests, answers = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    _die_with_parent()
    folder = os.path.dirname(os.path.abspath(__file__))
    spec = importlib.util.spec_from_file_location(
        PACKAGE, os.path.join(folder, "__init__.py"), submodule_search_locations=[folder]
    )
    assert spec is not None
    assert spec.loader is not None
    package = importlib.util.module_from_spec(spec)
    sys.modules[PACKAGE] = package
    spec.loader.exec_module(package)
    wire = importlib.import_module(f"{PACKAGE}.wire")
    channel = wire.Channel(os.fdopen(requests, "rb"), os.fdopen(answers, "wb"))
    try:
        engine = importlib.import_module(f"{PACKAGE}.engine").start(adapter)
        worker = importlib.import_module(f"{PACKAGE}.worker").Worker(engine)
    except ImportError as error:
        channel.send({"failure": {"kind": "no_engine", "reason": str(error)}})
        return
    channel.send({"ok": {}})
    worker.serve(channel)


def _die_with_parent() -> None:
    """A worker must not outlive a host that was killed."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


if __name__ == "__main__":
    main()
