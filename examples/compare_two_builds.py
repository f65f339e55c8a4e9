"""Is the new build of an engine faster than the old one, and in which layers?

    python compare_two_builds.py torch /opt/torch-old/bin/python /opt/torch-new/bin/python fcn-r

Both builds are measured in the same rounds, which is the quietest comparison there is: a machine
that drifts moves both alike.  The run is kept in builds/builds.kprof.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

engine, old, new, network, *more = sys.argv[1:]  # further words go to `kernelprof run`

# A folder of engines of its own, so that yours stay as they are.
home = Path("builds")
home.mkdir(exist_ok=True)
(home / "engines.toml").write_text(
    f'[old]\nadapter = "{engine}"\npython = "{old}"\n'
    f'[new]\nadapter = "{engine}"\npython = "{new}"\n'
)
run = home / "builds.kprof"
run.unlink(missing_ok=True)  # or the old run would be carried on with


def kernelprof(*words: str) -> str:
    """What a command prints; its warnings go to the terminal."""
    shell = {**os.environ, "KERNELPROF_HOME": str(home)}
    command = [sys.executable, "-m", "kernelprof", *words]
    return subprocess.run(command, env=shell, stdout=subprocess.PIPE, text=True, check=True).stdout


print(kernelprof("run", network, "--engine", "old,new", "-o", str(run), *more))
report = json.loads(kernelprof("report", str(run), "--format", "json"))

cases = {}
for case in report["cases"]:
    place = (case["mode"], case["batch"], case["threads"])
    cases.setdefault(place, {})[case["engine"]] = case
for (mode, batch, threads), builds in cases.items():
    if len(builds) < 2:
        continue  # one of the two failed: the run said why
    print(f"{network} {mode}, batch {batch}, {threads} threads: new / old")
    whole = builds["new"]["measured_s"] / builds["old"]["measured_s"]
    print(f"  {'whole network':<16} {whole:6.3f}")
    for before, after in zip(builds["old"]["layers"], builds["new"]["layers"], strict=True):
        if before["engine_s"] and after["engine_s"]:
            print(f"  {before['name']:<16} {after['engine_s'] / before['engine_s']:6.3f}")
