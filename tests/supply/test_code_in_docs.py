"""What the docs say about the code is there: modules, names in them, and imports of their examples."""

import importlib
import re
from pathlib import Path

import pytest

from tests import installed

PAGES = [
    *sorted((installed.ROOT / "docs").rglob("*.md")),
    *(installed.ROOT / f"{n}.md" for n in ("README", "CONTRIBUTING")),
]
PACKAGE = installed.ROOT / "exporter"
# `snapshot/reading.py` or `snapshot/reading.py: Reading.read`; folders are those of exporter/ or of the repository.
NAMED = re.compile(r"`((?:[\w-]+/)+\w+\.py)(?:: ([\w.]+))?")
IMPORTED = re.compile(r"^from (exporter[\w.]*) import ([\w, ]+)$", re.MULTILINE)


def missing(module: str, names: str) -> list[str]:
    found = importlib.import_module(module)
    return [f"{module}.{name}" for name in names.split(", ") if not hasattr(found, name)]


def absent(path: str, name: str) -> list[str]:
    """What is not there of a file that a page names, and of a name in it."""
    if (installed.ROOT / path).is_file():
        word = name.partition(".")[0]
        return [] if word in (installed.ROOT / path).read_text(encoding="utf-8") else [f"{path}: {name}"]
    if not (PACKAGE / path).is_file():
        return [path]
    found = importlib.import_module(".".join(("exporter", *Path(path).with_suffix("").parts)))
    for part in filter(None, name.split(".")):
        found = getattr(found, part, None)
    return [] if found else [f"{path}: {name}"]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_modules_and_names_that_a_page_mentions_exist(page):
    text = page.read_text(encoding="utf-8")
    wrong = [one for found in NAMED.finditer(text) for one in absent(found[1], found[2] or "")]
    assert [] == wrong + [one for found in IMPORTED.finditer(text) for one in missing(*found.groups())]


def test_pages_mention_modules_and_import_from_them():
    text = "".join(page.read_text(encoding="utf-8") for page in PAGES)
    assert len(NAMED.findall(text)) > 30
    assert len(IMPORTED.findall(text)) > 3
    assert ["snapshot/gone.py"] == absent("snapshot/gone.py", "")
    assert ["snapshot/reading.py: Reading.gone"] == absent("snapshot/reading.py", "Reading.gone")
    assert ["exporter.snapshot.reading.MAP_PARTS"] == missing("exporter.snapshot.reading", "Reading, MAP_PARTS")
