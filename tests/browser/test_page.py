"""The page in a real browser: what it shows, that it lives, that names stay text, and that everybody can use it."""

import re

import pytest

from exporter.demo.plan import CART, FRONTEND
from tests.browser.conftest import HOSTILE, PHONE, WIDE, serving

AXE = {"light": {"color_scheme": "light"}, "dark": {"color_scheme": "dark"}, "phone": {"viewport": PHONE}}
# htpasswd -nbBC 4 bob secret
USERS = "basic_auth_users: {bob: $2b$04$CNMLp9ECozCKhXUF5V./FO/qWDiMhrLmi2XJLGkt2.aZ.YdkfSUfC}\n"


def row_of(page, endpoint, direction):
    """The row of an endpoint in one direction."""
    return page.locator("#endpoints tbody tr").filter(
        has=page.get_by_role("link", name=endpoint, exact=True), has_text=re.compile(rf"\b{direction}\b")
    )


def dropped(row):
    """What a row says was ever dropped."""
    return int(row.locator("td.number").last.inner_text().replace(",", ""))


def test_the_page_shows_who_drops_what_and_goes_on_without_being_loaded_again(opened, deny):
    page = opened()
    assert "What this node drops" == page.locator("h1").inner_text()
    row = row_of(page, "shop/frontend", "outbound")
    before = dropped(row)
    page.evaluate("window.loadedOnce = true")
    deny(7)
    row.get_by_text(f"policy {before + 7}", exact=True).wait_for()
    assert before + 7 == dropped(row)
    assert page.evaluate("window.loadedOnce")
    page.locator("tr.dropping svg path").wait_for(state="attached")
    assert "shop/frontend" == page.locator("#endpoints tbody th a").first.inner_text()


def test_a_name_with_markup_in_it_is_text(opened):
    page = opened()
    assert page.get_by_role("link", name=f"data/{HOSTILE}").first.is_visible()
    assert 0 == page.locator("img").count()
    page.get_by_role("link", name=f"data/{HOSTILE}").first.click()
    assert f"data/{HOSTILE}" == page.locator("h1").inner_text()
    page.goto(page.url + "&interface=" + "%3Cimg%20src=x%3E")
    assert 0 == page.locator("img").count()


def test_an_endpoints_page_says_why_and_is_live(opened, deny):
    page = opened()
    row_of(page, "shop/frontend", "outbound").get_by_role("link").click()
    assert "shop/frontend" == page.locator("h1").inner_text()
    rule = page.get_by_role("row", name=re.compile(r"security GlobalNetworkPolicy security.gate 0 deny")).last
    hits = int(rule.locator(".number").first.inner_text())
    deny(5)
    rule.locator(".number").first.get_by_text(str(hits + 5), exact=True).wait_for()
    page.get_by_text(re.compile("reason policy: a rule, a tier's end")).wait_for()
    assert page.get_by_role("link", name="policy", exact=True).get_attribute("href").endswith("reasons.md#policy")
    page.get_by_role("link", name="All endpoints of this node").click()
    assert "What this node drops" == page.locator("h1").inner_text()


@pytest.mark.parametrize("script", [True, False])
def test_the_form_says_which_rule_decides_and_the_answer_stays(opened, picture, script):
    page = opened(f"/?interface={FRONTEND.interface}", java_script_enabled=script)
    form = page.get_by_role("form", name="Which rule decides")
    form.get_by_label("A packet").select_option("from")
    form.get_by_label("Peer").fill(CART.ipv4)
    form.get_by_label("Protocol").fill("udp")
    form.get_by_label("Port").fill("6666")
    form.get_by_role("button", name="Which rule decides?").click()
    answer = page.get_by_role("region", name="Which rule decides about this packet")
    first = f"shop/frontend ({FRONTEND.ipv4}) to shop/cart ({CART.ipv4}), udp to port 6666: denied."
    assert first == answer.locator("p").first.inner_text()
    assert "GlobalNetworkPolicy security.gate, tier security, rule 0" in answer.inner_text()
    assert (CART.ipv4, "udp", "6666") == tuple(
        form.get_by_label(name).input_value() for name in ("Peer", "Protocol", "Port")
    )
    if not script:
        return
    picture(page, "page-trace")
    form.get_by_label("Peer").fill("shop/ca")
    old, asked = page.locator("#main").element_handle(), []
    page.on("request", lambda request: asked.append(request.url))
    page.wait_for_function("old => !old.isConnected", arg=old)
    assert first == answer.locator("p").first.inner_text()
    assert "shop/ca" == form.get_by_label("Peer").input_value()
    assert [False] == list({"peer=" in url for url in asked})


