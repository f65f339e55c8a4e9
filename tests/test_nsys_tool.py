"""Where nsys is found, what it says that it is, and how it comes from Debian."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from kernelprof import apt
from kernelprof.errors import KernelprofError, UsageError
from kernelprof.nsys import debian_package, tool
from kernelprof.nsys.debian_package import install, stanzas_with_component, with_component

NEW = "NVIDIA Nsight Systems version 2024.6.2.225-246235244400v0"
DEBIAN_12 = """
# of the image
Types: deb
# a comment between
URIs: http://deb.debian.org/debian
Suites: bookworm bookworm-updates
Components: main
Signed-By:
 -----BEGIN PGP PUBLIC KEY BLOCK-----
 .
 abc
 -----END PGP PUBLIC KEY BLOCK-----

Types: deb
URIs: https://vendor.example/debian
Suites: vendor
Components: main

Types: deb deb-src
URIs: http://deb.debian.org/debian-security
Suites: bookworm-security
Components: main contrib non-free

Enabled: no
Types: deb
URIs: http://deb.debian.org/debian
Suites: sid
Components: main
"""
LIST = """
deb cdrom:[Debian]/ bookworm main   # an old one
# deb http://deb.debian.org/debian sid main
deb [signed-by=/usr/share/keyrings/x.gpg arch=amd64] http://deb.debian.org/debian bookworm main
deb-src http://deb.debian.org/debian bookworm main
deb https://vendor.example/apt bookworm stable
deb https://vendor.example/other vendor main
"""


def program(path: Path, says: str) -> Path:
    """A program that prints something, whatever it is asked."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\ncat <<'END'\n{says}\nEND\n")
    path.chmod(0o755)
    return path


