"""Messages between the host and a worker: one strict JSON object a line, on pipes of their own."""

from __future__ import annotations

import json
from typing import Any, BinaryIO

Message = dict[str, Any]


class Channel:
    """Two ends of pipes: messages are read from one and written to the other."""

    def __init__(self, incoming: BinaryIO, outgoing: BinaryIO) -> None:
        self.incoming = incoming
        self.outgoing = outgoing

    def send(self, message: Message) -> None:
        """Write a message.

        Raises:
            ValueError: it holds a NaN or an infinity.
            OSError: the other side is gone.
        """
        line = json.dumps(message, allow_nan=False, separators=(",", ":"))
        self.outgoing.write(line.encode() + b"\n")
        self.outgoing.flush()

    def receive(self) -> Message | None:
        """The next message, or None once the other side has closed.

        Raises:
            ValueError: what came is not a message.
        """
        line = self.incoming.readline()
        if not line.endswith(b"\n"):
            return None
        message = json.loads(line)
        if not isinstance(message, dict):
            raise ValueError(f"expected a JSON object, got {line[:80]!r}")
        return message

    def close(self) -> None:
        """Close both ends."""
        self.incoming.close()
        self.outgoing.close()
