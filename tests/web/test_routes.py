"""What is served where, in which format, and for which collectors."""

import gzip
import http.client
import itertools
import subprocess
from collections import Counter
from pathlib import Path

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

PROMTOOL = Path(__file__).parents[2] / ".tools" / "bin" / "promtool"
PROMETHEUS = (
    "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,"
    "application/openmetrics-text;version=0.0.1;q=0.5,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,"
    "text/plain;version=0.0.4;q=0.3,*/*;q=0.2"
)
REAL = ("counters", "endpoints", "maps")
OF_COUNTERS = "calico_bpf_program_packets_total{"
OF_ENDPOINTS = "calico_bpf_endpoint_info{"
OF_MAPS = "calico_bpf_map_entries{"


@pytest.fixture(scope="module")
def plain(shared_server):
    """A server over a healthy node, for requests that leave it as it was."""
    return shared_server(extra=[{"name": "extra"}], process=True)


@pytest.mark.parametrize(
    ("target", "status", "content_type"),
    [
        ("/", 200, "text/html; charset=utf-8"),
        ("/metrics", 200, "text/plain; version=0.0.4; charset=utf-8"),
        ("/metrics?", 200, "text/plain; version=0.0.4; charset=utf-8"),
        ("/metrics?unknown=1", 200, "text/plain; version=0.0.4; charset=utf-8"),
        ("/healthz", 200, "text/plain; charset=utf-8"),
        ("/readyz", 200, "text/plain; charset=utf-8"),
        ("/metrics/", 404, "text/plain; charset=utf-8"),
        ("/Metrics", 404, "text/plain; charset=utf-8"),
        ("//metrics", 404, "text/plain; charset=utf-8"),
        ("/metrics/../healthz", 404, "text/plain; charset=utf-8"),
        ("/favicon.ico", 404, "text/plain; charset=utf-8"),
        ("/debug/pprof/", 404, "text/plain; charset=utf-8"),
        ("http://elsewhere:1/metrics", 200, "text/plain; version=0.0.4; charset=utf-8"),
    ],
)
def test_a_path_has_its_status_and_type(plain, target, status, content_type):
    answer = plain.ask(target)
    assert (status, content_type) == (answer.status, answer.headers["content-type"])
    assert str(len(answer.body)) == answer.headers["content-length"]
    assert "nosniff" == answer.headers["x-content-type-options"]


@pytest.mark.parametrize("target", ["/", "/metrics", "/healthz", "/readyz", "/nothing", "/metrics?collect[]=nothing"])
def test_head_says_what_get_would_and_sends_no_body(plain, target):
    before, head, get = plain.ask(target), plain.ask(target, "HEAD"), plain.ask(target)
    assert (get.status, get.headers["content-type"]) == (head.status, head.headers["content-type"])
    assert b"" == head.body
    # Numbers in two scrapes may differ by a few digits, and the page gets more of them every few seconds.
    shorter, longer = sorted(len(one.body) for one in (before, get))
    assert shorter - 200 < int(head.headers["content-length"]) < longer + 200


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "TRACE", "PATCH", "PROPFIND", "get"])
@pytest.mark.parametrize("target", ["/metrics", "/healthz", "/"])
def test_other_methods_are_refused_with_what_is_allowed(plain, target, method):
    answer = plain.ask(target, method)
    assert (405, "GET, HEAD") == (answer.status, answer.headers["allow"])


@pytest.mark.parametrize(
    ("accept", "content_type", "end"),
    [
        ("", "text/plain; version=0.0.4; charset=utf-8", b"\n"),
        ("*/*", "text/plain; version=0.0.4; charset=utf-8", b"\n"),
        (PROMETHEUS, "application/openmetrics-text; version=1.0.0; charset=utf-8", b"\n# EOF\n"),
    ],
)
def test_the_body_is_in_the_format_that_was_asked_for_and_parses(plain, accept, content_type, end):
    answer = plain.ask(headers={"Accept": accept})
    assert content_type == answer.headers["content-type"]
    assert answer.body.endswith(end)
    parse = parse_openmetrics if "openmetrics" in content_type else parse_text
    samples = [one for family in parse(answer.text) for one in family.samples]
    series = Counter((one.name, frozenset(one.labels.items())) for one in samples)
    assert {1} == set(series.values())
    names = [name for name, _ in itertools.groupby(one.name for one in samples)]
    assert len(names) == len(set(names))
    assert {"calico_bpf_program_packets_total", "calico_bpf_exporter_build_info", "process_open_fds"} <= set(names)


def test_promtool_has_no_complaint_about_the_whole_body(plain):
    checked = subprocess.run([PROMTOOL, "check", "metrics"], input=plain.ask().body, capture_output=True, check=False)
    assert (0, b"", b"") == (checked.returncode, checked.stdout, checked.stderr)


def test_http_client_can_keep_its_connection(plain):
    client = http.client.HTTPConnection("127.0.0.1", plain.ports[0], timeout=10)
    for target in ("/metrics", "/healthz", "/nothing", "/metrics?collect[]=nothing", "/"):
        client.request("GET", target)
        response = client.getresponse()
        assert len(response.read()) == int(response.headers["Content-Length"])
        assert response.headers["Connection"] is None
    client.close()


