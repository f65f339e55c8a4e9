"""An engine as it works on a GPU, on the CPU instead: calls queue up there too, if nobody waits.

An adapter given by path, so it is loaded into the package of the probes and imports from there.
``QUEUED_ENGINE`` names the engine.
"""

from __future__ import annotations

import importlib
import os
from typing import Any

from .device import CPU
from .engine import ADAPTERS, Engine

# What the adapters ask of a card that is there, and what it would answer.
OF_CARDS = {
    "jax": {"gpu": None},
    "tensorflow": {"set_up_gpu": "card", "require_gpu": None, "gpu_facts": {}},
    "mxnet": {"use_gpu": None, "gpu_facts": {}},
}


def start(device: str = CPU) -> Engine:
    """The engine in this process, which takes the CPU for a GPU."""
    name = os.environ["QUEUED_ENGINE"]
    adapter: Any = importlib.import_module(f".{ADAPTERS[name]}", __package__)
    for question, answer in OF_CARDS[name].items():
        setattr(adapter, question, lambda *asked, answer=answer: answer)
    engine: Engine = adapter.start("cuda:0")
    return engine
