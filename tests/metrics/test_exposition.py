"""Whatever is rendered parses back to the samples that went in, with every parser at hand."""

import subprocess

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from exporter.metrics.exposition import OPENMETRICS, TEXT, negotiate, render
from exporter.metrics.family import COUNTER, GAUGE, Family, Samples

PACKETS = Family("test_packets_total", COUNTER, "Packets.", ("interface", "pod"))
LEVEL = Family("test_level", GAUGE, "A level.")
FORMATS = pytest.mark.parametrize(
    ("text_format", "parse"), [(TEXT, parse_text), (OPENMETRICS, parse_openmetrics)], ids=["text", "openmetrics"]
)

# Accept headers as they are sent: by Prometheus 2.42, 2.50 with native histograms, 3.0 and later, VictoriaMetrics.
PROMETHEUS_2 = (
    "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,"
    "text/plain;version=0.0.4;q=0.5,*/*;q=0.1"
)
PROMETHEUS_2_PROTOBUF = (
    "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited;q=0.5,"
    "application/openmetrics-text;version=1.0.0;q=0.4,application/openmetrics-text;version=0.0.1;q=0.3,"
    "text/plain;version=0.0.4;q=0.2,*/*;q=0.1"
)
PROMETHEUS_3 = (
    "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,"
    "application/openmetrics-text;version=0.0.1;q=0.5,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,"
    "text/plain;version=0.0.4;q=0.3,*/*;q=0.2"
)
TEXT_FIRST = "text/plain;version=0.0.4;q=0.6,application/openmetrics-text;version=1.0.0;q=0.5,*/*;q=0.1"
VICTORIA = "text/plain;version=0.0.4;q=1,*/*;q=0.1"
BROWSER = "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8"


def body(samples, text_format):
    return render(samples, text_format)


def parsed(samples, text_format, parse):
    """(name, labels, value) of each sample, read from the text."""
    families = parse(body(samples, text_format).decode())
    return [(one.name, one.labels, one.value) for family in families for one in family.samples]


def expected(family, rows):
    """The same from what was given."""
    return [(family.name, dict(zip(family.labels, labels, strict=True)), value) for labels, value in rows]


@FORMATS
@settings(deadline=None)
@given(values=st.lists(st.tuples(st.text(), st.text()), unique=True))
def test_any_label_value_comes_back(text_format, parse, values):
    rows = [(pair, number) for number, pair in enumerate(values)]
    assert expected(PACKETS, rows) == parsed([Samples(PACKETS, rows)], text_format, parse)


@FORMATS
@pytest.mark.parametrize(
    "value",
    ["", " ", " x ", "\\", "\\\\", "\\n", "\n", "\\\n", '"', '\\"', '",pod="x', "} 7\n", "\r", "\r\n", "\0", "\x1b[31m",
     "\x85", "\u2028", "\ufeff", "# EOF", "#", "%", "%%", "%s", "%d%", "%(pod)s",
     "{}", "{0}", "$x", "é", "\U0010ffff", "\u202e", "a" * 100_000],
)  # fmt: skip
def test_an_awkward_label_value_comes_back(text_format, parse, value):
    rows = [((value, "pod"), 1), (("eth0", value), 2)]
    assert expected(PACKETS, rows) == parsed([Samples(PACKETS, rows)], text_format, parse)


@FORMATS
@settings(deadline=None)
@given(help_text=st.text(st.characters(exclude_characters="\\\n", exclude_categories=["Cs", "Cc"]), min_size=1))
def test_any_plain_help_comes_back(text_format, parse, help_text):
    samples = [Samples(Family("test_level", GAUGE, help_text.strip() or "x"), [((), 1)])]
    (family,) = parse(body(samples, text_format).decode())
    assert samples[0].family.help == family.documentation


@FORMATS
def test_backslashes_quotes_and_line_breaks_in_help_come_back(text_format, parse):
    awkward = 'one \\ two "three"\nfour %s 100%'
    (family,) = parse(body([Samples(Family("test_level", GAUGE, awkward), [((), 1)])], text_format).decode())
    assert awkward == family.documentation


@FORMATS
@pytest.mark.parametrize("value", [0, 1, 2**53 - 1, 2**53, 2**53 + 1, 2**63, 2**64 - 1])
def test_an_integer_is_written_digit_for_digit(text_format, parse, value):
    samples = [Samples(LEVEL, [((), value)])]
    assert f"test_level {value}" in body(samples, text_format).decode().splitlines()
    assert [("test_level", {}, value)] == parsed(samples, text_format, parse)


@FORMATS
@settings(deadline=None)
@given(value=st.floats(0, allow_infinity=False) | st.integers(0, 2**64 - 1))
def test_any_number_comes_back_exactly(text_format, parse, value):
    samples = [Samples(LEVEL, [((), value)])]
    assert [("test_level", {}, value)] == parsed(samples, text_format, parse)


@FORMATS
def test_a_family_without_samples_is_not_written(text_format, parse):
    assert [] == list(parse(body([Samples(PACKETS), Samples(LEVEL)], text_format).decode()))


def test_no_sample_at_all_is_an_empty_text():
    assert b"" == body([], TEXT)
    assert b"# EOF\n" == body([], OPENMETRICS)


