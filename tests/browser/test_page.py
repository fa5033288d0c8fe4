"""The page in a real browser: what it shows, that it lives, that names stay text, and that everybody can use it."""

import re

import pytest

from exporter.demo.plan import CART, FRONTEND
from tests.browser.conftest import HOSTILE, PHONE, WIDE, serving

WIDTHS = {"390": PHONE, "1280": WIDE, "1920": {"width": 1920, "height": 1080}}
ENDPOINT = f"/?interface={FRONTEND.interface}"
# htpasswd -nbBC 4 bob secret
USERS = "basic_auth_users: {bob: $2b$04$CNMLp9ECozCKhXUF5V./FO/qWDiMhrLmi2XJLGkt2.aZ.YdkfSUfC}\n"


def row_of(page, endpoint, direction):
    """The row of an endpoint in one direction, which is unfolded or not."""
    return page.locator(".endpoints tbody tr").filter(
        has=page.get_by_role("link", name=endpoint, exact=True, include_hidden=True),
        has_text=re.compile(rf"\b{direction}\b"),
    )


def dropped(row):
    """What a row says was ever dropped."""
    return sum(int(text.replace(",", "")) for text in row.locator("td.total").all_text_contents())


def total_of(row, reason, packets):
    """A row's reason when its total is this."""
    return row.locator("span.reason", has_text=re.compile(rf"^{reason} [0-9.,]+/s {packets:,}$"))


def unfold(page):
    """Unfolds what is folded."""
    for one in page.locator("details").all():
        if one.get_attribute("open") is None:
            one.locator("summary").click()


def test_the_page_shows_who_drops_what_and_goes_on_without_being_loaded_again(opened, deny):
    page = opened()
    assert "What this node drops" == page.locator("h1").inner_text()
    row = row_of(page, "shop/frontend", "outbound")
    before = dropped(row)
    page.evaluate("window.loadedOnce = true")
    deny(7)
    total_of(row, "policy", before + 7).wait_for()
    assert before + 7 == dropped(row)
    assert page.evaluate("window.loadedOnce")
    page.locator("tr.dropping td.trend svg path").wait_for(state="attached")
    assert "shop/frontend" == page.locator("#endpoints tbody th a").first.inner_text()


def test_a_name_with_markup_in_it_is_text(opened):
    page = opened()
    unfold(page)
    assert page.get_by_role("link", name=f"data/{HOSTILE}").first.is_visible()
    assert 0 == page.locator("img").count()
    page.get_by_role("link", name=f"data/{HOSTILE}").first.click()
    assert f"data/{HOSTILE}" == page.locator("h1").inner_text()
    page.goto(page.url + "&interface=" + "%3Cimg%20src=x%3E")
    assert 0 == page.locator("img").count()


def test_an_endpoints_page_says_why_and_is_live(opened, deny):
    page = opened()
    unfold(page)
    row_of(page, "shop/frontend", "outbound").get_by_role("link", name="shop/frontend").click()
    assert "shop/frontend" == page.locator("h1").inner_text()
    rule = page.get_by_role("row", name=re.compile(r"security GlobalNetworkPolicy security.gate 0 deny")).last
    hits = int(rule.locator(".number").first.inner_text())
    deny(5)
    rule.locator(".number").first.get_by_text(str(hits + 5), exact=True).wait_for()
    page.get_by_text(re.compile("reason policy: a rule, a tier's end")).wait_for()
    links = page.get_by_role("link", name="policy", exact=True)
    assert {"docs/reasons.md#policy"} == {one.get_attribute("href").partition("/main/")[2] for one in links.all()}
    page.get_by_role("link", name="All endpoints of this node").click()
    assert "What this node drops" == page.locator("h1").inner_text()


