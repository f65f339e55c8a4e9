"""The engines' environments: the user's own, and those that are made."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from kernelprof import debian, engines
from kernelprof.engines import (
    ENGINES,
    EngineSpec,
    VirtualEnvironment,
    configured,
    environment,
    home,
    installed,
    known,
    stamp,
)
from kernelprof.errors import UsageError
from kernelprof.install import install


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("KERNELPROF_HOME", str(tmp_path))
    monkeypatch.setattr(engines, "OF_HOST", ())  # whatever this interpreter can import
    return tmp_path


def write(folder, text):
    (folder / "engines.toml").write_text(text)


class TestHome:
    """Where environments lie."""

    def test_it_can_be_moved(self, folder):
        assert home() == folder

    def test_it_is_a_cache_otherwise(self, monkeypatch, tmp_path):
        monkeypatch.delenv("KERNELPROF_HOME", raising=False)
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
        assert home() == tmp_path / "kernelprof"


class TestConfigured:
    """The user's engines.toml."""

    def test_without_one(self, folder):
        assert configured() == {}
        assert known() == list(ENGINES)

    def test_an_engine_of_the_users_own(self, folder):
        adapter = folder / "mine.py"
        adapter.touch()
        write(folder, f'[mine]\nadapter = "{adapter}"\nvariables = {{ A = 1, B = "x" }}\n')
        assert known() == [*ENGINES, "mine"]
        found = environment("mine")
        assert (found.engine, found.python, found.adapter) == ("mine", sys.executable, str(adapter))
        assert found.variables == {"A": "1", "B": "x"}
        assert install("mine", lambda line: None) is False

    def test_a_known_engine_in_another_interpreter(self, folder):
        write(folder, '[torch]\npython = "/bin/sh"\n')
        found = environment("torch")
        assert (found.python, found.adapter) == ("/bin/sh", "torch")
        assert known() == list(ENGINES)

    def test_where_its_libraries_lie(self, folder):
        write(folder, '[torch]\npython = "/bin/sh"\nlibrary_path = "/opt/lib"\n')
        assert environment("torch").variables == {"LD_LIBRARY_PATH": "/opt/lib"}

    @pytest.mark.parametrize(
        ("text", "complaint"),
        [
            ("[torch\n", "line 1"),
            ('[torch]\npython = "/nonexistent/python"\n', "no program that can be run"),
            ('torch = "/bin/sh"\n', "no program that can be run"),
            ("[mine]\n", "adapter = 'mine' is no file, nor one of numpy, torch, tensorflow"),
            ('[mine]\nadapter = "/nonexistent/mine.py"\n', "is no file"),
        ],
    )
    def test_mistakes(self, text, complaint, folder):
        write(folder, text)
        with pytest.raises(UsageError) as mistake:
            configured()
        assert str(mistake.value).startswith(f"{folder}/engines.toml: ")
        assert complaint in str(mistake.value)


class TestEnvironment:
    """Which engines are there."""

    def test_the_reference_is_always_there(self, folder):
        assert environment("numpy").python == sys.executable

    def test_an_unknown_engine_lists_the_known_ones(self, folder):
        write(folder, '[mine]\nadapter = "numpy"\n')
        with pytest.raises(UsageError, match=r"unknown engine 'nope'; known: .*, mine"):
            environment("nope")

    def test_half_an_environment_is_none(self, folder, monkeypatch):
        spec = EngineSpec("tiny", "Tiny", VirtualEnvironment(("tiny==1",)))
        monkeypatch.setitem(ENGINES, "tiny", spec)
        assert environment("tiny") is None
        python = folder / "engines" / "tiny" / "bin" / "python"
        python.parent.mkdir(parents=True)
        python.symlink_to(sys.executable)
        assert environment("tiny") is None
        complete = folder / "engines" / "tiny" / "complete.txt"
        complete.write_text("python 2.7\nsomething else\n")
        assert environment("tiny") is None
        complete.write_text(stamp(spec))
        assert environment("tiny").python == str(python)

    def test_half_a_debian_root_is_none(self, folder, monkeypatch):
        monkeypatch.setattr(debian, "find", lambda tool, home: f"/usr/bin/{tool}")
        for name in ("caffe", "cntk"):
            complete = folder / "engines" / name / "complete.txt"
            complete.parent.mkdir(parents=True)
            complete.write_text(stamp(ENGINES[name]))
        assert installed() == ["numpy"]
        (folder / "debian-11.complete.txt").write_text("\n".join(debian.PACKAGES))
        assert installed() == ["numpy", "caffe", "cntk"]


class TestCommand:
    """How an interpreter is started."""

    def test_shut_off_from_the_users_own_code(self, folder):
        command = environment("numpy").command(Path("/probes/boot.py"))
        assert command == [sys.executable, "-I", "-B", "/probes/boot.py"]

    def test_in_the_debian_root(self, folder, monkeypatch):
        monkeypatch.setattr(debian, "find", lambda tool, home: f"/usr/bin/{tool}")
        (folder / "debian-11.complete.txt").write_text("\n".join(debian.PACKAGES))
        complete = folder / "engines" / "cntk" / "complete.txt"
        complete.parent.mkdir(parents=True)
        complete.write_text(stamp(ENGINES["cntk"]))
        cntk = environment("cntk")
        *root, python, e, s, b, boot = cntk.command(Path("/probes/boot.py"))
        assert (python, e, s, b, boot) == ("python2.7", "-E", "-s", "-B", "/mnt/boot.py")
        assert root[:3] == ["env", "--unset=LD_PRELOAD", "/usr/bin/bwrap"]
        binds = {tuple(root[i + 1 : i + 3]) for i, word in enumerate(root) if word == "--ro-bind"}
        assert (str(folder / "debian-11"), "/") in binds
        assert ("/probes", "/mnt") in binds
        assert (str(complete.parent), "/usr/local/lib/python2.7/dist-packages") in binds
        assert cntk.variables["LD_LIBRARY_PATH"].startswith(
            "/usr/local/lib/python2.7/dist-packages/cntk/libs:"
        )


def test_names_agree_with_their_keys():
    assert all(spec.name == name for name, spec in engines.ENGINES.items())
    assert engines.REFERENCE in ENGINES
