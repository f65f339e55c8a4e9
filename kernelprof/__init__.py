"""Where does the time of a network go on this machine, engine by engine, and why?"""

from pathlib import Path

__version__ = "0.1.0"

# ``probes`` and ``reports`` lie beside this folder in a checkout, inside it once installed.
_CHECKOUT = Path(__file__).resolve().parent.parent
if (_CHECKOUT / "pyproject.toml").is_file() and (_CHECKOUT / "probes" / "primitive.py").is_file():
    __path__.append(str(_CHECKOUT))
