"""Where the command line writes: tables to stdout, progress and warnings to stderr."""

from __future__ import annotations

from rich.console import Console

out = Console(highlight=False)
err = Console(stderr=True, highlight=False)