def test_the_text_is_as_prometheus_shows_it():
    samples = [Samples(PACKETS, [(("eth0", ""), 7)]), Samples(LEVEL, [((), 0.5)])]
    expected = (
        "# HELP test_packets_total Packets.\n"
        "# TYPE test_packets_total counter\n"
        'test_packets_total{interface="eth0",pod=""} 7\n'
        "# HELP test_level A level.\n"
        "# TYPE test_level gauge\n"
        "test_level 0.5\n"
    )
    assert expected == body(samples, TEXT).decode()


def test_openmetrics_names_a_counter_without_its_suffix_and_ends_with_eof():
    expected = (
        "# HELP test_packets Packets.\n"
        "# TYPE test_packets counter\n"
        'test_packets_total{interface="eth0",pod=""} 7\n'
        "# EOF\n"
    )
    assert expected == body([Samples(PACKETS, [(("eth0", ""), 7)])], OPENMETRICS).decode()


def test_a_row_with_too_few_labels_is_a_programming_error_and_not_a_wrong_sample():
    with pytest.raises(ValueError):
        render([Samples(PACKETS, [(("eth0",), 7)])], TEXT)


def test_promtool_reads_every_character(promtool):
    characters = [chr(number) for number in (*range(0x300), 0x2028, 0xFEFF, 0xFFFD, 0x1F600, 0x10FFFF)]
    text = body([Samples(PACKETS, [((one, f"\\{one}\\"), 1) for one in characters])], TEXT)
    checked = subprocess.run([promtool, "check", "metrics"], input=text, capture_output=True, check=False)
    assert (0, b"", b"") == (checked.returncode, checked.stdout, checked.stderr)


@settings(deadline=None, max_examples=20)
@given(values=st.lists(st.tuples(st.text(), st.text()), unique=True, min_size=20, max_size=100))
def test_promtool_reads_any_label_value(promtool, values):
    text = body([Samples(PACKETS, [(pair, number) for number, pair in enumerate(values)])], TEXT)
    checked = subprocess.run([promtool, "check", "metrics"], input=text, capture_output=True, check=False)
    assert (0, b"", b"") == (checked.returncode, checked.stdout, checked.stderr)


def test_what_utf8_cannot_carry_does_not_break_the_text_for_the_other_samples(promtool):
    text = body([Samples(PACKETS, [(("\udc80", "a"), 1), (("eth0", "\ud800"), 2)])], TEXT)
    checked = subprocess.run([promtool, "check", "metrics"], input=text, capture_output=True, check=False)
    assert (0, b"", b"") == (checked.returncode, checked.stdout, checked.stderr)


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        (PROMETHEUS_2, OPENMETRICS),
        (PROMETHEUS_2_PROTOBUF, OPENMETRICS),
        (PROMETHEUS_3, OPENMETRICS),
        (TEXT_FIRST, TEXT),
        (VICTORIA, TEXT),
        (BROWSER, TEXT),
        ("*/*", TEXT),
        ("", TEXT),
        (",", TEXT),
        (";;;,,;q=1", TEXT),
        ("q=1", TEXT),
        ("text/plain", TEXT),
        ("text/plain;version=1.0.0;escaping=allow-utf-8", TEXT),
        ("text/plain;q=0", TEXT),
        ("application/openmetrics-text", OPENMETRICS),
        ("application/openmetrics-text; version=1.0.0; charset=utf-8", OPENMETRICS),
        ('application/openmetrics-text; version="1.0.0"', OPENMETRICS),
        ("application/openmetrics-text;version=0.0.1", OPENMETRICS),
        ("APPLICATION/OpenMetrics-Text; VERSION=1.0.0; Q=0.5", OPENMETRICS),
        ("text/plain,application/openmetrics-text;version=1.0.0", OPENMETRICS),
        ("application/openmetrics-text;version=2.0.0", TEXT),
        ("application/openmetrics-text;version=9", TEXT),
        ("application/openmetrics-text;version=2.0.0,application/openmetrics-text;version=1.0.0;q=0.1", OPENMETRICS),
        ("application/openmetrics-text;q=0", TEXT),
        ("application/openmetrics-text;q=0.000,*/*", TEXT),
        ("application/openmetrics-text;version=1.0.0;q=0.1,text/plain;q=0.2", TEXT),
        ("application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited", TEXT),
        ("application/openmetrics-text-not", TEXT),
        ("application/json", TEXT),
        ("\xff\x00;q=q=q, =, ;", TEXT),
        ("a," * 5000, TEXT),
    ],
)
def test_the_format_is_what_the_client_asked_for(accept, expected):
    assert expected is negotiate(accept)


@settings(deadline=None)
@given(st.text())
def test_any_accept_header_gets_a_format(accept):
    assert negotiate(accept) in (TEXT, OPENMETRICS)


@pytest.mark.parametrize(
    ("text_format", "content_type"),
    [
        (TEXT, "text/plain; version=0.0.4; charset=utf-8"),
        (OPENMETRICS, "application/openmetrics-text; version=1.0.0; charset=utf-8"),
    ],
)
def test_a_content_type_names_format_version_and_encoding(text_format, content_type):
    assert content_type == text_format.content_type
