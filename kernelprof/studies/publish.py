"""Write a study's result: prose and tables for people, the data for others to judge."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from kernelprof import __version__
from kernelprof.machine import this_machine
from kernelprof.units import size


def publish(folder: Path, module: str, title: str, body: str, data: dict[str, Any]) -> None:
    """Write README.md and data.json to a folder."""
    machine = this_machine()
    command = shlex.join(["python", "-m", module, *sys.argv[1:]])
    taken = datetime.now(UTC).isoformat(timespec="seconds")
    text = f"""# {title}

{body}
## How it was taken

`{command}`, kernelprof {__version__}, {taken}, on {machine.processor} with {machine.cpus} CPUs \
({", ".join(machine.isa)}), {size(machine.memory_bytes)}, \
{"a virtual machine" if machine.hypervisor else "no virtual machine"}, {machine.system}.
"""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "README.md").write_text(text)
    stored = {"command": command, "taken": taken, "machine": machine.to_json(), **data}
    (folder / "data.json").write_text(json.dumps(stored, indent=1) + "\n")


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"
