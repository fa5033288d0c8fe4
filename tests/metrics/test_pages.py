"""Generated pages match the program, and every page of the site is in the navigation."""

import re
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"


def test_the_reference_of_commands_is_what_help_says():
    done = subprocess.run(
        [sys.executable, ROOT / ".ci/command-docs", "--check"], capture_output=True, text=True, check=False
    )
    assert (0, "") == (done.returncode, done.stdout), done.stderr


def test_every_page_is_in_the_contents_of_the_site_once():
    text = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    listed = re.findall(r"([\w/-]+\.md)$", text.partition("\nnav:")[2], re.MULTILINE)
    assert sorted(path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md")) == sorted(listed)
    assert yaml.safe_load(text)["strict"] is True


def test_lists_and_tables_begin_after_an_empty_line():
    """Else the site, unlike GitHub, shows them as a paragraph."""
    block = re.compile(r"(?:\* |- |\d+\. |\|)")
    found = []
    for path in sorted(DOCS.rglob("*.md")):
        text = re.sub(r"^```.*?^```$", "```", path.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
        lines = text.splitlines()
        found += [
            f"{path.name}: {line}"
            for before, line in pairwise(lines)
            if block.match(line) and before and not block.match(before) and not before.startswith(" ")
        ]
    assert [] == found


def test_the_site_fetches_nothing_from_elsewhere():
    assert yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))["theme"]["font"] is False


def test_each_target_of_make_is_listed_once_and_has_a_recipe():
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    (declared,) = re.findall(r"^\.PHONY: (.*)$", text, re.MULTILINE)
    targets = re.findall(r"^([a-z-]+):", text, re.MULTILINE)
    assert sorted(declared.split()) == sorted(targets)
