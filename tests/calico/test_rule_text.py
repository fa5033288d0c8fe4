import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.calico.rule_text import Match, RuleTextError, match_of, parse_rule_text, set_numbers
from tests.recorded import NAMES, law_of_recordings

# The fields of a rule as v3.30 and later write them; before, a message had angle brackets.
PARTS = [
    'action:"deny"',
    "ip_version:IPV4",
    'protocol:{name:"TCP"}',
    'src_net:"10.0.0.0/8"',
    'src_net:"fd00::/8"',
    "dst_ports:{first:80 last:80}",
    "dst_ports:{first:8000 last:8080}",
    'rule_id:"a"',
]
FULL = "  ".join(PARTS)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "everything"),
        ('action:"allow"', "everything"),
        ('action:"deny" metadata:{annotations:{key:"a" value:"b"}} rule_id:"c"', "everything"),
        ("ip_version:IPV4", "IPv4 only"),
        ("ip_version:IPV6", "IPv6 only"),
        ("ip_version:ANY", "ANY"),
        ('protocol:{name:"UDP"}', "udp"),
        ("protocol:{number:47}", "protocol 47"),
        ("not_protocol:{number:6}", "not protocol 6"),
        ('not_protocol:{name:"tcp"}', "not tcp"),
        ("icmp_type:8", "ICMP type 8"),
        ("icmp_type:0", "ICMP type 0"),
        ("not_icmp_type:8", "not ICMP type 8"),
        ("icmp_type_code:{type:3 code:4}", "ICMP type 3 code 4"),
        ("icmp_type_code:{type:3}", "ICMP type 3 code 0"),  # protobuf leaves a zero out
        ("icmp_type_code:{}", "ICMP type 0 code 0"),
        ("not_icmp_type_code:{type:3 code:1}", "not ICMP type 3 code 1"),
        ('src_net:"10.0.0.0/8"', "from 10.0.0.0/8"),
        ('dst_net:"10.0.0.0/8" dst_net:"fd00::/8"', "to 10.0.0.0/8 or fd00::/8"),
        ('not_src_net:"10.0.0.0/8" not_src_net:"10.1.0.0/16"', "from not 10.0.0.0/8 or 10.1.0.0/16"),
        ('not_dst_net:"10.0.0.0/8"', "to not 10.0.0.0/8"),
        ("src_ports:{first:53 last:53}", "from port 53"),
        ("dst_ports:{first:1 last:2} dst_ports:{first:9 last:9}", "to port 1-2 or 9"),
        ("dst_ports:{last:1023}", "to port 0-1023"),
        ("dst_ports:{}", "to port 0"),
        ("not_dst_ports:{first:22 last:22}", "to not port 22"),
        ("not_src_ports:{first:22 last:23}", "from not port 22-23"),
        ('dst_named_port_ip_set_ids:"n:a"', "to port named port set n:a"),
        ('src_ports:{first:1 last:1} src_named_port_ip_set_ids:"n:a"', "from port 1 or named port set n:a"),
        ('not_dst_named_port_ip_set_ids:"n:a"', "to not port named port set n:a"),
        ('src_ip_set_ids:"s:a"', "from IP set s:a"),
        ('not_dst_ip_set_ids:"s:a" not_dst_ip_set_ids:"s:b"', "to not IP set s:a and s:b"),
        ('src_ip_set_ids:"s:a" original_src_selector:"app == \\"x\\""', 'from app == "x"'),
        ('original_not_dst_selector:"has(a)"', "to not has(a)"),
        ('original_src_namespace_selector:"all()"', "from any namespace"),
        ("original_dst_namespace_selector:\"a == 'b'\"", "to namespace a == 'b'"),
        (
            'original_src_selector:"has(a)" original_src_namespace_selector:"has(b)"',
            "from has(a) and namespace has(b)",
        ),
        ('original_dst_service:"web" original_dst_service_namespace:"ns"', "to service ns/web"),
        ('original_src_service:"web"', "from service web"),
        ('dst_ip_port_set_ids:"svc:a"', "to address and port in IP set svc:a"),
        ('src_service_account_match:{names:"a" names:"b"}', "from service account a and service account b"),
        ('dst_service_account_match:{selector:"has(a)"}', "to service account has(a)"),
        ('http_match:{methods:"GET" methods:"PUT"}', "http_match methods GET methods PUT"),
        ('http_match:{paths:{exact:"/"}}', "http_match paths exact /"),
        (FULL, "IPv4 only, tcp, from 10.0.0.0/8 or fd00::/8, to port 80 or 8000-8080"),
        ('protocol:{name:"udp"} not_dst_net:"::/0" src_net:"::1/128"', "udp, from ::1/128, to not ::/0"),
    ],
)
def test_a_rule_is_said_in_words(text, expected):
    assert expected == match_of(text).words


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (FULL, ()),
        ('src_ip_set_ids:"s:a" dst_ip_set_ids:"s:b"', ("s:a", "s:b")),
        ('not_src_ip_set_ids:"s:c" src_ip_set_ids:"s:a" src_ip_set_ids:"s:a"', ("s:a", "s:c")),
        (
            'dst_named_port_ip_set_ids:"n:a" not_src_named_port_ip_set_ids:"n:b" dst_ip_port_set_ids:"v:c"',
            ("n:a", "v:c", "n:b"),
        ),
    ],
)
def test_the_ip_sets_of_a_rule_are_named_once_whatever_it_wants_of_them(text, expected):
    assert expected == match_of(text).ip_sets


