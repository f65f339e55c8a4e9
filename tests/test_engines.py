"""The engines' environments: the user's own, and those that are made."""

from __future__ import annotations

import sys
import zipfile

import pytest

from kernelprof import engines
from kernelprof.engines import (
    ENGINES,
    EngineSpec,
    configured,
    environment,
    home,
    install,
    known,
)
from kernelprof.errors import KernelprofError, UsageError

WHEEL = "tiny_engine-1.0-py3-none-any.whl"
METADATA = "Metadata-Version: 2.1\nName: tiny-engine\nVersion: 1.0\n"
TAGS = "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("KERNELPROF_HOME", str(tmp_path))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    return tmp_path


@pytest.fixture
def tiny(folder, monkeypatch):
    """An engine whose only package is a file beside it."""
    wheel = folder / WHEEL
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("tiny_engine.py", "VALUE = 42\n")
        archive.writestr("tiny_engine-1.0.dist-info/METADATA", METADATA)
        archive.writestr("tiny_engine-1.0.dist-info/WHEEL", TAGS)
        archive.writestr("tiny_engine-1.0.dist-info/RECORD", "")
    spec = EngineSpec("tiny", "Tiny", (str(wheel),))
    monkeypatch.setitem(ENGINES, "tiny", spec)
    return spec


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

    @pytest.mark.parametrize(
        ("text", "complaint"),
        [
            ("[torch\n", "line 1"),
            ('[torch]\npython = "/nonexistent/python"\n', "no program that can be run"),
            ('torch = "/bin/sh"\n', "no program that can be run"),
            ("[mine]\n", "adapter = 'mine' is no file, nor one of numpy, torch"),
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
        with pytest.raises(UsageError, match="unknown engine 'caffe'; known: numpy, torch, mine"):
            environment("caffe")

    def test_half_an_environment_is_none(self, folder, tiny):
        assert environment("tiny") is None
        python = folder / "engines" / "tiny" / "bin" / "python"
        python.parent.mkdir(parents=True)
        python.symlink_to(sys.executable)
        assert environment("tiny") is None
        (folder / "engines" / "tiny" / "complete.txt").write_text("python 2.7\nsomething else\n")
        assert environment("tiny") is None


class TestInstall:
    """Environments are made whole or not at all."""

    def test_an_environment_is_made_once(self, folder, tiny, monkeypatch):
        lines = []
        left = folder / "engines" / "tiny" / "left-behind"
        left.parent.mkdir(parents=True)
        left.touch()
        assert install("tiny", lines.append) is True
        assert not left.exists()
        assert lines[0] == f"tiny: making {folder / 'engines' / 'tiny'}"
        assert any("Successfully installed" in line for line in lines)
        found = environment("tiny")
        assert found.python == str(folder / "engines" / "tiny" / "bin" / "python")
        assert list((folder / "engines" / "tiny").glob("lib/*/site-packages/tiny_engine.py"))
        assert install("tiny", lines.append) is False
        # Another version of the packages is another environment.
        monkeypatch.setitem(ENGINES, "tiny", EngineSpec("tiny", "Tiny", ("tiny-engine==2",)))
        assert environment("tiny") is None

    def test_what_pip_refuses_is_not_there(self, folder, tiny, monkeypatch):
        monkeypatch.setitem(ENGINES, "tiny", EngineSpec("tiny", "Tiny", ("no-such-engine==1",)))
        with pytest.raises(KernelprofError, match="no-such-engine") as refusal:
            install("tiny", lambda line: None)
        assert "run `kernelprof engines install tiny` again" in str(refusal.value)
        assert environment("tiny") is None

    def test_an_unknown_engine(self, folder):
        with pytest.raises(UsageError, match="unknown engine 'caffe'"):
            install("caffe", lambda line: None)


def test_names_agree_with_their_keys():
    assert all(spec.name == name for name, spec in engines.ENGINES.items())
    assert engines.REFERENCE in ENGINES
