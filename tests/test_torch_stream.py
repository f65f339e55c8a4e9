"""Torch's stream and its recordings, on a model of what torch and CUDA do about them."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from kernelprof.probes.device import EVENTS
from kernelprof.probes.engine import Unsupported

MODULE = "kernelprof.probes.torch_stream"


class Card:
    """What torch keeps of recordings: CUDAGraph.cpp, CUDACachingAllocator.cpp, CUDAGeneratorImpl.

    A recording that failed is not ended for the allocator, and the generator of random numbers
    goes on as if it were recorded.
    """

    def __init__(self) -> None:
        self.now_ms = 0.0
        self.done: list[str] = []
        self.recording: list[str] | None = None
        self.broken = False
        self.random_recorded = False
        self.underway: set[int] = set()
        self.users: dict[int, int] = {}  # of pools
        self.pools = 0

    def launch(self, name: str) -> None:
        (self.done if self.recording is None else self.recording).append(name)
        self.now_ms += 0.25

    def draw(self) -> None:
        if self.random_recorded != (self.recording is not None):
            raise RuntimeError("Offset increment outside graph capture encountered unexpectedly.")
        self.launch("random")

    def synchronize(self) -> None:
        if self.recording is not None:
            self.broken = True
            raise RuntimeError("operation not permitted when stream is capturing\nmore of it")

    def new_pool(self) -> int:
        self.pools += 1
        return self.pools

    def end_allocate(self, device: int, pool: int) -> None:
        if pool not in self.underway:
            raise RuntimeError("endAllocatePool: not currently recording to mempool_id")
        self.underway.remove(pool)


class Graph:
    """A torch.cuda.CUDAGraph."""

    def __init__(self, card: Card) -> None:
        self.card = card
        self.kernels: list[str] | None = None
        self.pool = 0

    def capture_begin(self, pool: int, capture_error_mode: str) -> None:
        card = self.card
        assert card.recording is None
        assert card.users.get(pool) != 0, "a pool that nobody uses any more"
        assert pool not in card.underway, "already recording to mempool_id"
        card.users[pool] = card.users.get(pool, 0) + 1
        card.underway.add(pool)
        card.recording, card.random_recorded, self.pool = [], True, pool

    def capture_end(self) -> None:
        card = self.card
        recorded, card.recording = card.recording, None
        if card.broken:
            card.broken = False
            raise RuntimeError("operation failed due to a previous error during capture")
        card.end_allocate(0, self.pool)
        card.random_recorded = False
        self.kernels = recorded

    def replay(self) -> None:
        assert self.kernels is not None
        self.card.done += self.kernels

    def __del__(self) -> None:
        if self.kernels is not None:
            self.card.users[self.pool] -= 1


class Event:
    """A torch.cuda.Event."""

    def __init__(self, card: Card) -> None:
        self.card = card
        self.at_ms = -1.0

    def record(self, stream: Any) -> None:
        self.at_ms = self.card.now_ms

    def elapsed_time(self, later: Event) -> float:
        return later.at_ms - self.at_ms


class Number:
    """A tensor of one element."""

    def __init__(self, card: Card) -> None:
        self.card = card

    def add_(self, other: float) -> None:
        self.card.launch("least")


def torch_on(card: Card) -> ModuleType:
    """As much of torch as a stream needs."""
    torch: Any = ModuleType("torch")
    stream = SimpleNamespace(synchronize=card.synchronize, device_index=0)
    torch.cuda = SimpleNamespace(
        Stream=lambda device: stream,
        set_stream=lambda stream: None,
        Event=lambda enable_timing: Event(card),
        CUDAGraph=lambda: Graph(card),
        graph_pool_handle=card.new_pool,
    )
    torch._C = SimpleNamespace(_cuda_endAllocateToPool=card.end_allocate)
    torch.zeros = lambda size, device: Number(card)
    torch.inference_mode = lambda on: nullcontext()
    torch.no_grad = nullcontext
    return torch  # type: ignore[no-any-return]


@pytest.fixture
def card() -> Card:
    return Card()


@pytest.fixture
def stream(card: Card, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.setitem(sys.modules, "torch", torch_on(card))
    monkeypatch.delitem(sys.modules, MODULE, raising=False)
    yield importlib.import_module(MODULE).TorchStream("cuda:0")
    sys.modules.pop(MODULE, None)


def launching(card: Card, *names: str) -> Callable[[], None]:
    def call() -> None:
        for name in names:
            card.launch(name)

    return call


def test_marks_are_nanoseconds_apart(card: Card, stream: Any) -> None:
    first = stream.mark()
    launching(card, "a", "b", "c")()
    assert stream.clock == EVENTS
    assert stream.elapsed_ns(first, stream.mark()) == 750_000


def test_a_replay_is_so_many_calls(card: Card, stream: Any) -> None:
    replay = stream.graph(launching(card, "a", "b"), 3)
    assert card.done == ["a", "b"], "one call that is not recorded goes before"
    card.done.clear()
    replay()
    replay()
    assert card.done == ["a", "b"] * 6


def test_random_numbers_can_be_recorded(card: Card, stream: Any) -> None:
    stream.graph(card.draw, 2)()
    card.draw()
    assert card.done == ["random"] * 4


def test_recordings_go_on_when_all_are_gone(card: Card, stream: Any) -> None:
    for _ in range(3):
        replay = stream.graph(launching(card, "a"), 1)
        replay()
        del replay
    assert len(card.users) == 1, "they share a pool"


def waiting(card: Card) -> Callable[[], None]:
    """A call that waits for the GPU, which no recording allows."""

    def call() -> None:
        card.launch("a")
        card.synchronize()

    return call


def test_what_cannot_be_recorded_is_unsupported_in_one_line(card: Card, stream: Any) -> None:
    with pytest.raises(Unsupported, match="cannot record it: operation not permitted") as refused:
        stream.graph(waiting(card), 2)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("times", [1, 3])
def test_the_stream_works_on_after_a_recording_that_failed(
    card: Card, stream: Any, times: int
) -> None:
    """Its allocator, its random numbers, and the next recordings."""
    earlier = stream.graph(launching(card, "earlier"), 1)
    for _ in range(times):
        with pytest.raises(Unsupported):
            stream.graph(waiting(card), 2)
    assert card.underway == set()
    card.draw()
    card.done.clear()
    stream.graph(launching(card, "b"), 2)()
    earlier()
    assert card.done == ["b", "b", "b", "earlier"]


def test_another_error_is_not_hidden(card: Card, stream: Any) -> None:
    """And leaves the stream usable, as the recording is ended."""
    calls = iter([True, False])

    def call() -> None:
        if not next(calls):
            raise KeyError("x")

    with pytest.raises(KeyError):
        stream.graph(call, 1)
    stream.graph(card.draw, 1)()
    card.draw()
