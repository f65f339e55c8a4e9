"""A worker's life: start the engine, say so, and answer requests until the host is gone."""

from __future__ import annotations

import os

from .denormals import flush_if_asked
from .device import NoDeviceError
from .wire import Channel


def serve(adapter: str, device: str, requests: int, answers: int) -> None:
    """Serve the host at the other ends of two pipes, with an engine on a device."""
    channel = Channel(os.fdopen(requests, "rb"), os.fdopen(answers, "wb"))
    try:
        flush_if_asked()  # first of all: the engine's threads inherit it
        from .engine import start  # imported here: NumPy may be missing, and the host is told so
        from .worker import Worker

        worker = Worker(start(adapter, device))
    except ImportError as error:
        channel.send({"failure": {"kind": "no_engine", "reason": str(error)}})
        return
    except NoDeviceError as error:
        channel.send({"failure": {"kind": "no_device", "reason": str(error)}})
        return
    except ValueError as error:  # a variable asks for what is not there
        channel.send({"failure": {"kind": "unsupported", "reason": str(error)}})
        return
    channel.send({"ok": {}})
    worker.serve(channel)
