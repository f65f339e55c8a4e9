"""The scripts in examples/ do what they say, with small networks."""

from __future__ import annotations

import re
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
import yaml

from kernelprof.engines import environment
from kernelprof.nsys.tool import find
from tests.fences import ROOT, Workspace, home, workspace

__all__ = ["home", "workspace"]  # fixtures

EXAMPLES = ROOT / "examples"
LITTLE = "--threads 1 --batch 2 --mode infer --quick --budget 2s"


def output(workspace: Workspace, command: str) -> str:
    """What a command prints that ends well."""
    ended = workspace.shell(command)
    assert ended.returncode == 0, ended.stdout
    return ended.stdout


def test_every_example_is_tried() -> None:
    own = Path(__file__).read_text()
    assert all(path.name in own for path in EXAMPLES.iterdir() if path.is_file())


@pytest.mark.timeout(300)
def test_profile_my_module_shows_layers(workspace: Workspace) -> None:
    """In the interpreter of the engine torch, which sees kernelprof behind its own packages."""
    found = environment("torch")
    if found is None:
        pytest.skip("engine torch is not installed: `kernelprof engines install torch`")
    ours = [str(ROOT), sysconfig.get_path("purelib"), sysconfig.get_path("platlib")]
    path = EXAMPLES / "profile_my_module.py"
    program = f"import runpy, sys; sys.path += {ours}; runpy.run_path({str(path)!r})"
    (workspace.folder / "program.py").write_text(program)
    printed = output(workspace, f"env -u PYTHONPATH {found.python} program.py")
    for mode in ("infer", "train"):
        assert re.search(rf"^torch {mode}: [\d.]+ ms a call$", printed, re.MULTILINE), printed
    assert "convolution" in printed
    assert (workspace.folder / "my-module.kprof").exists()


@pytest.mark.timeout(300)
def test_two_builds_are_compared_layer_by_layer(workspace: Workspace) -> None:
    builds = f"numpy {sys.executable} {sys.executable}"
    script = f"python {EXAMPLES}/compare_two_builds.py"
    printed = output(workspace, f"{script} {builds} alexnet-r {LITTLE}").split("new / old\n")[1]
    ratios = dict(re.findall(r"^  (\S.*?) +([\d.]+)$", printed, re.MULTILINE))
    assert {"whole network", "conv1"} <= set(ratios)
    assert all(float(ratio) > 0 for ratio in ratios.values())


@pytest.mark.timeout(300)
def test_a_cluster_job_records_and_its_result_comes_in(workspace: Workspace) -> None:
    """With a launcher that starts its command here, as one does within an allocation of a node."""
    if find() is None:
        pytest.skip("nsys is not installed: `kernelprof nsys install`")
    launcher = workspace.home / "programs" / "srun"
    launcher.write_text('#!/bin/sh\nwhile [ "${1#--}" != "$1" ]; do shift; done\nexec "$@"\n')
    launcher.chmod(0o755)
    script = f"{EXAMPLES}/nsys_on_a_cluster.sh alexnet-r --engine numpy {LITTLE}"
    printed = output(workspace, f"SLURM_JOB_ID=7 {script}")
    said = re.findall(r"^  (kernelprof .*)$", printed, re.MULTILINE)
    assert [words.split()[1] for words in said] == ["nsys", "report"]
    for command in said:
        output(workspace, command)
    assert (workspace.folder / "kernelprof-7.html").exists()


@pytest.mark.timeout(300)
def test_a_gate_lets_an_equal_version_pass_and_stops_a_slower_one(workspace: Workspace) -> None:
    """An engine of known truth, whose slower version takes ten times as long for each kernel."""
    entry = f'[ours]\nadapter = "{ROOT}/tests/fake_engine.py"\n'
    (workspace.home / "engines.toml").write_text(entry)
    slower = 'variables = { FAKE_KERNEL_NS = "300000" }\n'
    (workspace.folder / "slower.toml").write_text(entry + slower)
    words = f"alexnet-r --engine ours --processes 3 {LITTLE}"
    gate = f"{EXAMPLES}/gate_pull_request.sh"
    equal = workspace.shell(f"{gate} true true {words}")
    assert equal.returncode == 0, equal.stdout
    put = f"'cp slower.toml {workspace.home}/engines.toml'"
    stopped = workspace.shell(f"rm *.kprof; GITHUB_ACTIONS=true {gate} true {put} {words}")
    assert stopped.returncode == 1, stopped.stdout
    assert "::error" in stopped.stdout


def test_the_workflow_calls_the_gate() -> None:
    workflow = yaml.safe_load((EXAMPLES / "gate_pull_request.yml").read_text())
    steps = [step.get("run", "") for step in workflow["jobs"]["compare"]["steps"]]
    assert any("gate_pull_request.sh" in step for step in steps)
    for step in steps:
        assert subprocess.run(["bash", "-n", "-c", step], check=False).returncode == 0
