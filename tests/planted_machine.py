"""Machines that are not there: files as Linux shows them in /sys and /proc, below another root."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

CPUS = "sys/devices/system/cpu"
UNLIMITED = 9223372036854771712  # what version 1 of the cgroups says for no limit


def plant(root: Path, files: Mapping[str, object]) -> Path:
    """Write the files; each ends in a line feed, as those of the kernel do."""
    for path, content in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(f"{content}\n")
    return root


def server() -> dict[str, object]:
    """Two sockets of two cores with two threads each: CPUs 0-3 are first threads, 4-7 second ones.

    A core has its L1 and L2; a socket shares its L3 and has a memory node of its own.
    """
    files: dict[str, object] = {
        "proc/cpuinfo": "processor\t: 0\nmodel name\t: Made-up CPU\nflags\t\t: fpu sse4_2 avx fma",
        "proc/meminfo": "MemTotal:       33554432 kB\nMemFree:        1 kB",
        f"{CPUS}/online": "0-7",
    }
    for cpu in range(8):
        core = cpu % 4
        socket = core // 2
        mates = f"{core},{core + 4}"
        near = f"{2 * socket}-{2 * socket + 1},{2 * socket + 4}-{2 * socket + 5}"
        files[f"{CPUS}/cpu{cpu}/topology/thread_siblings_list"] = mates
        files[f"{CPUS}/cpu{cpu}/topology/physical_package_id"] = socket
        files[f"sys/devices/system/node/node{socket}/cpulist"] = near
        files[f"sys/devices/system/node/node{socket}/meminfo"] = (
            f"Node {socket} MemTotal:       16777216 kB\nNode {socket} MemFree:        1 kB"
        )
        for index, (level, kind, size, shared) in enumerate(
            [
                (1, "Data", "32K", mates),
                (1, "Instruction", "64K", mates),
                (2, "Unified", "1M", mates),
                (3, "Unified", "16384K", near),
            ]
        ):
            cache = f"{CPUS}/cpu{cpu}/cache/index{index}"
            files[f"{cache}/level"] = level
            files[f"{cache}/type"] = kind
            files[f"{cache}/size"] = size
            files[f"{cache}/shared_cpu_list"] = shared
    return files


def clocks(**policy: object) -> dict[str, object]:
    """The files of one policy of cpufreq."""
    return {f"{CPUS}/cpufreq/policy0/{name}": value for name, value in policy.items()}


def version_2(path: str, groups: Mapping[str, Mapping[str, object]]) -> dict[str, object]:
    """Control groups of version 2, with this process in the one at ``path``."""
    files: dict[str, object] = {
        "proc/self/cgroup": f"0::{path}",
        "proc/self/mountinfo": "30 25 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw",
    }
    return files | {
        f"sys/fs/cgroup/{group}/{name}": value
        for group, values in groups.items()
        for name, value in values.items()
    }


def version_1(
    controllers: str, path: str, groups: Mapping[str, Mapping[str, object]], shown: str = "/"
) -> dict[str, object]:
    """Control groups of version 1 for these controllers, beside an idle version 2."""
    top = f"sys/fs/cgroup/{controllers}"
    files: dict[str, object] = {
        "proc/self/cgroup": f"3:cpuset:/other\n2:{controllers}:{path}\n0::/",
        "proc/self/mountinfo": (
            f"31 25 0:27 {shown} /{top} rw,nosuid shared:9 - cgroup cgroup rw,{controllers}\n"
            "32 25 0:28 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n"
            "33 1 254:0 / / rw,relatime - ext4 /dev/vda rw"
        ),
    }
    return files | {
        f"{top}/{group}/{name}": value
        for group, values in groups.items()
        for name, value in values.items()
    }
