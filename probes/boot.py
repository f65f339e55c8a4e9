"""Start a worker: ``PYTHON -I -B boot.py ADAPTER DEVICE REQUESTS_FD ANSWERS_FD``.

Run by path under any interpreter: it loads its own folder as a package, so that nothing of the
host's environment is needed and no file here can shadow an engine.
"""

from __future__ import annotations

import ctypes
import importlib
import os
import signal
import sys
import types

PACKAGE = "kernelprof_probes"
PR_SET_PDEATHSIG = 1


def main() -> None:
    """Load the package and let it serve."""
    adapter, device, requests, answers = sys.argv[1:5]
    _die_with_parent()
    folder = os.path.dirname(os.path.abspath(__file__))
    sys.path[:] = [path for path in sys.path if path != folder]  # there without -I (Python 2.7)
    package = types.ModuleType(PACKAGE)
    package.__path__ = [folder]
    sys.modules[PACKAGE] = package
    importlib.import_module(PACKAGE + ".session").serve(
        adapter, device, int(requests), int(answers)
    )


def _die_with_parent() -> None:
    """A worker must not outlive a host that was killed."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


if __name__ == "__main__":
    main()
