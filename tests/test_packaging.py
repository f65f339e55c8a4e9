"""What is installed: one import name, every file of the three rooms, and nothing else."""

from __future__ import annotations

import subprocess
import sys
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this checkout."""
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--outdir", str(folder), str(ROOT)],
        check=True,
        capture_output=True,
    )
    (built,) = folder.glob("*.whl")
    return built


def test_only_kernelprof_is_at_the_top_level(wheel: Path) -> None:
    names = {name.split("/")[0] for name in zipfile.ZipFile(wheel).namelist()}
    assert {name for name in names if not name.endswith(".dist-info")} == {"kernelprof"}


def test_every_source_file_is_in_the_wheel(wheel: Path) -> None:
    installed = set(zipfile.ZipFile(wheel).namelist())
    for room, place in (
        ("kernelprof", "kernelprof"),
        ("probes", "kernelprof/probes"),
        ("reports", "kernelprof/reports"),
    ):
        for path in (ROOT / room).iterdir():
            if path.is_file() and path.suffix in (".py", ".html", ".css", ".js", ".json", ".typed"):
                assert f"{place}/{path.name}" in installed


def test_every_package_is_listed(wheel: Path) -> None:
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    folders = {path.parent for path in (ROOT / "kernelprof").rglob("*.py")}
    folders |= {
        path.parent for room in ("probes", "reports") for path in (ROOT / room).rglob("*.py")
    }
    names = {"/".join(path.relative_to(ROOT).parts) for path in folders}
    names = {name if name.startswith("kernelprof") else f"kernelprof/{name}" for name in names}
    assert set(listed["packages"]) == {name.replace("/", ".") for name in names}


def test_the_installed_wheel_works_from_an_empty_folder(wheel: Path, tmp_path: Path) -> None:
    """The rooms are found without the checkout's fallback, and a worker starts."""
    environment = tmp_path / "environment"
    venv.create(environment, system_site_packages=False, with_pip=True)
    python = environment / "bin" / "python"
    subprocess.run(
        [str(python), "-m", "pip", "install", "--quiet", "--no-deps", str(wheel)],
        check=True,
        capture_output=True,
    )
    site = next((Path(sys.prefix) / "lib").glob("python*/site-packages"))
    program = (
        f"import sys; sys.path.append({str(site)!r})\n"  # the dependencies, after the wheel
        "import os, kernelprof\n"
        "from kernelprof.engines import Environment\n"
        "from kernelprof.launch import Worker\n"
        f"assert {str(ROOT)!r} not in kernelprof.__path__\n"
        f"python = Environment('numpy', {sys.executable!r}, 'numpy')\n"
        "worker = Worker(python, (min(os.sched_getaffinity(0)),))\n"
        "print(worker.ask('facts', 60)['version']); worker.close()\n"
    )
    done = subprocess.run(
        [str(python), "-c", program], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