@law_of_recordings(NAMES)
def every_recorded_rule_can_be_parsed_and_described(recording):
    for program in recording.bundle.policies().files.values():
        for rule in (rule for tier in program.tiers for policy in tier.policies for rule in policy.rules):
            actions = [value for field, value in parse_rule_text(rule.text) if field == "action"]
            assert [rule.action] == [{"next-tier": "pass"}.get(action, action) for action in actions]
            words = match_of(rule.text).words
            assert not set('{}<>":') & set(words)
            assert ("udp" in words) == ('"udp"' in rule.text)


def test_a_recorded_ip_set_has_its_number(recorded):
    source = recorded("v3.32.1/05-eot-egress-deny.after")
    program = source.policies().files["cali34769d6a557_ingress_v4.json"]
    rules = [rule for tier in program.tiers for policy in tier.policies for rule in policy.rules if rule.ip_sets]
    assert rules
    for rule in rules:
        numbers = set_numbers(rule.text, rule.ip_sets)
        assert set(match_of(rule.text).ip_sets) == numbers.keys()
        assert all(f"0x{number:x}" in comment for comment in rule.ip_sets for number in numbers.values())


WORDS = st.from_regex(r"\A[a-zA-Z0-9_./-]{1,8}\Z")
NAMED = st.from_regex(r"\A[a-z_]{1,8}\Z")
STRINGS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))
FIELDS = st.recursive(
    st.lists(st.tuples(NAMED, STRINGS), max_size=3),
    lambda inner: st.lists(st.tuples(NAMED, inner | STRINGS), max_size=3),
    max_leaves=6,
)
BLANKS = st.text(st.sampled_from(" \t\n"), max_size=3)


def quoted(text):
    """A text as protobuf-go writes it."""
    for plain, escaped in (("\\", "\\\\"), ('"', '\\"'), ("\n", "\\n"), ("\r", "\\r"), ("\t", "\\t")):
        text = text.replace(plain, escaped)
    return f'"{text}"'


def written(draw, fields):
    """The fields as protobuf text, in either kind of brackets and with any blanks."""
    pieces = []
    for name, value in fields:
        opening, closing = draw(st.sampled_from(["{}", "<>"]))
        message = isinstance(value, list)
        inner = [opening, written(draw, value), closing] if message else [quoted(value)]
        colon = [draw(st.sampled_from([":", ""]))] if message else [":"]
        pieces += [piece for part in (name, *colon, *inner) for piece in (part, draw(BLANKS))]
        pieces.append(draw(st.sampled_from([" ", ", ", ";", "  "])))
    return "".join(pieces)


@st.composite
def texts_of_fields(draw):
    fields = draw(FIELDS)
    return fields, written(draw, fields)


@given(texts_of_fields())
def test_any_fields_come_back_from_either_brackets_and_any_spacing(drawn):
    fields, text = drawn
    assert fields == parse_rule_text(text)


