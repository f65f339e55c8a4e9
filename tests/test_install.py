"""How environments are made and removed: whole or not at all."""

from __future__ import annotations

import os
import shutil
import zipfile
from collections import namedtuple

import pytest

from kernelprof import debian
from kernelprof.engines import ENGINES, EngineSpec, VirtualEnvironment, environment
from kernelprof.errors import KernelprofError, UsageError
from kernelprof.install import install, remove

WHEEL = "tiny_engine-1.0-py3-none-any.whl"
METADATA = "Metadata-Version: 2.1\nName: tiny-engine\nVersion: 1.0\n"
TAGS = "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("KERNELPROF_HOME", str(tmp_path))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    return tmp_path


def write_wheel(folder, source="VALUE = 42\n"):
    """A package of one module beside the environments; where it lies."""
    wheel = folder / WHEEL
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("tiny.py", source)
        archive.writestr("tiny_engine-1.0.dist-info/METADATA", METADATA)
        archive.writestr("tiny_engine-1.0.dist-info/WHEEL", TAGS)
        archive.writestr("tiny_engine-1.0.dist-info/RECORD", "")
    return str(wheel)


@pytest.fixture
def tiny(folder, monkeypatch):
    """An engine of a single package."""
    use_packages(monkeypatch, write_wheel(folder))


def use_packages(monkeypatch, *packages):
    monkeypatch.setitem(ENGINES, "tiny", EngineSpec("tiny", "Tiny", VirtualEnvironment(packages)))


class TestInstall:
    """Environments are made whole or not at all."""

    def test_an_environment_is_made_once(self, folder, tiny, monkeypatch):
        lines = []
        left = folder / "engines" / "tiny" / "left-behind"
        left.parent.mkdir(parents=True)
        left.touch()
        assert install("tiny", lines.append) is True
        assert not left.exists()
        assert lines[0] == f"making {folder / 'engines' / 'tiny'}"
        assert any("Successfully installed" in line for line in lines)
        found = environment("tiny")
        assert found.python == str(folder / "engines" / "tiny" / "bin" / "python")
        assert list((folder / "engines" / "tiny").glob("lib/*/site-packages/tiny.py"))
        assert install("tiny", lines.append) is False
        # Another version of the packages is another environment.
        monkeypatch.setitem(
            ENGINES, "tiny", EngineSpec("tiny", "Tiny", VirtualEnvironment(("tiny-engine==2",)))
        )
        assert environment("tiny") is None

    def test_what_pip_refuses_is_not_there(self, folder, tiny, monkeypatch):
        monkeypatch.setitem(
            ENGINES, "tiny", EngineSpec("tiny", "Tiny", VirtualEnvironment(("no-such-engine==1",)))
        )
        with pytest.raises(KernelprofError, match="no-such-engine") as refusal:
            install("tiny", lambda line: None)
        assert "run `kernelprof engines install tiny` again" in str(refusal.value)
        assert environment("tiny") is None

    def test_what_does_not_run_is_not_there(self, folder, monkeypatch):
        use_packages(monkeypatch, write_wheel(folder, "raise ImportError('no libtiny.so')\n"))
        with pytest.raises(KernelprofError, match=r"does not run: .*libtiny"):
            install("tiny", lambda line: None)
        assert environment("tiny") is None

    def test_an_unknown_engine(self, folder):
        with pytest.raises(UsageError, match="unknown engine 'nope'"):
            install("nope", lambda line: None)

    def test_too_little_room_is_said_before_anything_is_made(self, folder, monkeypatch):
        usage = namedtuple("usage", "total used free")
        monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(9, 9, 5 * 10**8))
        with pytest.raises(KernelprofError, match=r"tensorflow needs 3 GB in .*, 0.5 GB are free"):
            install("tensorflow", lambda line: None)
        assert not (folder / "engines").exists()

    def test_a_debian_without_tools_and_without_apt(self, folder, monkeypatch):
        monkeypatch.setattr(shutil, "which", lambda tool, path=None: None)
        with pytest.raises(KernelprofError) as refusal:
            install("caffe", lambda line: None)
        message = str(refusal.value)
        assert "\n" not in message
        assert "`apt-get install mmdebstrap bubblewrap uidmap`" in message

    @pytest.mark.parametrize("broken", ["apt-get", "dpkg"])
    def test_a_tool_of_debian_that_fails_ends_in_one_sentence(self, broken, folder, monkeypatch):
        scripts = {
            "apt-get": "touch mmdebstrap.deb  # in the folder that it was started in",
            "dpkg": "exit 0",
            broken: "echo reading >&2; echo 'E: it is broken' >&2; exit 2",
        }
        (folder / "bin").mkdir()
        for name, script in scripts.items():
            tool = folder / "bin" / name
            tool.write_text(f"#!/bin/sh\n{script}\n")
            tool.chmod(0o755)
        monkeypatch.setenv("PATH", f"{folder / 'bin'}:{os.environ['PATH']}")
        monkeypatch.setattr(debian, "find", lambda tool, home: None)
        with pytest.raises(KernelprofError) as refusal:
            install("caffe", lambda line: None)
        message = str(refusal.value)
        assert f"{broken} said: reading / E: it is broken; install them with" in message
        assert "\n" not in message

    def test_a_debian_root_that_fails_is_not_there(self, folder, monkeypatch):
        false = shutil.which("false")
        monkeypatch.setattr(debian, "find", lambda tool, home: false)
        with pytest.raises(KernelprofError, match="KERNELPROF_DEBIAN_MIRROR"):
            install("caffe", lambda line: None)
        assert not debian.is_complete(folder)
        assert environment("caffe") is None


class TestRemove:
    """What kernelprof made it takes away again."""

    def test_an_environment(self, folder, tiny):
        install("tiny", lambda line: None)
        assert remove("tiny") is True
        assert environment("tiny") is None
        assert not (folder / "engines" / "tiny").exists()
        assert remove("tiny") is False

    def test_the_debian_root_goes_with_the_last_engine(self, folder):
        for name in ("engines/caffe", "engines/cntk", "debian-11"):
            (folder / name).mkdir(parents=True)
        assert remove("caffe") is True
        assert (folder / "debian-11").exists()
        assert remove("cntk") is True
        assert not (folder / "debian-11").exists()

    @pytest.mark.parametrize("name", ["numpy", "nope"])
    def test_what_kernelprof_did_not_make(self, folder, name):
        with pytest.raises(UsageError, match="makes no environment for"):
            remove(name)

    def test_the_users_own(self, folder):
        (folder / "engines.toml").write_text('[torch]\npython = "/bin/sh"\n')
        with pytest.raises(UsageError, match=r"delete its entry in .*engines\.toml"):
            remove("torch")
