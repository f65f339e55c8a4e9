"""What the control groups of this process allow it: CPU time, CPUs, memory.

Both versions of Linux's cgroups are read, also side by side.  A limit holds for every group
below the one that it is set on, so each is looked for from the process's own group upwards.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from kernelprof.probes.placement import parse_cpus
from kernelprof.topology import ROOT, text

MEMORY_FILES = (  # the limit and what is used of it: versions 2 and 1
    ("memory.max", "memory.current"),
    ("memory.limit_in_bytes", "memory.usage_in_bytes"),
)
CPUSET_FILES = ("cpuset.cpus.effective", "cpuset.effective_cpus", "cpuset.cpus")


def quota_cpus(root: Path = ROOT) -> float | None:
    """CPU time per time that the group may take, in CPUs; None where nothing limits it."""
    quotas = (_quota_cpus(group) for group in _groups("cpu", root))
    return min((quota for quota in quotas if quota is not None), default=None)


def _quota_cpus(group: Path) -> float | None:
    """Version 2 writes "max" for no limit, version 1 writes -1."""
    both = text(group / "cpu.max") or " ".join(
        text(group / name) for name in ("cpu.cfs_quota_us", "cpu.cfs_period_us")
    )
    quota_us, _, period_us = both.partition(" ")
    return int(quota_us) / int(period_us) if quota_us.isdigit() and period_us.isdigit() else None


def cpuset(root: Path = ROOT) -> tuple[int, ...] | None:
    """The CPUs that the group may use; None where that is not said."""
    for group in _groups("cpuset", root):
        for name in CPUSET_FILES:
            if listed := text(group / name):
                return parse_cpus(listed)
    return None


def memory_left_bytes(root: Path = ROOT) -> int | None:
    """Memory that the group may still take; None where nothing limits it."""
    left = [
        _left_bytes(group, limit, used)
        for group in _groups("memory", root)
        for limit, used in MEMORY_FILES
    ]
    return min((size for size in left if size is not None), default=None)


def _left_bytes(group: Path, limit: str, used: str) -> int | None:
    allowed, taken = text(group / limit), text(group / used)
    if not (allowed.isdigit() and taken.isdigit()):
        return None
    return max(int(allowed) - int(taken) + _reclaimable_bytes(group), 0)


def _reclaimable_bytes(group: Path) -> int:
    """Cached files that count as used, but give way."""
    values = dict(line.split()[:2] for line in text(group / "memory.stat").splitlines())
    return int(values.get("total_inactive_file", values.get("inactive_file", 0)))


def _groups(controller: str, root: Path) -> Iterator[Path]:
    """The folders of this process's group and of those above it, in both versions."""
    paths = dict(_own_paths(root))
    for kind, controllers, top, shown in _mounts(root):
        hierarchy = "" if kind == "cgroup2" else controller
        if hierarchy not in paths or (hierarchy and hierarchy not in controllers):
            continue
        group = top / _below(paths[hierarchy], shown)
        for folder in (group, *group.parents):
            if folder.is_relative_to(top) and folder.is_dir():
                yield folder


def _own_paths(root: Path) -> Iterator[tuple[str, str]]:
    """The path of this process's group by controller; the one of version 2 has no name."""
    for line in text(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        yield from ((name, path) for name in controllers.split(","))


def _mounts(root: Path) -> Iterator[tuple[str, list[str], Path, str]]:
    """Kind, controllers, folder, and the group that is shown: a container may see its own only."""
    for line in text(root / "proc/self/mountinfo").splitlines():
        place, _, source = line.partition(" - ")
        shown, folder = place.split()[3:5]
        kind, _, options = source.split(None, 2)
        if kind in {"cgroup", "cgroup2"}:
            yield kind, options.split(","), root / folder.lstrip("/"), shown


def _below(path: str, shown: str) -> str:
    """The group's path inside a mount that shows only ``shown`` and what is below."""
    inside = path.removeprefix(shown.rstrip("/"))
    return "" if ".." in Path(path).parts else inside.lstrip("/")
