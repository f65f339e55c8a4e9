"""Where CuPy's work queues up on a GPU: one stream beside the default one, for all of a worker.

Only on such a stream calls can be recorded as a CUDA graph.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any, Callable

import cupy

from .device import Stream
from .engine import Unsupported

NS_PER_MS = 1e6
UNRECORDED = 2  # calls before a recording: the second one's results take the place of the first's


class CupyStream(Stream):
    """A stream that is current from the start of the worker to its end."""

    def __init__(self, stream: Any, cuda: Any = cupy.cuda) -> None:
        self.stream = stream
        self.cuda = cuda
        self.pool = cuda.MemoryPool()

    def mark(self) -> Any:
        event = self.cuda.Event()
        event.record(self.stream)
        return event

    def elapsed_ns(self, first: Any, last: Any) -> int:
        elapsed_ms: float = self.cuda.get_elapsed_time(first, last)
        return round(elapsed_ms * NS_PER_MS)

    def finish(self) -> None:
        self.stream.synchronize()

    def graph(self, call: Callable[[], Any], calls: int) -> Callable[[], object]:
        """All graphs write to memory that nobody else takes, for it would be written to again.

        They share it: they run one by one, and nobody reads what they leave.  The stream is as
        usable after a recording that failed as before.
        """
        try:
            with self.cuda.using_allocator(self.pool.malloc):
                _repeat(call, UNRECORDED)  # memory that is there need not be asked for meanwhile
                self.finish()
                graph = self._recorded(call, calls)
        except (RuntimeError, MemoryError) as error:
            self.finish()
            reason = str(error).strip().partition("\n")[0]
            raise Unsupported(f"CUDA cannot record it: {reason}") from error
        return lambda: graph.launch(self.stream)

    def _recorded(self, call: Callable[[], Any], calls: int) -> Any:
        self.stream.begin_capture()
        try:
            _repeat(call, calls)
        except BaseException:
            with suppress(RuntimeError):  # which says no more than that something went wrong
                self.stream.end_capture()
            raise
        return self.stream.end_capture()


def _repeat(call: Callable[[], Any], calls: int) -> None:
    """Call it, as a block does: a result is dropped when the next one is there."""
    held: Any = None
    for _ in range(calls):
        held = call()
    del held