@given(st.lists(st.sampled_from(PARTS)), st.text(st.sampled_from(" \t"), min_size=1, max_size=3))
def test_spacing_and_brackets_change_no_words(parts, blanks):
    older = f"{blanks.join(parts)} ".replace("{", "<").replace("}", f"{blanks}>").replace(" last", f"{blanks}last")
    assert match_of(" ".join(parts)) == match_of(older)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (r'a:"\""', '"'),
        (r'a:"\\"', "\\"),
        (r'a:"\\n"', "\\n"),
        (r'a:"\n\r\t"', "\n\r\t"),
        (r'a:"\001\x02\x3"', "\1\2\3"),
        (r'a:"\'x\'"', "'x'"),
        ('a:"é{}<>:;,"', "é{}<>:;,"),
        (r'a:"\303\251"', "é"),
        ('a:"\0"', "\0"),
        ('a:""', ""),
        ("a:-1", "-1"),
        ("a:IPV4", "IPV4"),
    ],
)
def test_a_value_is_what_was_meant(text, expected):
    assert [("a", expected)] == parse_rule_text(text)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ('a:"', "a quotation mark is open at its end"),
        ('a:"\\"', "a quotation mark is open at its end"),
        ("a", "a stands where a field should begin"),
        ('"a":1', '"a" stands where a field should begin'),
        ("1:2", "1 stands where a field should begin"),
        (":", ": stands where a field should begin"),
        ("a:", "a has no value"),
        ("a::1", "a has no value"),
        ("a:}", "a has no value"),
        ("a:,", "a has no value"),
        ("a:{", "a bracket is open at its end"),
        ("a:{b:1>", "> stands where a field should begin"),
        ("a:<b:1", "a bracket is open at its end"),
        ("a:1 }", "} stands where a field should begin"),
        ("}", "} stands where a field should begin"),
        ("a:{" * 100_000, "its messages are too deep"),
        ("a<" * 100_000, "its messages are too deep"),
        ("a:<" * 20 + ">" * 20, "its messages are too deep"),
    ],
)
@pytest.mark.timeout(10)
def test_what_is_no_protobuf_text_is_an_error_and_shown_as_it_stands(text, sentence):
    with pytest.raises(RuleTextError) as caught:
        parse_rule_text(text)
    assert sentence == str(caught.value)
    assert Match(text) == match_of(text)


@pytest.mark.parametrize("text", ['a:"' + "x" * 1_000_000, " " * 1_000_000 + '"', 'a:"\\' * 300_000, "a:1 " * 100_000])
@pytest.mark.timeout(10)
def test_a_long_text_is_read_soon(text):
    assert match_of(text).words


MARKS = st.text(st.sampled_from(list("{}<>:;,\"\\ a0_-\n\0'\ud800")) | st.characters(), max_size=30)
KNOWN = st.lists(
    st.sampled_from(
        [
            *('protocol:{name:"udp"}', "protocol:1", "protocol:{name:{}}", 'ip_version:"x"', "ip_version:{}"),
            *("src_ports:{first:{}}", "src_ports:1", "icmp_type:{}", "icmp_type_code:1", "http_match:{methods:{}}"),
            *("src_net:{}", "original_src_selector:{}", "src_service_account_match:{names:{}}", "dst_ip_set_ids:{}"),
            *("{", "}", "<", ">", '"', "\\", ":"),
        ]
    )
).map(" ".join)


@given(MARKS | KNOWN)
def test_any_text_is_said_in_words(text):
    found = match_of(text)
    assert isinstance(found, Match)
    assert isinstance(found.words, str)
    assert all(isinstance(one, str) for one in found.ip_sets)


@given(MARKS | KNOWN)
def test_any_text_is_fields_or_an_error(text):
    try:
        fields = parse_rule_text(text)
    except RuleTextError:
        fields = []
    assert all(name and isinstance(value, str | list) for name, value in fields)


LEGS = ["src", "not_src", "dst", "not_dst"]
SETS = st.dictionaries(
    st.sampled_from(LEGS),
    st.lists(st.tuples(st.from_regex(r"\A[sn]:[\w-]{1,6}\Z"), st.integers(1, (1 << 64) - 1)), min_size=1, max_size=3),
)


def numbered_once(by_leg):
    """Sets with one number for each name, as Calico has it."""
    known = {}
    return {leg: [(name, known.setdefault(name, number)) for name, number in sets] for leg, sets in by_leg.items()}


def text_of(by_leg):
    return " ".join(f'{leg}_ip_set_ids:"{name}"' for leg in by_leg for name, _ in by_leg[leg])


def in_if_comments(by_leg):
    """One comment for each set, since v3.29."""
    for leg, sets in by_leg.items():
        packet, matches = "dest" if "dst" in leg else "source", "matches" if "not" in leg else "doesn't match"
        yield from (f"If {packet} {matches} ipset {name} (0x{number:x}), skip to next rule" for name, number in sets)


