"""Check all types: ``python -m tests.typecheck``.

mypy follows packages by folder and knows nothing of the mapping in pyproject.toml, so it looks at
a farm of links in which ``probes`` and ``reports`` lie where they will once installed.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def farm(folder: Path) -> None:
    """Link the package together as an installation lays it out."""
    package = folder / "kernelprof"
    package.mkdir()
    for source in (ROOT / "kernelprof").iterdir():
        if source.suffix in (".py", ".typed") or (source / "__init__.py").exists():
            (package / source.name).symlink_to(source)
    for name in ("probes", "reports"):
        (package / name).symlink_to(ROOT / name)


def main() -> int:
    """Run mypy over the farm; its exit status."""
    with tempfile.TemporaryDirectory() as folder:
        farm(Path(folder))
        command = [sys.executable, "-m", "mypy", "--config-file", str(ROOT / "pyproject.toml")]
        cache = ["--cache-dir", str(ROOT / ".mypy_cache")]
        return subprocess.run([*command, *cache, "-p", "kernelprof"], cwd=folder).returncode


if __name__ == "__main__":
    sys.exit(main())