@pytest.mark.parametrize("script", [True, False])
def test_the_form_says_which_rule_decides_and_the_answer_stays(opened, picture, script):
    page = opened(f"/?interface={FRONTEND.interface}", java_script_enabled=script)
    form = page.get_by_role("form", name="Which rule decides")
    form.get_by_label("A packet").select_option("from")
    form.get_by_label("Peer").fill(CART.ipv4)
    form.get_by_label("Protocol").fill("udp")
    form.get_by_label("Port", exact=True).fill("6666")
    form.get_by_role("button", name="Which rule decides?").click()
    answer = page.get_by_role("region", name="Which rule decides about this packet")
    first = f"shop/frontend ({FRONTEND.ipv4}) to shop/cart ({CART.ipv4}), udp to port 6666: denied."
    assert first == answer.locator("p").first.inner_text()
    assert "GlobalNetworkPolicy security.gate, tier security, rule 0" in answer.inner_text()
    assert (CART.ipv4, "udp", "6666") == tuple(
        form.get_by_label(name, exact=True).input_value() for name in ("Peer", "Protocol", "Port")
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


def test_the_form_takes_the_interface_of_the_host(opened):
    page = opened(f"/?interface={FRONTEND.interface}")
    form = page.get_by_role("form", name="Which rule decides")
    form.get_by_label("Peer").fill("192.0.2.1")
    form.get_by_label("Port", exact=True).fill("80")
    answer = page.get_by_role("region", name="Which rule decides about this packet")
    for via, found in (("eth0", " --via eth0"), (CART.interface, "no interface of the host: it has eth0")):
        form.get_by_label("Via").fill(via)
        form.get_by_role("button", name="Which rule decides?").click()
        answer.get_by_text(found).wait_for()
        assert via == form.get_by_label("Via").input_value()


def test_hostile_text_in_the_form_stays_text(opened):
    page = opened(f"/?interface={FRONTEND.interface}")
    form = page.get_by_role("form", name="Which rule decides")
    form.get_by_label("Peer").fill(HOSTILE)
    form.get_by_label("Port", exact=True).fill("80")
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
    assert page.locator(".endpoints tbody tr").count() > 4
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
    total_of(row, "policy", before + 3).wait_for()


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
    unfold(page)
    row_of(page, "shop/cart", "inbound").get_by_role("link", name="shop/cart").focus()
    old = page.locator("#main").element_handle()
    page.wait_for_function("old => !old.isConnected", arg=old)
    assert "shop/cart" == page.evaluate("document.activeElement.textContent")
    page.keyboard.press("Enter")
    page.locator("h1", has_text="shop/cart").wait_for()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", WIDTHS)
def test_nothing_stands_in_anybodys_way(drawn, picture, violations, width, scheme):
    page = drawn("/", viewport=WIDTHS[width], color_scheme=scheme)
    for name, path in (("node", ""), ("endpoint", ENDPOINT), ("trace", f"{ENDPOINT}&peer={CART.ipv4}&port=6666")):
        page.goto(page.url.partition("?")[0] + path.removeprefix("/"))
        page.wait_for_timeout(2500)  # until the script has renewed it
        for state in ("folded", "unfolded"):
            assert [] == violations(page), (name, state)
            assert page.evaluate("document.documentElement.scrollWidth") <= WIDTHS[width]["width"], (name, state)
            assert [] == page.evaluate(OUTSIDE), (name, state)
            assert [] == page.evaluate(BROKEN), (name, state)
            picture(page, f"{name}-{width}-{scheme}-{state}", full_page=True)
            unfold(page)


@pytest.mark.parametrize("width", [320, 768, 1152, 1153])
def test_nothing_is_cut_off_between_a_phone_and_a_desktop(drawn, width):
    page = drawn(viewport={"width": width, "height": 900})
    unfold(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert [] == page.evaluate(OUTSIDE)
    ends = page.evaluate("[...document.querySelectorAll('main, table')].map(one => one.getBoundingClientRect().right)")
    assert ends[0] == max(ends)


# What of the tables, graphs and texts is cut off at the window's edge.
OUTSIDE = """[...document.querySelectorAll("main *")]
    .filter(one => one.checkVisibility() && !one.closest("svg, thead") && one.getClientRects().length)
    .map(one => [one.outerHTML.slice(0, 80), one.getBoundingClientRect()])
    .filter(([, box]) => box.right > innerWidth + 1 || box.left < -1).map(([html]) => html)"""
# Names that are on several lines although they would fit on one.
BROKEN = """[...document.querySelectorAll("main th a, main td a")].filter(one => one.checkVisibility())
    .filter(one => {
        const whole = one.cloneNode(true);
        whole.setAttribute("class", "skip");
        document.body.append(whole);
        const width = whole.getBoundingClientRect().width;
        whole.remove();
        const box = one.closest("td, th").getBoundingClientRect();
        const tops = [...one.getClientRects()].map(part => part.top);
        return width < box.width - 30 && Math.max(...tops) - Math.min(...tops) > 5;
    }).map(one => one.textContent)"""


def test_on_a_phone_an_endpoint_is_a_card_with_its_reasons_rates_and_totals(drawn):
    page = drawn("/", viewport=PHONE)
    row = page.locator("#endpoints tbody tr").filter(has_text="shop/frontend")
    reason = row.locator("span.reason")
    assert re.fullmatch(r"policy\s+[0-9.]+/s\s+[0-9,]+", reason.inner_text())
    assert page.get_by_role("row").filter(has_text="shop/frontend").first.is_visible()
    for part in ("th", "td.direction", "td.drops", "td.total", "td.trend svg", "td.reasons a", "td.reasons .sum"):
        box = row.locator(part).first.bounding_box()
        assert 0 <= box["x"] <= box["x"] + box["width"] <= PHONE["width"], part
    tops = [row.locator(part).bounding_box()["y"] for part in ("th", "td.direction", "td.reasons", "td.total")]
    assert tops == sorted(set(tops))
    reason.get_by_role("link", name="policy").click()
    assert "policy: a rule, a tier's end or a missing profile match denied them" in page.locator("main").inner_text()
    more = page.get_by_role("link", name="More about policy").get_attribute("href")
    assert more.endswith("docs/reasons.md#policy")


def test_a_graph_is_kept_over_a_reload_and_says_its_values_by_pointer_and_keyboard(drawn):
    page = drawn(ENDPOINT)
    columns = page.locator(".plot .column").count()
    assert columns >= 2
    page.reload()
    assert page.locator(".plot .column").count() >= columns
    reading, slider = page.locator("#reading"), page.get_by_role("slider", name="Moment of the graph")
    said = r"[0-9:]{8} to [0-9:]{8} UTC: policy outbound [0-9.]+/s"
    assert re.fullmatch(said, last := reading.inner_text())
    slider.focus()
    page.keyboard.press("ArrowLeft")
    assert re.fullmatch(said, before := reading.inner_text())
    assert before < last
    assert before == slider.get_attribute("aria-valuetext")
    old = page.locator("#main").element_handle()
    page.wait_for_function("old => !old.isConnected", arg=old)
    assert before == reading.inner_text()
    assert "moment" == page.evaluate("document.activeElement.id")
    page.keyboard.press("Home")
    first = reading.inner_text()
    page.keyboard.press("End")
    assert first < reading.inner_text()
    last_column = page.locator(".plot .column").first.bounding_box()
    page.mouse.move(last_column["x"] + last_column["width"] / 2, last_column["y"] + 20)
    page.wait_for_function("first => document.getElementById('reading').textContent === first", arg=first)


def test_without_script_a_graph_has_its_values_too(drawn):
    page = drawn(ENDPOINT, java_script_enabled=False)
    assert page.locator(".plot").is_visible()
    assert re.search(r" UTC: policy outbound [0-9.]+/s", page.locator(".plot .column title").last.text_content())
    assert not page.get_by_role("slider").is_visible()
    legend = page.get_by_role("row", name=re.compile("policy outbound"))
    assert re.search(r"outbound\s+[-0-9./s]+\s+[0-9.]+/s\s+[0-9,]+$", legend.first.inner_text())


def numbers(page):
    """The packets a second of the rows of both tables, one table after the other."""
    return [
        [float(text.replace(",", "")) for text in page.locator(f"#{table} tbody td.packets").all_text_contents()]
        for table in ("endpoints", "quiet-endpoints")
    ]


@pytest.mark.parametrize("script", [True, False])
def test_a_column_sorts_its_rows_and_stays_so(drawn, script):
    page = drawn(java_script_enabled=script)
    unfold(page)
    header = page.locator("#endpoints").get_by_role("columnheader", name="Packets/s", exact=True)
    header.get_by_role("link").click()
    assert "descending" == header.get_attribute("aria-sort")
    assert all(one == sorted(one, reverse=True) for one in numbers(page))
    header.get_by_role("link").click()
    assert "ascending" == header.get_attribute("aria-sort")
    assert all(one == sorted(one) for one in numbers(page))
    page.get_by_label("Namespace").select_option("shop")
    page.get_by_role("button", name="Filter").click()
    assert "ascending" == header.get_attribute("aria-sort")


def test_a_phone_sorts_by_a_choice(drawn):
    page = drawn("/", viewport=PHONE)
    page.get_by_label("Sort by").select_option("Pod or interface")
    page.get_by_role("button", name="Filter").click()
    names = page.locator("#quiet-endpoints tbody th a").all_text_contents()
    assert len(names) > 3
    assert names == sorted(names)


def test_what_drops_nothing_and_is_fine_is_one_line_until_it_is_unfolded_and_stays_unfolded(drawn):
    page = drawn("/")
    assert re.fullmatch(r"[0-9]+ endpoints drop nothing", page.locator("#quiet > summary").inner_text())
    assert re.match(r"Health [0-9]+ of [0-9]+ checks ok; ", page.locator("#health summary").inner_text())
    for one in (row_of(page, "shop/cart", "outbound"), page.locator("#health table").first):
        assert not one.is_visible()
    unfold(page)
    old = page.locator("#main").element_handle()
    page.wait_for_function("old => !old.isConnected", arg=old)
    for one in (row_of(page, "shop/cart", "outbound"), page.locator("#health table").first):
        assert one.is_visible()


@pytest.mark.parametrize("path", ["/", ENDPOINT])
def test_the_page_says_how_to_see_peers(drawn, path):
    hint = drawn(path).locator(".hint")
    assert "why" in hint.inner_text()
    assert 2 == hint.inner_text().count("--packets")
    assert hint.get_by_role("link", name="who is denied").get_attribute("href").endswith("docs/who-is-denied.md")


def test_behind_a_password_the_page_lives_too(opened, node, tmp_path, deny):
    config = tmp_path / "web.yml"
    config.write_text(USERS, encoding="utf-8")
    with serving(node, tmp_path, "--web.config.file", config) as one:
        known = {"username": "bob", "password": "secret"}
        page = opened(address=f"http://127.0.0.1:{one.port}", http_credentials=known)
        row = row_of(page, "shop/frontend", "outbound")
        before = dropped(row)
        deny(4)
        total_of(row, "policy", before + 4).wait_for()


def test_what_cannot_be_read_is_a_sentence_on_the_page(opened, tmp_path, node):
    class Elsewhere:
        """The same namespace and no maps."""

        namespace, run_dir = node.namespace, tmp_path

        class bpf:  # noqa: N801
            path = tmp_path

    with serving(Elsewhere, tmp_path) as one:
        page = opened(address=f"http://127.0.0.1:{one.port}", viewport=WIDE)
        assert "There are no counters to show" in page.locator("#main").inner_text()
        problems = page.get_by_role("region", name="Problems")
        assert "missing counter map" in problems.inner_text()
        assert problems.bounding_box()["y"] < page.locator(".problem").bounding_box()["y"]
        assert not page.locator("#health table").first.is_visible()
