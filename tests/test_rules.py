"""The rooms: who may import whom, and what old interpreters can read."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

from kernelprof.engines import ENGINES

ROOT = Path(__file__).resolve().parent.parent
SOURCES = {
    room: sorted((ROOT / room).rglob("*.py")) for room in ("kernelprof", "probes", "reports")
}
PROBES, REPORTS, HOST = (SOURCES[room] for room in ("probes", "reports", "kernelprof"))

# The vocabulary of probes: what the host and the reports may know of what runs in engines.
VOCABULARY = {
    "attention",
    "boot",
    "compute_bound",
    "decompose",
    "device",
    "layers",
    "memory_bound",
    "network",
    "networks",
    "placement",
    "primitive",
    "primitives",
    "ranges",
    "residual_networks",
    "spans",
    "wire",
}
MEASURES = {
    "analysis",
    "apt",
    "bench",
    "bench_results",
    "cli",
    "cli_bench",
    "cli_compare",
    "cli_doctor",
    "cli_engines",
    "cli_measure",
    "cli_nsys",
    "cli_predict",
    "cli_scale",
    "compare.agreement",
    "compare.comparing",
    "compare.effects",
    "compare.observed",
    "compare.pairing",
    "console",
    "debian",
    "deepbench",
    "diagnosis.diagnose",
    "diagnosis.examination",
    "diagnosis.gather",
    "diagnosis.hardware_counters",
    "diagnosis.outside_tools",
    "diagnosis.stacks",
    "diagnosis.trial",
    "enginecheck",
    "engines",
    "export",
    "install",
    "launch",
    "lockstep",
    "machinecode",
    "measure",
    "microkernels",
    "network_file",
    "network_sources",
    "nsys",
    "nsys_times",
    "onnx_import",
    "perfetto",
    "plan",
    "runfile",
    "runner",
    "saturation",
    "scaling_results",
    "sizes",
    "torch_module",
    "trace_store",
    "unmeasured",
}
GENERIC_NAMES = {"utils", "util", "helpers", "helper", "common", "base", "manager", "misc"}


def imports(path: Path) -> set[str]:
    """The dotted names that a file imports, relative ones with their leading dots."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            prefix = "." * node.level + (node.module or "")
            found |= {f"{prefix}.{alias.name}" for alias in node.names} | {prefix}
    return found


def top(name: str) -> str:
    return name.split(".")[0]


@pytest.mark.parametrize("path", PROBES, ids=lambda path: path.name)
def test_probes_import_only_the_standard_library_numpy_and_an_own_engine(path: Path) -> None:
    engine = {name for name in ENGINES if name in path.stem.split("_")}
    ranges = {"nvtx"} if path.stem == "ranges" else set()
    outside = {top(name) for name in imports(path) if not name.startswith(".")}
    assert outside <= set(sys.stdlib_module_names) | {"numpy"} | engine | ranges


@pytest.mark.parametrize("path", HOST, ids=lambda path: path.name)
def test_the_host_knows_only_the_vocabulary_of_probes(path: Path) -> None:
    known = {name.split(".")[2] for name in imports(path) if name.startswith("kernelprof.probes.")}
    assert known <= VOCABULARY


@pytest.mark.parametrize("path", REPORTS, ids=lambda path: path.name)
def test_reports_never_measure(path: Path) -> None:
    ours = [name.split(".") for name in imports(path) if name.startswith("kernelprof.")]
    assert not {parts[1] for parts in ours} & MEASURES
    assert not {".".join(parts[1:3]) for parts in ours} & MEASURES
    assert {parts[2] for parts in ours if parts[1] == "probes" and len(parts) > 2} <= VOCABULARY


@pytest.mark.parametrize("path", HOST, ids=lambda path: path.name)
def test_only_the_command_line_renders(path: Path) -> None:
    if not path.stem.startswith("cli"):
        assert not any(name.startswith("kernelprof.reports") for name in imports(path))


def test_no_room_is_imported_in_a_circle() -> None:
    graph = {
        path.stem: {
            name.split(".")[1]
            for name in imports(path)
            if name.startswith("kernelprof.") and name.split(".")[1] != path.stem
        }
        for path in HOST
    }
    remaining = {name: needs & set(graph) for name, needs in graph.items()}
    while free := [name for name, needs in remaining.items() if not needs]:
        for name in free:
            del remaining[name]
        for needs in remaining.values():
            needs.difference_update(free)
    assert not remaining, f"circular imports among {sorted(remaining)}"


@pytest.mark.parametrize("path", PROBES, ids=lambda path: path.name)
def test_probes_keep_to_the_grammar_of_python_3_9(path: Path) -> None:
    ast.parse(path.read_text(), feature_version=(3, 9))
    assert "from __future__ import annotations" in path.read_text() or path.stem == "__init__"


@pytest.mark.parametrize("path", [*PROBES, *REPORTS, *HOST], ids=lambda path: path.name)
def test_names_tell_what_a_file_owns(path: Path) -> None:
    assert path.stem not in GENERIC_NAMES
    assert ast.get_docstring(ast.parse(path.read_text()))
