"""Nodes made in memory and recordings, snapshots of them, and what a browser would make of a page's bytes."""

from dataclasses import replace
from html.parser import HTMLParser

import pytest

from exporter.page.html import Html
from exporter.page.views import PARTS
from tests.nodes import make, recorded  # noqa: F401  fixtures that several packages share


class Parsed(HTMLParser):
    """A page as a browser reads it: `shape` are its tags with the names of their attributes, `text` all its text.

    `attributes` are all values of attributes.
    """

    def __init__(self, body):
        super().__init__(convert_charrefs=True)
        self.shape, self.pieces, self.attributes = [], [], []
        self.feed(body.decode())
        self.close()

    def handle_starttag(self, tag, attrs):
        self.shape.append((tag, *(name for name, _ in attrs)))
        self.attributes += [value for _, value in attrs if value]

    def handle_data(self, data):
        self.pieces.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.pieces).split())


@pytest.fixture(scope="session")
def parsed():
    """Reads a page."""
    return Parsed


@pytest.fixture
def html():
    """Writes pages of a node called `node-1`."""
    return Html("node-1", "/metrics")


@pytest.fixture(scope="session")
def snapshot_at(make):  # noqa: F811
    """A snapshot of this source with what the pages say that they need, whose maps were read at this second."""

    def at(source, seconds):
        return replace(make.snapshot(source, parts=PARTS), at=float(seconds))

    return at
