"""Where torch's work queues up on a GPU: one stream beside the default one, for all of a worker.

Calls can be recorded as a CUDA graph on such a stream alone.  The nodes of autograd run where the
operators ran that made them, so everything is in one queue.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any, Callable

import torch

from .device import Stream
from .engine import Unsupported

NS_PER_MS = 1e6
# Backward passes run on a thread of autograd: only this thread is held to what a capture allows.
CAPTURE = "thread_local"


class TorchStream(Stream):
    """The current stream from now on, of this thread and so of the worker."""

    def __init__(self, device: Any) -> None:
        self.stream = torch.cuda.Stream(device)
        torch.cuda.set_stream(self.stream)
        self._number = torch.zeros(1, device=device)
        self._pool: Any = None
        self._kept: list[Any] = []  # graphs that hold a pool, and those whose recording failed

    def mark(self) -> Any:
        event = torch.cuda.Event(enable_timing=True)
        event.record(self.stream)
        return event

    def elapsed_ns(self, first: Any, last: Any) -> int:
        between_ms: float = first.elapsed_time(last)
        return round(between_ms * NS_PER_MS)

    def finish(self) -> None:
        self.stream.synchronize()

    def graph(self, call: Callable[[], Any], calls: int) -> Callable[[], object]:
        """All graphs share a pool of memory, for they run one by one, and nobody reads results.

        The stream is as usable after a recording that failed as before.
        """
        call()  # what libraries set up at the first one cannot be recorded
        self.finish()
        if self._pool is None:
            self._begin_pool()
        graph = torch.cuda.CUDAGraph()
        try:
            self._record(graph, call, calls)
        except RuntimeError as error:  # of CUDA, also where memory is short
            self._give_up(graph)
            raise Unsupported(f"CUDA cannot record it: {str(error).splitlines()[0]}") from error
        replay: Callable[[], object] = graph.replay
        return replay

    def _record(self, graph: Any, call: Callable[[], Any], calls: int) -> None:
        graph.capture_begin(pool=self._pool, capture_error_mode=CAPTURE)
        try:
            for _ in range(calls):
                call()
        except BaseException:
            with suppress(RuntimeError):  # which says no more than that something went wrong
                graph.capture_end()
            raise
        graph.capture_end()

    def _begin_pool(self) -> None:
        """A pool that one graph keeps: without any it could take no other one in.

        The state of random numbers that a first recording makes is for all others, so it must be
        one that changes outside of ``inference_mode`` too.
        """
        self._pool = torch.cuda.graph_pool_handle()
        first = torch.cuda.CUDAGraph()
        with torch.inference_mode(False), torch.no_grad():
            self._record(first, lambda: self._number.add_(1.0), 1)
        self._kept.append(first)

    def _give_up(self, graph: Any) -> None:
        """Clear up after a recording that failed.

        For torch it still goes on: the allocator would ask the graph, which must live on for
        that, about each block, and random numbers would come from the recording.  Another
        recording, in a pool of its own, puts that right.
        """
        self._kept.append(graph)
        with suppress(RuntimeError):  # if it has ended there
            torch._C._cuda_endAllocateToPool(self.stream.device_index, self._pool)
        self.finish()
        self._begin_pool()
