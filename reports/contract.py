"""The JSON report: the contract for scripts. Keys may be added, never changed."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from kernelprof.results import SCHEMA, CaseResult, Estimate, FailureResult, LayerResult, Results

from . import bench
from .context import context_json
from .findings import findings_json
from .ledger import ledger_json
from .sampling import sampling_json
from .traces import trace_json


def to_json(results: Results) -> dict[str, Any]:
    """The report as an object of strict JSON."""
    report: dict[str, Any] = _strict(
        {
            "schema": SCHEMA,
            "kernelprof": results.kernelprof,
            "command": results.command,
            "started": results.started,
            "quick": results.quick,
            "machine": results.machine,
            "engines": results.engines,
            "cases": [case_json(case) for case in results.cases],
            "primitives": [bench.to_json(one) for one in results.primitives],
            "fitness": results.fitness.to_json() if results.fitness else None,
            "failures": [_failure(failure) for failure in results.failures],
            "contexts": [context_json(one) for one in results.contexts],
            "traces": [trace_json(one, results.processes) for one in results.traces],
        }
    )
    return report


def to_json_text(results: Results) -> str:
    """The report as the text of a JSON file."""
    return json_text(to_json(results))


def json_text(report: dict[str, Any]) -> str:
    """What `to_json` made as the text of a file."""
    return json.dumps(report, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def case_json(case: CaseResult) -> dict[str, Any]:
    """A case as an object of strict JSON."""
    written: dict[str, Any] = _strict(_case(case))
    return written


def _case(case: CaseResult) -> dict[str, Any]:
    return {
        "network": case.network,
        "engine": case.engine,
        "device": case.device,
        "threads": case.threads,
        "cpus": case.cpus,
        "batch": case.batch,
        "mode": case.mode,
        **_estimate("measured", case.measured),
        **_estimate("predicted", case.predicted),
        "error": case.error,
        "reference_s": case.reference_s,
        "ceiling_s": case.ceiling_s,
        "coverage": case.coverage,
        "uncovered": case.uncovered,
        "parameters": case.parameters,
        "flop": case.flop,
        "dispatch_s": case.dispatch_s,
        "beyond": [{"part": part, "seconds": s} for part, s in case.beyond_s.items()],
        "first_call_s": case.first_call_s,
        "nsys_s": case.nsys_s,
        **sampling_json(case.sampling),
        "layers": [_layer(layer) for layer in case.layers],
        "ledger": ledger_json(case),
        "findings": findings_json(case),
        "profiler_share": case.diagnosis.profiler_share if case.diagnosis else None,
        "missing_evidence": case.diagnosis.missing if case.diagnosis else {},
        **({"gpu": asdict(case.gpu)} if case.gpu else {}),
    }


def _estimate(name: str, estimate: Estimate | None) -> dict[str, float | None]:
    return {
        f"{name}_s": estimate.value_s if estimate else None,
        f"{name}_low_s": estimate.low_s if estimate else None,
        f"{name}_high_s": estimate.high_s if estimate else None,
        f"{name}_mad_s": estimate.mad_s if estimate else None,
        f"{name}_least_s": estimate.least_s if estimate else None,
    }


def _layer(layer: LayerResult) -> dict[str, Any]:
    return {
        "name": layer.name,
        "kind": layer.kind,
        "primitives": layer.primitives,
        "flop": layer.flop,
        "least_flop": layer.least_flop,
        "engine_s": layer.engine_s,
        "reference_s": layer.reference_s,
        "ceiling_s": layer.ceiling_s,
        "in_network_s": layer.in_network_s,
        "nsys_s": layer.nsys_s,
        "gpu": asdict(layer.gpu) if layer.gpu else None,
        **({**layer.sides._asdict(), "bound": layer.sides.bound} if layer.sides else {}),
        "kernels": [
            {
                "primitives": kernel.primitives,
                "passes": kernel.passes,
                **_estimate("engine", kernel.seconds),
                "flop": kernel.flop,
                "least_bytes": kernel.least_bytes,
                "cold_bytes": kernel.cold_bytes,
                "lukewarm": kernel.lukewarm,
                "nsys_s": kernel.nsys_s,
            }
            for kernel in layer.kernels
        ],
    }


def _failure(failure: FailureResult) -> dict[str, Any]:
    return {
        "network": failure.network,
        "engine": failure.engine,
        "threads": failure.threads,
        "batch": failure.batch,
        "mode": failure.mode,
        "kind": failure.kind,
        "reason": failure.reason,
        "passes": failure.passes,
    }


def _strict(value: Any) -> Any:
    """The value in JSON's own types: NaN and infinity, which JSON has not, become null."""
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(name): _strict(item) for name, item in value.items()}
    if isinstance(value, Sequence | set | frozenset):
        return [_strict(item) for item in value]
    return str(value)
