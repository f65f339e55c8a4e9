"""Put the published reports into the site, where pages link to them as the repository has them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File

PUBLISHED = Path(__file__).resolve().parent.parent / "reports" / "published"
LINK = re.compile(r"\]\((?P<up>(?:\.\./)+)reports/published/")


def on_files(files: Any, config: Any) -> Any:
    """Add what lies in the folders of published reports, but for the runs themselves."""
    for path in sorted(PUBLISHED.rglob("*")):
        if path.is_file() and path.suffix != ".kprof":
            name = f"published/{path.relative_to(PUBLISHED)}"
            files.append(File.generated(config, name, abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Turn links out of docs/ into links within the site."""
    return LINK.sub(lambda link: f"]({link['up'].removesuffix('../')}published/", markdown)
