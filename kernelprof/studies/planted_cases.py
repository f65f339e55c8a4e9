"""The plants of ``kernelprof.studies.planted``: causes of slowness, and healthy cases."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from kernelprof.launch import Variables
from kernelprof.network_sources import network
from kernelprof.probes.network import Builder, Network


@dataclass(frozen=True)
class Plant:
    """A cause, put into a case.

    ``variables`` are the environment's; those of ``healthy`` take the plant's place for the truth
    (None: unset).  A plant without ``cause`` is none: there is nothing to be found.
    """

    name: str
    engine: str
    network: str
    cause: str = ""
    variables: Mapping[str, str] = field(default_factory=dict)
    healthy: Variables = field(default_factory=dict)
    batch: int = 64
    mode: str = "infer"
    threads: int = 1

    @property
    def in_adapter(self) -> bool:
        """Whether the engine's networks are changed, and not its environment."""
        return any(name.startswith("PLANTED") for name in self.variables)


def definition(name: str) -> Network:
    """A known network, or one of many layers in which there is little to do."""
    if name != NARROW:
        return network(name)
    net = Builder()
    x = net.input(64)
    for number in range(1, 17):
        x = net.relu(f"relu{number}", net.fully_connected(f"fc{number}", x, 64))
    net.softmax_loss(net.fully_connected("output", x, 10))
    return Network(NARROW, "kernelprof, planted", tuple(net.layers), batch=64, quick_batch=64)


def _unset(**variables: str) -> dict[str, Any]:
    """A plant of variables that are not set otherwise."""
    return {"variables": variables, "healthy": dict.fromkeys(variables)}


def _pool(few_or_many: int, threads: int, *names: str) -> dict[str, Any]:
    """A plant of pools that have more or fewer threads than there are CPUs."""
    return {
        "variables": dict.fromkeys(names, str(few_or_many)),
        "healthy": dict.fromkeys(names, str(threads)),
        "threads": threads,
    }


def _late(**variables: int) -> dict[str, Any]:
    """A plant of an input that comes late."""
    asked = {name: str(ns) for name, ns in variables.items()}
    return {"variables": asked, "healthy": dict.fromkeys(asked, "0")}


CAPPED, OFF = "instruction set capped", "oneDNN switched off"
FEW, MANY = "CPUs without a thread", "more threads than CPUs"
ASLEEP, CHURN = "threads sleep between kernels", "allocation churn"
LAYOUT, FIGHTING = "channels-first layout", "pools that fight for CPUs"
LATE, DENORMALS, DISPATCH = "input feeding", "denormal numbers", "dispatch-bound"

NARROW = "narrow"
FAST_MKL = {"MKL_DEBUG_CPU_TYPE": "5"}
OPENMP = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")

