"""Blocks of the README and of the docs that show commands on recordings show what these print."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = ("README.md", *sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").rglob("*.md")))
BLOCKS = [
    (page, block)
    for page in PAGES
    for block in re.findall(r"^```console\n(.*?)^```$", (ROOT / page).read_text("utf-8"), re.MULTILINE | re.DOTALL)
]
SHOWN = [
    (page, command, output)
    for page, block in BLOCKS
    for command, output in re.findall(r"^\$ calico-bpf-exporter (.*)\n((?:(?!\$ ).*\n)*)", block, re.MULTILINE)
]


@pytest.mark.parametrize(
    ("page", "command", "output"), SHOWN, ids=[f"{page} {line.split()[0]}" for page, line, _ in SHOWN]
)
def test_a_block_shows_what_the_command_prints(run, monkeypatch, page, command, output):
    monkeypatch.chdir(ROOT)
    assert "--bundle" in command, page
    assert output == run(*command.split()).stdout


def test_the_readme_the_guides_and_the_page_about_trace_show_output():
    guides = {f"docs/guides/{name}.md" for name in ("denied-pod", "full-map", "new-policy", "upgrade")}
    assert {"README.md", "docs/trace.md", *guides} <= {page for page, *_ in SHOWN}