@pytest.fixture(autouse=True)
def bare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine without nsys."""
    monkeypatch.delenv(tool.VARIABLE, raising=False)
    monkeypatch.setenv("KERNELPROF_HOME", str(tmp_path / "home"))
    words = os.environ["PATH"].split(os.pathsep)
    without = [word for word in words if not (Path(word) / "nsys").exists()]
    monkeypatch.setenv("PATH", os.pathsep.join(without))
    monkeypatch.setattr(tool, "_usual", list)
    return tmp_path


class TestFinding:
    """From the one that is named to the usual places."""

    def test_each_place_in_its_turn(self, bare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        assert tool.find() is None
        usual = program(bare / "usual" / "nsys", NEW)
        monkeypatch.setattr(tool, "_usual", lambda: [usual])
        assert tool.find() == usual
        fetched = program(tool.program_in(bare / "home" / "nsys"), NEW)
        assert tool.find() == fetched
        on_path = program(bare / "bin" / "nsys", NEW)
        monkeypatch.setenv("PATH", f"{on_path.parent}{os.pathsep}{os.environ['PATH']}")
        assert tool.find() == on_path
        named = program(bare / "named" / "my-nsys", NEW)
        monkeypatch.setenv(tool.VARIABLE, str(named))
        assert tool.find() == named

    def test_the_newest_of_the_usual_places(
        self, bare: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.undo()
        for version in ("2024.10.1", "2024.9.1", "2023.4.4"):
            program(bare / "opt" / version / "bin" / "nsys", NEW)
        (bare / "opt" / "2025.1.1" / "bin").mkdir(parents=True)
        (bare / "opt" / "2025.1.1" / "bin" / "nsys").write_text("no program")
        found = tool._usual([f"{bare}/opt/*/bin/nsys"])
        assert [path.parts[-3] for path in found] == ["2024.10.1", "2024.9.1", "2023.4.4"]

    def test_what_is_named_must_be_a_program(
        self, bare: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv(tool.VARIABLE, str(bare / "nothing"))
        with pytest.raises(UsageError, match=r"KERNELPROF_NSYS=.*nothing: no program"):
            tool.find()

    def test_none_is_said_with_what_to_do(self) -> None:
        with pytest.raises(KernelprofError) as refusal:
            tool.require()
        message = str(refusal.value)
        assert "`kernelprof nsys install`" in message
        assert "--format perfetto" in message
        assert "\n" not in message


class TestVersions:
    """What a program says that it is."""

    @pytest.mark.parametrize(
        ("says", "version"),
        [
            (NEW, "2024.6.2.225-246235244400v0"),
            ("NVIDIA Nsight Systems version 2022.4.2.1-df9881f\n", "2022.4.2.1-df9881f"),
            ("WARNING: something\nNVIDIA Nsight Systems version 2022.1.1.61-1d07dc0\n", None),
        ],
    )
    def test_it_is_read(self, says: str, version: str | None, bare: Path) -> None:
        found = tool.identify(program(bare / "nsys", says))
        assert found.version == (version or "2022.1.1.61-1d07dc0")

    @pytest.mark.parametrize(
        ("says", "told"),
        [
            ("NVIDIA Nsight Systems version 2021.5.2.53-28d0e6e", "is nsys 2021.5, and 2022.1 or"),
            ("node-systemd 1.2", "does not say its version, but: node-systemd 1.2"),
            ("", "does not say its version"),
        ],
    )
    def test_what_cannot_be_used(self, says: str, told: str, bare: Path) -> None:
        with pytest.raises(KernelprofError, match=told):
            tool.identify(program(bare / "nsys", says))

    def test_one_that_cannot_be_run(self, bare: Path) -> None:
        broken = program(bare / "nsys", "")
        broken.write_bytes(b"\x7fELF and no more")
        with pytest.raises(KernelprofError, match="cannot be run: Exec format error"):
            tool.identify(broken)

    def test_one_that_hangs(self, bare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(tool, "PATIENCE_S", 0.2)
        slow = program(bare / "nsys", "")
        slow.write_text("#!/bin/sh\nexec sleep 60\n")
        with pytest.raises(KernelprofError, match="--version did not end within"):
            tool.identify(slow)

    def test_options_are_known_by_its_help(self, bare: Path) -> None:
        said = f"{NEW}\n\t--cuda-graph-trace=\n\t-t, --trace=\n\t see --python-sampling-frequency\n"
        found = tool.identify(program(bare / "nsys", said))
        assert found.knows("--cuda-graph-trace")
        assert found.knows("--trace")
        assert not found.knows("--cuda-graph")
        assert not found.knows("--python-sampling")


class TestSources:
    """Copies of apt's own sources: Debian's packages, with one more component."""

    def test_deb822(self) -> None:
        first, second = stanzas_with_component(DEBIAN_12, "bookworm").strip().split("\n\n")
        assert "suites: bookworm bookworm-updates\ncomponents: main non-free\n" in first
        assert "signed-by:\n -----BEGIN PGP PUBLIC KEY BLOCK-----\n .\n abc\n" in first
        assert "types: deb\n" in second
        assert second.endswith("components: main contrib non-free")

    def test_lists(self) -> None:
        rewritten = with_component(LIST, "bookworm").splitlines()
        options = "[signed-by=/usr/share/keyrings/x.gpg arch=amd64]"
        debian = "http://deb.debian.org/debian bookworm main non-free"
        assert rewritten[-1] == f"deb {options} {debian}"
        assert not any("vendor" in line or "deb-src" in line for line in rewritten)

    def test_another_release_has_nothing_to_give(self) -> None:
        assert stanzas_with_component(DEBIAN_12, "trixie") == ""
        assert with_component(LIST, "trixie") == ""

    def test_other_systems_are_told_what_there_is(
        self, bare: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        system = {"ID": "fedora", "PRETTY_NAME": "Fedora Linux 42"}
        monkeypatch.setattr(platform, "freedesktop_os_release", lambda: system)
        with pytest.raises(UsageError, match=r"this is Fedora Linux 42; .*nsight-systems-cli"):
            install(bare / "nsys", lambda what: None)

    def test_a_debian_without_sources(self, bare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        system = {"ID": "debian", "VERSION_CODENAME": "bookworm"}
        monkeypatch.setattr(platform, "freedesktop_os_release", lambda: system)
        monkeypatch.setattr(debian_package, "APT_FOLDER", bare)
        with pytest.raises(UsageError, match="no source of Debian bookworm"):
            install(bare / "nsys", lambda what: None)


class TestInstalling:
    """All of it or nothing."""

    @pytest.fixture
    def sources(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(debian_package, "_sources", dict)

    def test_what_does_not_run_leaves_nothing(
        self, bare: Path, sources: None, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def unpack(packages: object, target: Path, *rest: object) -> None:
            program(tool.program_in(target), NEW)
            (target / "usr" / "lib" / "nsight-systems" / "host-linux-x64").mkdir(parents=True)
            (target / "usr" / "lib" / "arch" / "nsight-systems" / "target-linux-x64").mkdir(
                parents=True
            )

        monkeypatch.setattr(apt, "unpack", unpack)
        with pytest.raises(KernelprofError, match=r"2024\.6\.2.* was fetched and does not work"):
            install(bare / "home" / "nsys", lambda what: None)
        assert list((bare / "home").iterdir()) == []

    def test_what_apt_says_is_told(
        self, bare: Path, sources: None, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        refusing = bare / "bin" / "apt-get"
        refusing.parent.mkdir()
        refusing.write_text("#!/bin/sh\necho 'E: Unable to locate package' >&2\nexit 100\n")
        refusing.chmod(0o755)
        monkeypatch.setenv("PATH", f"{refusing.parent}{os.pathsep}{os.environ['PATH']}")
        program(refusing.parent / "dpkg", "")
        with pytest.raises(KernelprofError, match=r"nsys is needed; apt-get said: E: Unable to"):
            install(bare / "home" / "nsys", lambda what: None)
        assert list((bare / "home").iterdir()) == []

    def test_from_debian(self, bare: Path) -> None:
        """The real packages; what is there already is not fetched again."""
        if shutil.which("apt-get") is None:
            pytest.skip("there is no apt-get, so nsys cannot be fetched")
        root = bare / "home" / "nsys"
        told: list[str] = []
        found = install(root, told.append)
        assert found.path == tool.program_in(root) == tool.find()
        assert len(told) == 2
        assert [path.name for path in root.parent.iterdir()] == ["nsys"]
        assert not [path for path in root.rglob("*") if path.is_symlink() and not path.exists()]
        assert install(root, told.append) == found
        assert len(told) == 2


def test_the_command_installs_and_says_where(bare: Path) -> None:
    there = program(bare / "named" / "nsys", NEW)
    done = subprocess.run(
        [sys.executable, "-m", "kernelprof", "nsys", "install"],
        env={**os.environ, tool.VARIABLE: str(there)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == f"nsys 2024.6.2.225-246235244400v0: is there, {there}\n"