PLANTS = (
    Plant(
        "SSE 4.1 for oneDNN",
        "torch",
        "alexnet-s",
        CAPPED,
        batch=4,
        **_unset(ONEDNN_MAX_CPU_ISA="SSE41"),
    ),
    Plant(
        "MKL code path of old processors", "torch", "fcn-r", CAPPED, **_unset(MKL_CBWR="COMPATIBLE")
    ),
    Plant(
        "SSE 4.1 for products", "tensorflow", "fcn-r", CAPPED, **_unset(ONEDNN_MAX_CPU_ISA="SSE41")
    ),
    Plant(
        "SSE 4.1 for oneDNN 2.4",
        "mxnet",
        "alexnet-s",
        CAPPED,
        batch=4,
        **_unset(DNNL_MAX_CPU_ISA="SSE41"),
    ),
    Plant(
        "OpenBLAS for Nehalem",
        "caffe",
        "fcn-r",
        CAPPED,
        mode="train",
        **_unset(OPENBLAS_CORETYPE="Nehalem"),
    ),
    Plant(
        "OpenBLAS for Nehalem, NumPy",
        "numpy",
        "fcn-r",
        CAPPED,
        **_unset(OPENBLAS_CORETYPE="Nehalem"),
    ),
    Plant(
        "oneDNN off", "tensorflow", "alexnet-s", OFF, batch=4, **_unset(TF_ENABLE_ONEDNN_OPTS="0")
    ),
    Plant("oneDNN off in MXNet", "mxnet", "alexnet-r", OFF, **_unset(MXNET_MKLDNN_ENABLED="0")),
    Plant("half the threads", "torch", "fcn-r", FEW, **_pool(1, 2, *OPENMP)),
    Plant(
        "half the threads in TensorFlow",
        "tensorflow",
        "fcn-r",
        FEW,
        **_pool(1, 2, "TF_NUM_INTRAOP_THREADS"),
    ),
    Plant(
        "half the threads in MXNet",
        "mxnet",
        "alexnet-r",
        FEW,
        **_pool(1, 2, *OPENMP, "MXNET_OMP_MAX_THREADS"),
    ),
    Plant(
        "half the threads in Caffe",
        "caffe",
        "fcn-r",
        FEW,
        **_pool(1, 2, "OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"),
    ),
    Plant(  # in a CNTK whose MKL does not take its generic path
        "half the threads in CNTK",
        "cntk",
        "fcn-r",
        FEW,
        variables={**dict.fromkeys(OPENMP, "1"), **FAST_MKL},
        healthy=dict.fromkeys(OPENMP, "2"),
        threads=2,
    ),
    Plant("twice the threads", "torch", "fcn-r", MANY, **_pool(4, 2, *OPENMP)),
    Plant(
        "two threads on one CPU",
        "mxnet",
        "fcn-r",
        MANY,
        **_pool(2, 1, *OPENMP, "MXNET_OMP_MAX_THREADS"),
    ),
    Plant(
        "threads that do not wait",
        "torch",
        "lstm",
        ASLEEP,
        batch=4,
        threads=2,
        **_unset(OMP_WAIT_POLICY="passive"),
    ),
    Plant(
        "memory handed back",
        "torch",
        "fcn-r",
        CHURN,
        mode="train",
        **_unset(MALLOC_MMAP_THRESHOLD_="65536", MALLOC_TRIM_THRESHOLD_="65536"),
    ),
    Plant("a sleep before each call", "torch", "fcn-r", LATE, **_late(PLANTED_SLEEP_NS=5_000_000)),
    Plant(
        "a loop before each call", "tensorflow", "fcn-r", LATE, **_late(PLANTED_LOOP_NS=5_000_000)
    ),
    Plant(
        "a sleep before each call of MXNet",
        "mxnet",
        "alexnet-r",
        LATE,
        **_late(PLANTED_SLEEP_NS=5_000_000),
    ),
    Plant(
        "channels first",
        "torch",
        "alexnet-r",
        LAYOUT,
        healthy={"KERNELPROF_LAYOUT": "channels_last"},
    ),
    Plant(
        "denormal inputs",
        "torch",
        "alexnet-r",
        DENORMALS,
        variables={"PLANTED_SCALE": "1e-39", "KERNELPROF_LAYOUT": "channels_last"},
        healthy={"PLANTED_SCALE": "1"},
    ),
    Plant(
        "operators side by side",
        "tensorflow",
        "lstm",
        FIGHTING,
        batch=4,
        threads=2,
        **_unset(TF_NUM_INTEROP_THREADS="8"),
    ),
    Plant("tiny layers", "torch", NARROW, DISPATCH, batch=1),
    Plant("tiny layers in TensorFlow", "tensorflow", NARROW, DISPATCH, batch=1),
    Plant("tiny layers in MXNet", "mxnet", NARROW, DISPATCH, batch=1),
    Plant("healthy fcn-r infer in torch", "torch", "fcn-r", mode="infer", threads=1, batch=64),
    Plant(
        "healthy alexnet-s infer in torch, channels last",
        "torch",
        "alexnet-s",
        variables={"KERNELPROF_LAYOUT": "channels_last"},
        mode="infer",
        threads=1,
        batch=4,
    ),
    Plant(
        "healthy fcn-r infer in tensorflow",
        "tensorflow",
        "fcn-r",
        mode="infer",
        threads=2,
        batch=64,
    ),
    Plant(
        "healthy alexnet-r train in tensorflow",
        "tensorflow",
        "alexnet-r",
        mode="train",
        threads=1,
        batch=64,
    ),
    Plant("healthy fcn-r infer in mxnet", "mxnet", "fcn-r", mode="infer", threads=1, batch=64),
    Plant("healthy fcn-r infer in numpy", "numpy", "fcn-r", mode="infer", threads=1, batch=64),
    Plant("healthy fcn-r infer in caffe", "caffe", "fcn-r", mode="infer", threads=2, batch=64),
    Plant("healthy fcn-r train in caffe", "caffe", "fcn-r", mode="train", threads=1, batch=64),
)