def in_ip_sets_comment(by_leg):
    """One comment for the rule, v3.29 to v3.32."""
    legs = (
        f"{leg}_ip_set_ids:<{','.join(f'0x{number:x}' for _, number in by_leg[leg])}>"
        for leg in LEGS
        if by_leg.get(leg)
    )
    return [f"IPSets {' '.join(legs)} "]


def in_match_comment(by_leg):
    """One comment for the rule, from v3.33 on: a leg's nets stand before its sets."""
    legs = (
        f"{leg.replace('not_', '!')}={{10.0.0.0/8,{','.join(f'0x{number:x}' for _, number in by_leg[leg])}}}"
        for leg in LEGS
        if by_leg.get(leg)
    )
    return [f"Match: proto=tcp {' '.join(legs)} sports={{8055,0x1}} dports={{named(1)}} icmp=8/0"]


WRITERS = {"If": in_if_comments, "IPSets": in_ip_sets_comment, "Match": in_match_comment}


@given(SETS.map(numbered_once))
def test_comments_of_every_release_give_the_same_numbers(by_leg):
    expected = {name: number for sets in by_leg.values() for name, number in sets}
    found = {kind: set_numbers(text_of(by_leg), list(write(by_leg))) for kind, write in WRITERS.items()}
    assert dict.fromkeys(WRITERS, expected) == found
    everything = [comment for write in WRITERS.values() for comment in write(by_leg)]
    assert expected == set_numbers(text_of(by_leg), everything)


# Felix leaves out a set that it has not programmed.
@pytest.mark.parametrize("comment", ["IPSets src_ip_set_ids:<0x1> dst_ip_set_ids:<0x2> ", "Match: src={0x1} dst={0x2}"])
def test_a_leg_with_fewer_numbers_than_sets_has_none_and_the_other_its_own(comment):
    text = 'src_ip_set_ids:"s:a" src_ip_set_ids:"s:b" dst_ip_set_ids:"s:c"'
    assert {"s:c": 2} == set_numbers(text, [comment])


@pytest.mark.parametrize(
    "comments",
    [
        [],
        [""],
        ["IPSets "],
        ["IPSets src_ip_set_ids:<> "],
        ["IPSets src_ip_set_ids:<0x1"],
        ["IPSets src_ip_set_ids:<1> "],
        ["Match: proto=tcp"],
        ["Match: src={10.0.0.0/8}"],
        ["Match: !src={0x1}"],
        ["Match: sports={0x1}"],
        ["If source doesn't match ipset s:a, skip to next rule"],
        ["If source doesn't match ipset s:a (0x), skip to next rule"],
        ["Rule MatchID: 1"],
    ],
)
def test_comments_without_a_number_give_none(comments):
    assert {} == set_numbers('src_ip_set_ids:"s:a"', comments)


def test_a_text_that_cannot_be_taken_apart_has_the_numbers_that_comments_name():
    comments = ["IPSets src_ip_set_ids:<0x1> ", "If source doesn't match ipset s:a (0x1), skip to next rule"]
    assert {"s:a": 1} == set_numbers("a:{", comments)


@given(MARKS | KNOWN, st.lists(st.text() | st.sampled_from(["IPSets src_ip_set_ids:<0x1>", "Match: src={0x1}"])))
def test_any_comments_give_numbers_that_a_key_can_hold(text, comments):
    for number in set_numbers(text, comments).values():
        assert 0 <= number < 1 << 64


@pytest.mark.parametrize(
    ("text", "namespaced", "words"),
    [
        ("original_src_selector:\"app == 'a'\"", True, "from app == 'a' and the policy's own namespace"),
        ("original_src_selector:\"app == 'a'\"", False, "from app == 'a'"),
        (
            'original_src_selector:"app == \'a\'" original_src_namespace_selector:"all()"',
            True,
            "from app == 'a' and any namespace",
        ),
        ("original_dst_selector:\"app == 'a'\"", True, "to app == 'a' and the policy's own namespace"),
        ("original_not_src_selector:\"app == 'a'\"", True, "from not app == 'a'"),
        ("original_src_namespace_selector:\"team == 'a'\"", True, "from namespace team == 'a'"),
        ('src_net:"10.0.0.0/8"', True, "from 10.0.0.0/8"),
    ],
)
def test_a_selector_of_a_policy_of_a_namespace_means_its_own_namespace(text, namespaced, words):
    assert words == match_of(text, namespaced=namespaced).words
