"""Chromium and a real exporter, both inside the demo node; a page that complains in its console fails its test."""

import os
import shutil
import stat
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

import pytest

from exporter.demo.node import Node
from exporter.demo.plan import CART, DATABASE, FRONTEND
from tests.kernel.conftest import give_up, machine  # noqa: F401  a fixture for the one node here
from tests.kernel.machine import Serving

PICTURES = Path(__file__).parents[2] / "build" / "pictures"
HOSTILE = "<img src=x onerror=alert(1)>\"'&{{7*7}}"
WIDE, PHONE = {"width": 1280, "height": 800}, {"width": 390, "height": 844}
AXE = Path(__file__).parents[2] / ".tools" / "definitions" / "axe.min.js"


def pytest_collection_modifyitems(items):
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.browser)


@pytest.fixture(scope="session")
def node(machine, tmp_path_factory):  # noqa: F811
    """The demo node, where nothing is sent but what a test sends, with a pod of a hostile name."""
    made = Node(f"b{os.getpid()}", tmp_path_factory.mktemp("demo") / "demo")
    try:
        made.build()
        (status,) = [one for one in (made.run_dir / "endpoint-status").iterdir() if DATABASE.name in one.name]
        status.rename(status.with_name(f"k8s data%2F{quote(HOSTILE, safe='')} eth0"))
        yield made
    finally:
        made.close()


@pytest.fixture(scope="session")
def chromium(node, tmp_path_factory):
    """The browser, started in the node's network namespace."""
    if not shutil.which("chromium"):
        give_up("needs chromium: run make test-browser")
    from playwright.sync_api import sync_playwright

    start = tmp_path_factory.mktemp("chromium") / "chromium"
    start.write_text(f'#!/bin/sh\nexec ip netns exec {node.namespace} chromium "$@"\n', encoding="utf-8")
    start.chmod(start.stat().st_mode | stat.S_IXUSR)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=start, args=["--no-sandbox"])
        yield browser
        browser.close()


@contextmanager
def serving(node, folder, *more):
    """A `serve` on the node."""
    one = Serving(
        node.bpf.path, node.run_dir, folder / "log", prefix=("ip", "netns", "exec", node.namespace), more=more
    )
    try:
        yield one
    finally:
        one.end()


@pytest.fixture(scope="module")
def exporter(node, tmp_path_factory):
    """The address of an exporter on the node."""
    with serving(node, tmp_path_factory.mktemp("serve")) as one:
        yield f"http://127.0.0.1:{one.port}"


@pytest.fixture
def opened(chromium, exporter):
    """Opens a path of the exporter in a browser of its own, made with these options of Playwright."""
    contexts, complaints = [], []

    def open_page(path="/", *, address=exporter, **options):
        context = chromium.new_context(**{"viewport": WIDE, **options})
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(15_000)
        page.on("console", lambda said: complaints.append(f"{said.type}: {said.text}"))
        page.on("pageerror", lambda error: complaints.append(f"error: {error}"))
        page.on("dialog", lambda dialog: (complaints.append(f"dialog: {dialog.message}"), dialog.dismiss()))
        page.complaints = complaints
        page.goto(f"{address}{path}")
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert [] == complaints


@pytest.fixture
def deny(node):
    """Sends so many packets from the frontend that its policy denies."""
    return lambda count: node.send(FRONTEND, "udp", CART.ipv4, 6666, count)


@pytest.fixture
def drawn(opened, deny):
    """A path of the exporter, opened after the frontend's graph had two intervals at least, with drops in one."""

    def open_page(path="/", **options):
        watched = opened(f"/?interface={FRONTEND.interface}")
        deny(3)
        watched.locator(".plot .column").nth(1).wait_for(state="attached", timeout=30_000)
        watched.locator("figure path.line-0").first.wait_for(state="attached", timeout=30_000)
        watched.close()
        deny(2)
        return opened(path, **options)

    return open_page


@pytest.fixture
def violations():
    """What axe-core finds wrong on a page."""
    if not AXE.exists():
        give_up("axe-core is not here: `make setup` brings it")
    source = AXE.read_text(encoding="utf-8")

    def of(page):
        page.evaluate(source)
        found = page.evaluate("axe.run().then(found => found.violations)")
        return [(one["id"], [node["html"] for node in one["nodes"]]) for one in found]

    return of


@pytest.fixture
def picture():
    """Saves a screenshot of a page for review and for the README."""

    def keep(page, name, **options):
        PICTURES.mkdir(parents=True, exist_ok=True)
        page.screenshot(path=PICTURES / f"{name}.png", **options)

    return keep
