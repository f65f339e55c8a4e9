"""A worker's life: start the engine, say so, and answer requests until the host is gone."""

from __future__ import annotations

import os

from .wire import Channel


def serve(adapter: str, requests: int, answers: int) -> None:
    """Serve the host at the other ends of two pipes."""
    channel = Channel(os.fdopen(requests, "rb"), os.fdopen(answers, "wb"))
    try:
        from .engine import start  # imported here: NumPy may be missing, and the host is told so
        from .worker import Worker

        worker = Worker(start(adapter))
    except ImportError as error:
        channel.send({"failure": {"kind": "no_engine", "reason": str(error)}})
        return
    channel.send({"ok": {}})
    worker.serve(channel)
