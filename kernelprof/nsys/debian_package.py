"""nsys from Debian's component non-free, as any user: nothing outside kernelprof's home changes.

The packages are not installed but unpacked, so what their dependencies would bring is not there:
of these the libraries that nsys needs without its windows are fetched too.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from kernelprof import apt
from kernelprof.errors import KernelprofError, UsageError
from kernelprof.nsys.tool import Nsys, asked, identify, program_in

COMPONENT = "non-free"
PACKAGES = ("nsight-systems", "nsight-systems-target")
LIBRARIES = (  # what the importer loads, beside what every Python needs
    *("libssh-4", "libpfm4", "libgssapi-krb5-2", "libkrb5-3", "libk5crypto3"),
    *("libkrb5support0", "libcom-err2", "libkeyutils1"),
)
UNNEEDED = ("Plugins", "translations", "libexec", "nsys-ui*", "libQt6*", "libicu*")  # its windows
IMPORTER = "host-linux-x64"  # the folder that turns what was captured into a report
APT_FOLDER = Path("/etc/apt")
SUITE_ENDINGS = ("", "-updates", "-security", "-proposed-updates", "-backports", "/updates")
ROLLING = ("stable", "testing", "unstable", "sid")
NEEDED = "nsys is needed"
ELSEWHERE = (
    "NVIDIA offers Nsight Systems for Linux (without windows: its package nsight-systems-cli); the "
    "variable KERNELPROF_NSYS names an nsys that is not on the PATH"
)

Tell = Callable[[str], None]


def install(root: Path, tell: Tell) -> Nsys:
    """Fetch nsys into a folder, unless it is there and runs.

    Raises:
        UsageError: this is no Debian, or its sources are not known.
        KernelprofError: the packages cannot be had, or what they hold does not run.
    """
    with suppress(KernelprofError):
        return identify(program_in(root))
    sources = _sources()
    root.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="nsys-", dir=root.parent) as name:
        fresh = Path(name) / "root"
        tell("fetching nsys from Debian's component non-free")
        apt.unpack((*PACKAGES, *LIBRARIES), fresh, NEEDED, ELSEWHERE, sources)
        _mend(fresh)
        tell("trying whether it runs")
        found = identify(program_in(fresh))
        _try(found)
        shutil.rmtree(root, ignore_errors=True)
        fresh.rename(root)
    return Nsys(program_in(root), found.version)


def with_component(text: str, release: str, component: str = COMPONENT) -> str:
    r"""Debian's own entries of a one-line list, ``deb URI SUITE COMPONENT...``, with one more.

    Entries of other archives, and of packages' sources, are left out.

    >>> with_component("deb [a=b] http://x/debian bookworm main # y", "bookworm")
    'deb [a=b] http://x/debian bookworm main non-free\n'
    """
    lines = []
    for line in text.splitlines():
        match = re.fullmatch(r"\s*deb\s+(\[[^]]*\]\s+)?(\S+)\s+(\S+)\s+([^#]*)(#.*)?", line)
        if match is None:
            continue
        options, uri, suite, components = (part or "" for part in match.groups()[:4])
        if "main" in components.split() and suite in _suites(release):
            words = [*dict.fromkeys([*components.split(), component])]
            lines.append(f"deb {options}{uri} {suite} {' '.join(words)}\n")
    return "".join(lines)


def stanzas_with_component(text: str, release: str, component: str = COMPONENT) -> str:
    r"""Debian's own entries of a file in the format deb822, with one more component.

    >>> stanzas_with_component("Types: deb\nURIs: u\nSuites: sid\nComponents: main\n", "forky")
    'types: deb\nuris: u\nsuites: sid\ncomponents: main non-free\n'
    """
    found = []
    for stanza in re.split(r"\n\s*\n", text):
        fields = _fields(stanza)
        suites = set(fields.get("suites", "").split())
        components = fields.get("components", "").split()
        is_on = fields.get("enabled", "yes").strip().lower() not in ("no", "false", "0", "off")
        has_packages = "deb" in fields.get("types", "").split()
        ours = suites and suites <= _suites(release) and "main" in components
        if ours and is_on and has_packages:
            words = " ".join(dict.fromkeys([*components, component]))
            fields |= {"types": " deb", "components": f" {words}"}
            found.append("".join(f"{name}:{value}\n" for name, value in fields.items()))
    return "\n".join(found)


def _fields(stanza: str) -> dict[str, str]:
    """Values by lower-case name, as they are written; comments are left out."""
    lines = (line for line in stanza.splitlines() if not line.startswith("#"))
    pairs = re.findall(r"^([^\s:]+):(.*(?:\n[ \t].*)*)", "\n".join(lines), re.MULTILINE)
    return {name.lower(): value for name, value in pairs}


def _suites(release: str) -> set[str]:
    return {name + ending for name in (release, *ROLLING) for ending in SUITE_ENDINGS}


def _sources() -> dict[str, str]:
    """Copies of the machine's own apt sources of Debian, with the component.

    Raises:
        UsageError: this is no Debian, or none of its sources is Debian's.
    """
    try:
        system = platform.freedesktop_os_release()
    except OSError:
        system = {}
    if system.get("ID") != "debian":
        name = system.get("PRETTY_NAME", platform.system())
        raise UsageError(f"nsys is fetched on Debian alone, and this is {name}; {ELSEWHERE}")
    release = system.get("VERSION_CODENAME", "")
    copies = {}
    for number, path in enumerate(_source_files()):
        rewritten = stanzas_with_component if path.suffix == ".sources" else with_component
        if text := rewritten(path.read_text(errors="replace"), release):
            copies[f"{number}{path.suffix}"] = text
    if not copies:
        raise UsageError(
            f"no source of Debian {release} with the component main is in {APT_FOLDER}, from which "
            f"nsys could be fetched; {ELSEWHERE}"
        )
    return copies


def _source_files() -> Iterator[Path]:
    listed = [APT_FOLDER / "sources.list", *sorted((APT_FOLDER / "sources.list.d").glob("*"))]
    yield from (p for p in listed if p.suffix in (".list", ".sources") and os.access(p, os.R_OK))


def _mend(root: Path) -> None:
    """Put the importer where nsys looks, the libraries where the importer does; drop the rest."""
    importer = root / "usr" / "lib" / "nsight-systems" / IMPORTER
    for target in root.glob("usr/lib/*/nsight-systems/target-linux-*"):
        beside = target.parent / IMPORTER
        if not beside.is_symlink():
            beside.symlink_to(os.path.relpath(importer, target.parent))
    if not importer.is_dir():
        return  # of a newer package, which may need nothing of this
    for library in [*root.glob("usr/lib/*/lib*.so.*"), *root.glob("lib/*/lib*.so.*")]:
        link = importer / library.name
        if not link.exists():
            link.symlink_to(os.path.relpath(library, importer))
    unneeded = (path for pattern in UNNEEDED for path in importer.glob(pattern))
    _remove([*unneeded, root / "usr" / "share"])
    _remove([path for path in root.rglob("*") if path.is_symlink() and not path.exists()])


def _remove(paths: Iterable[Path]) -> None:
    for path in paths:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def _try(nsys: Nsys) -> None:
    """Capture nothing, and see that a report and an export come of it.

    Raises:
        KernelprofError: they do not.
    """
    with tempfile.TemporaryDirectory(prefix="kernelprof-nsys-") as folder:
        base = Path(folder) / "tried"
        words = ["--trace", "none", "--sample", "none", "--cpuctxsw", "none", "--export", "sqlite"]
        said = asked(nsys.path, "profile", *words, "--output", str(base), "sleep", "0.1")
        if not base.with_suffix(".sqlite").is_file():
            last = " / ".join(said.strip().splitlines()[-3:])
            raise KernelprofError(
                f"nsys {nsys.version} was fetched and does not work here: {last}; {ELSEWHERE}"
            )