def test_hostile_text_in_the_form_stays_text(opened):
    page = opened(f"/?interface={FRONTEND.interface}")
    form = page.get_by_role("form", name="Which rule decides")
    form.get_by_label("Peer").fill(HOSTILE)
    form.get_by_label("Port").fill("80")
    form.get_by_role("button", name="Which rule decides?").click()
    answer = page.get_by_role("region", name="Which rule decides about this packet")
    assert answer.inner_text().startswith(f"data/{HOSTILE} (")  # a pod of this name is on the demo node
    assert HOSTILE == form.get_by_label("Peer").input_value()
    assert 0 == page.locator("img").count()


def test_filters_leave_what_was_asked_for_without_script_too(opened, deny):
    deny(1)
    page = opened(java_script_enabled=False)
    page.get_by_label("Namespace").select_option("shop")
    page.get_by_label("Reason").select_option("policy")
    page.get_by_role("button", name="Filter").click()
    assert ["shop/frontend"] == page.locator("#endpoints tbody th a").all_inner_texts()
    page.get_by_role("link", name="Show all").click()
    assert page.locator("#endpoints tbody tr").count() > 4
    assert not page.locator("#pause").is_visible()


def test_the_page_can_be_paused_and_goes_on(opened, deny):
    page = opened()
    row = row_of(page, "shop/frontend", "outbound")
    before = dropped(row)
    page.get_by_role("button", name="Pause").click()
    deny(3)
    page.wait_for_timeout(5000)  # more than two updates
    assert before == dropped(row)
    page.get_by_role("button", name="Go on").click()
    row.get_by_text(f"policy {before + 3}", exact=True).wait_for()


def test_an_exporter_that_is_gone_is_said_so_and_found_again(opened, node, tmp_path):
    with serving(node, tmp_path) as first:
        page = opened(address=f"http://127.0.0.1:{first.port}")
        assert "live" == page.locator("#status").inner_text()
    page.locator("#status", has_text="not live").wait_for()
    with serving(node, tmp_path, "--web.listen-address", f"127.0.0.1:{first.port}"):
        page.locator("#status", has_text=re.compile("^live$")).wait_for()
    page.complaints[:] = [one for one in page.complaints if "ERR_CONNECTION_REFUSED" not in one]


def test_the_keyboard_is_not_lost_when_the_page_is_renewed(opened):
    page = opened()
    page.keyboard.press("Tab")
    assert "To the content" == page.evaluate("document.activeElement.textContent")
    row_of(page, "shop/cart", "inbound").get_by_role("link").focus()
    old = page.locator("#main").element_handle()
    page.wait_for_function("old => !old.isConnected", arg=old)
    assert "shop/cart" == page.evaluate("document.activeElement.textContent")
    page.keyboard.press("Enter")
    page.locator("h1", has_text="shop/cart").wait_for()


@pytest.mark.parametrize("kind", AXE)
@pytest.mark.parametrize(
    "path",
    [
        "/",
        f"/?interface={FRONTEND.interface}",
        f"/?interface={FRONTEND.interface}&peer={CART.ipv4}&protocol=udp&port=6666",
    ],
)
def test_nothing_stands_in_anybodys_way(opened, picture, deny, kind, path):
    from axe_playwright_python.sync_playwright import Axe

    deny(2)
    page = opened(path, **AXE[kind])
    page.wait_for_timeout(2500)  # until the script has renewed it
    found = Axe().run(page).response["violations"]
    assert [] == [(one["id"], [node["html"] for node in one["nodes"]]) for one in found]
    picture(page, f"{'node' if path == '/' else 'endpoint'}-{kind}", full_page=True)


@pytest.mark.parametrize("path", ["/", f"/?interface={CART.interface}"])
def test_a_phone_shows_it_without_scrolling_sideways(opened, path):
    page = opened(path, viewport=PHONE)
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
    assert page.locator("h1").is_visible()


def test_behind_a_password_the_page_lives_too(opened, node, tmp_path, deny):
    config = tmp_path / "web.yml"
    config.write_text(USERS, encoding="utf-8")
    with serving(node, tmp_path, "--web.config.file", config) as one:
        known = {"username": "bob", "password": "secret"}
        page = opened(address=f"http://127.0.0.1:{one.port}", http_credentials=known)
        row = row_of(page, "shop/frontend", "outbound")
        before = dropped(row)
        deny(4)
        row.get_by_text(f"policy {before + 4}", exact=True).wait_for()


def test_what_cannot_be_read_is_a_sentence_on_the_page(opened, tmp_path, node):
    class Elsewhere:
        """The same namespace and no maps."""

        namespace, run_dir = node.namespace, tmp_path

        class bpf:  # noqa: N801
            path = tmp_path

    with serving(Elsewhere, tmp_path) as one:
        page = opened(address=f"http://127.0.0.1:{one.port}", viewport=WIDE)
        assert "There are no counters to show" in page.locator("#main").inner_text()
        assert page.get_by_role("row", name=re.compile("missing counter map")).is_visible()
