"""The worker: one engine in one process, answering requests until the host closes the pipe.

A request is ``{"do": VERB, ...}``.  An answer is ``{"ok": ...}``, or ``{"failure": {"kind",
"reason"}}`` when the engine could not do what was asked; the worker lives on after either.
"""

from __future__ import annotations

import gc
import os
import platform
import sys
import time
import traceback
from typing import Callable

import numpy as np

from . import gpu_ceilings
from .circumstances import Watch
from .clock import clock_facts
from .clock_comparison import compare_clocks
from .data import NetworkData
from .decompose import Kernel
from .engine import Engine
from .failure import DeviceLostError, failure_of
from .gpu_subject import GpuSubject
from .network import Network
from .observer import Observer, page_fault_ns
from .placement import pin_busiest, return_memory, run_ns, thread_cpus, unpin, wait_until_idle
from .primitive import WARM
from .primitives import primitive_from_json
from .process_facts import process_facts
from .ranges import Ranges
from .rotation import Rotation
from .selfcheck import kernel_error, network_errors, update_errors
from .subject import Subject
from .wire import Channel, Message


class Worker:
    """Holds the engine, and the subjects that are being measured."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.cpus = tuple(sorted(os.sched_getaffinity(0)))
        self.clock = clock_facts()
        self.ranges = Ranges()
        self.watch = Watch(self.cpus)
        self.computing: tuple[int, ...] = ()  # threads that have a CPU of their own
        self.subjects: dict[str, Subject] = {}
        self.observer: Observer | None = None
        self.verbs: dict[str, Callable[..., Message]] = {
            "facts": self.facts,
            "build": self.build,
            "turn": self.turn,
            "drop": self.drop,
            "check_kernel": self.check_kernel,
            "check_network": self.check_network,
            "check_update": self.check_update,
            "observe": self.observe,
            "profile": self.profile,
            "repeat": self.repeat,
            "ceilings": self.ceilings,
            "compare_clocks": self.compare_clocks,
        }

    def serve(self, channel: Channel) -> None:
        """Answer requests until the host is gone."""
        while True:
            try:
                request = channel.receive()
            except ValueError as error:
                channel.send({"failure": failure_of(error)})
                continue
            if request is None:
                return
            try:
                answer = self.answer(request)
            except DeviceLostError as error:  # an engine that is shut down then may hang
                channel.send({"failure": {"kind": "crash", "reason": str(error)}})
                os._exit(1)
            channel.send(answer)

    def answer(self, request: Message) -> Message:
        """Do what a request asks; what the engine cannot do becomes a failure.

        Raises:
            DeviceLostError: this worker has to end.
        """
        try:
            verb = self.verbs[request.pop("do")]
            return {"ok": verb(**request)}
        except Exception as error:  # whatever an engine raises must reach the host
            traceback.print_exc(file=sys.stderr)
            return {"failure": failure_of(error)}

    def facts(self) -> Message:
        """What this worker is and where it runs."""
        own = self.engine.facts()
        return {
            **own,
            **process_facts(),
            **own,  # of what both tell, the engine knows more
            "python": platform.python_version(),
            "numpy": np.__version__,
            "pid": os.getpid(),
            "threads": self.engine.threads(),
            "fusion": self.engine.fusion.to_json(),
            "thread_cpus": {str(tid): list(cpus) for tid, cpus in thread_cpus().items()},
            "clock_resolution_ns": self.clock.resolution_ns,
            "clock_block_ns": self.clock.block_ns,
            "clock_loop_ns": self.clock.loop_ns,
            **self.ranges.facts(),
            **({} if self.engine.stream is None else {"gpu_clock": self.engine.stream.clock}),
        }

    def build(
        self,
        network: Message,
        batch: int,
        subjects: dict[str, Message],
        seed: int,
        warm_up_s: float,
        cache: str = WARM,
        together_bytes: int = 0,
    ) -> Message:
        """Build subjects of one network, by name; they share the data of its layers.

        Each subject is ``{"mode", "whole"}``; without ``whole`` only its kernels are built.
        ``cache`` and ``together_bytes`` are those of ``Rotation``.
        """
        unpin(self.cpus)
        kind = Subject if self.engine.stream is None else GpuSubject
        shared = self.engine, self.clock, self.ranges, self.watch
        rotation = Rotation(cache, together_bytes)
        data = NetworkData(Network.from_json(network), batch, seed)
        answers = {}
        for name, asked in subjects.items():
            try:
                subject = kind(*shared, data, rotation, **asked)
                wait_until_idle()  # the oracle's threads spin on, and are not the engine's
                ran = run_ns()
                subject.warm_up(int(warm_up_s * 1e9))
                self.computing = self._pinned(ran)
                self.subjects[name] = subject
                answers[name] = subject.describe()
            except Exception as error:  # one subject's fault is not another's
                traceback.print_exc(file=sys.stderr)
                answers[name] = {"failure": failure_of(error)}
        wait_until_idle()
        gc.collect()
        gc.freeze()  # what lives now stays; collections between samples need not look at it
        return answers

    def _pinned(self, ran_ns: dict[int, int]) -> tuple[int, ...]:
        """Threads that compute and have a CPU of their own.

        Of those that hand work to a GPU none gets one; the calling thread is who must not wait.
        """
        if self.engine.stream is not None:
            return (os.getpid(),)
        return pin_busiest(self.cpus, ran_ns, self.engine.computes_on_caller, self.engine.pool())

    def turn(self, subject: str, rounds: list[int]) -> Message:
        """The samples of some rounds of one subject, with what happened around each."""
        started = time.perf_counter_ns()
        self.watch.follow(self.computing)
        self.ranges.tell_clock()
        gc.collect()
        gc.disable()
        try:
            sampled = self.subjects[subject].turn(rounds)
            warm_ns = self.subjects[subject].take_warm_ns()
        finally:
            gc.enable()
        wait_until_idle()
        turn_ns = time.perf_counter_ns() - started
        return {"rounds": sampled, "turn_ns": turn_ns, "warm_ns": warm_ns}

    def check_kernel(self, primitives: list[Message], passes: list[str], seed: int) -> Message:
        """Hold one kernel against the oracle."""
        chain = tuple(primitive_from_json(primitive) for primitive in primitives)
        kernel = Kernel("", chain, tuple(passes), tuple(range(len(chain))))
        return {"error": kernel_error(self.engine, kernel, seed)}

    def check_network(self, network: Message, batch: int, mode: str, seed: int) -> Message:
        """Hold a whole network against the oracle."""
        definition = Network.from_json(network)
        return {"errors": network_errors(self.engine, definition, batch, mode, seed)}

    def check_update(self, network: Message, batch: int, seed: int) -> Message:
        """Hold the weights after training steps against the oracle's."""
        return {"errors": update_errors(self.engine, Network.from_json(network), batch, seed)}

    def observe(self, network: Message, batch: int, mode: str, seed: int) -> Message:
        """Build a whole network to look at, instead of the one before."""
        self.observer = None
        gc.collect()
        asked = Network.from_json(network), batch, mode, seed
        self.observer = Observer(self.engine, self.cpus, *asked)
        return {"page_fault_ns": page_fault_ns(), **self.observer.describe()}

    def profile(self, calls: int) -> Message:
        """Calls of what is observed, under the engine's own profiler and without it."""
        assert self.observer is not None, "observe first"
        return self.observer.profile(calls)

    def repeat(self, calls: int, least_s: float = 0.0) -> Message:
        """Calls of what is observed, between marks in what the process prints."""
        assert self.observer is not None, "observe first"
        return self.observer.repeat(calls, least_s)

    def ceilings(self) -> Message:
        """What the engine's GPU cannot exceed."""
        return gpu_ceilings.measure(self.engine)

    def compare_clocks(self, primitive: Message, seed: int) -> Message:
        """A primitive by the clocks of samples and by the engine's own profiler."""
        return compare_clocks(self.engine, primitive_from_json(primitive), seed)

    def drop(self, subjects: list[str] | None = None) -> Message:
        """Forget subjects and free their memory."""
        self.observer = None
        for name in subjects or list(self.subjects):
            self.subjects.pop(name, None)
        gc.unfreeze()
        gc.collect()
        self.engine.release()
        return_memory()
        return {}
