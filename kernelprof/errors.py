"""What a user can do something about: printed as a sentence, never as a traceback."""

from __future__ import annotations


class KernelprofError(Exception):
    """Something that the user asked for cannot be done; the message says what to do next."""


class UsageError(KernelprofError):
    """A request that makes no sense on this machine or at all; exit status 2."""


class WorkerError(KernelprofError):
    """A worker crashed, hung or refused; becomes a failure of its case."""

    def __init__(self, kind: str, reason: str) -> None:
        super().__init__(reason)
        self.kind = kind
        self.reason = reason
