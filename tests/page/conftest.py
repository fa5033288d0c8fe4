"""Nodes made in memory and recordings, snapshots of them, and what a browser would make of a page's bytes."""

from dataclasses import replace
from html.parser import HTMLParser

import pytest

from exporter.page.html import Html
from exporter.page.views import PARTS, Wanted, endpoint_named, endpoint_view, node_view
from tests.nodes import make, recorded  # noqa: F401  fixtures that several packages share

HERE = "v3.32.1/02-ingress-deny"


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


@pytest.fixture(scope="session")
def pair(recorded, snapshot_at):  # noqa: F811
    """Both snapshots of the recording in which a policy of the server's dropped what the client sent."""
    return snapshot_at(recorded(f"{HERE}.before"), 0), snapshot_at(recorded(f"{HERE}.after"), 4)


@pytest.fixture
def node_text(html, parsed, pair):
    """The text of the node's page with these filters."""

    def of(**wanted):
        asked = Wanted(**wanted)
        return parsed(html.node_page(node_view(*pair, asked, failures={"counters": None}), asked)).text

    return of


@pytest.fixture
def endpoint_page(html, pair):
    """The page of the endpoint of this interface."""

    def of(interface):
        return html.endpoint_page(endpoint_view(*pair, endpoint_named(pair[1], interface)))

    return of
