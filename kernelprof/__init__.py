"""Where does the time of a network go on this machine, engine by engine, and why?"""

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kernelprof.errors import KernelprofError as KernelprofError
    from kernelprof.probes.network import Builder as Builder
    from kernelprof.probes.network import Network as Network
    from kernelprof.torch_module import profile as profile

__version__ = "0.1.0"

# ``probes`` and ``reports`` lie beside this folder in a checkout, inside it once installed.
_CHECKOUT = Path(__file__).resolve().parent.parent
if (_CHECKOUT / "pyproject.toml").is_file() and (_CHECKOUT / "probes" / "primitive.py").is_file():
    __path__.append(str(_CHECKOUT))

_PUBLIC = {
    "Builder": "kernelprof.probes.network",
    "KernelprofError": "kernelprof.errors",
    "Network": "kernelprof.probes.network",
    "profile": "kernelprof.torch_module",
}
__all__ = [*_PUBLIC]


def __getattr__(name: str) -> Any:
    """What is public comes when it is asked for, so that the command line starts at once."""
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_PUBLIC[name]), name)