@pytest.mark.parametrize("offer", ["gzip", "deflate, gzip;q=1.0, *;q=0.5", "GZIP", "br,gzip"])
def test_a_client_that_takes_gzip_gets_it(plain, offer):
    answer = plain.ask(headers={"Accept-Encoding": offer, "Accept": PROMETHEUS})
    assert "gzip" == answer.headers["content-encoding"]
    text = gzip.decompress(answer.body).decode()
    assert OF_COUNTERS in text
    assert text.endswith("# EOF\n")
    assert len(answer.body) < len(text) / 3


@pytest.mark.parametrize("offer", ["", "identity", "gzip;q=0", "gzip; q=0.000", "deflate", "x-gzip-not", "br"])
def test_a_client_that_does_not_take_gzip_gets_plain_text(plain, offer):
    answer = plain.ask(headers={"Accept-Encoding": offer})
    assert "content-encoding" not in answer.headers
    assert OF_COUNTERS in answer.text


def test_caches_are_told_what_the_body_depends_on(plain):
    assert {"accept", "accept-encoding"} == {word.strip().lower() for word in plain.ask().headers["vary"].split(",")}


def shown(answer):
    """Which collectors' families are in the body, and which collectors are said to have run."""
    families = {
        name for name, mark in zip(REAL, (OF_COUNTERS, OF_ENDPOINTS, OF_MAPS), strict=True) if mark in answer.text
    }
    return families, {name for name in REAL if answer.success(name) is not None}


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("collect[]=counters", {"counters"}),
        ("collect%5B%5D=counters", {"counters"}),
        ("collect[]=counters&collect[]=maps", {"counters", "maps"}),
        ("collect[]=maps&collect[]=maps", {"maps"}),
        ("exclude[]=counters", {"endpoints", "maps"}),
        ("exclude[]=counters&exclude[]=maps&exclude[]=endpoints", set()),
        ("", {"counters", "endpoints", "maps"}),
        ("collect=counters", {"counters", "endpoints", "maps"}),
    ],
)
def test_only_the_collectors_that_are_asked_for_run(plain, query, expected):
    answer = plain.ask(f"/metrics?{query}")
    assert 200 == answer.status
    assert (expected, expected) == shown(answer)


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("collect[]=nothing", "'nothing'"),
        ("collect[]=", "''"),
        ("collect[]=counters&collect[]=nothing", "'nothing'"),
        ("exclude[]=nothing", "'nothing'"),
        ("collect[]=counters&exclude[]=maps", "cannot be combined"),
        ("collect[]=%1b%5b31m%00%ff%0d%0aX:1", r"\x1b[31m\x00"),
        ("&".join(["a=1"] * 200), "100"),
        ("collect[]=" + "a" * 5000, "aaaa"),
    ],
)
def test_what_does_not_exist_is_refused_in_one_sentence(plain, query, said):
    answer = plain.ask(f"/metrics?{query}")
    assert (400, "text/plain; charset=utf-8") == (answer.status, answer.headers["content-type"])
    assert said in answer.text
    assert 1 == answer.text.count("\n")


def test_a_failing_collector_is_told_and_the_others_are_whole(unchecked_server):
    running = unchecked_server(extra=[{"name": "broken", "error": "no"}])
    answer = running.ask()
    assert (200, 0) == (answer.status, answer.success("broken"))
    assert (set(REAL), set(REAL)) == shown(answer)
    assert {1} == {answer.success(name) for name in REAL}
    assert 1 == running.log().count("Traceback")  # the unexpected error that was ordered, and no other


def test_metrics_are_where_the_operator_put_them(unchecked_server):
    running = unchecked_server(telemetry_path="/probe/numbers")
    assert (200, 404) == (running.ask("/probe/numbers").status, running.ask("/metrics").status)
    assert "/probe/numbers" in running.ask("/metrics").text


def test_without_process_metrics_there_are_only_our_own(unchecked_server):
    names = {
        line.split("{")[0].split(" ")[0]
        for line in unchecked_server().ask().text.splitlines()
        if not line.startswith("#")
    }
    assert set() == {name for name in names if not name.startswith("calico_bpf_")}


def test_it_is_ready_once_a_collector_has_worked_and_stays_so(unchecked_server):
    running = unchecked_server(real=False, extra=[{"name": "broken", "error": "no"}])
    waiting = running.ask("/readyz")
    assert (503, 200) == (waiting.status, running.ask("/healthz").status)
    assert "broken: " in waiting.text
    assert "capabilities" in waiting.text
    assert 200 == unchecked_server(extra=[{"name": "broken", "error": "no"}]).ask("/readyz").status


def test_the_answer_to_readiness_tells_every_failure(unchecked_server):
    running = unchecked_server(real=False, extra=[{"name": "one", "error": "no"}, {"name": "two", "error": "no"}])
    lines = running.ask("/readyz").text.splitlines()
    assert ["not ready", "one", "two"] == [line.split(":")[0] for line in lines[:3]]
