"""For the documentation's site: links out of the folder of documents lead to the repository."""

import re
from pathlib import Path, PurePosixPath
from typing import Any

REPOSITORY = "https://github.com/calico-bpf-exporter/calico-bpf-exporter/blob/main"
ROOT = Path(__file__).parent.parent
LINK = re.compile(r"\]\(((?:\.\./)+[^)#\s]+)")


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Called by MkDocs with each page's text."""

    def absolute(found: re.Match[str]) -> str:
        target = (ROOT / "docs" / PurePosixPath(page.file.src_uri).parent / found[1]).resolve()
        if target.is_relative_to(ROOT / "docs"):
            return found[0]
        if not target.exists():
            raise SystemExit(f"{page.file.src_uri} leads to {found[1]}, which is not there")
        return f"]({REPOSITORY}/{target.relative_to(ROOT).as_posix()}"

    return LINK.sub(absolute, markdown)
