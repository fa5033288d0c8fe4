import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.calico.counters import Slot, layout_of
from exporter.calico.layout_file import LayoutFile, LayoutFileError, parse_layout_file

GOOD = """
when_slots: 15
slots:
  13: {category: dropped, reason: blackhole_route}
  14: {category: accepted, reason: egress_gateway}
"""


def slots(text, count=15):
    return f"{{when_slots: {count}, slots: {{{text}}}}}"


def test_a_good_file_names_slots_of_one_count():
    expected = {
        13: Slot(13, "dropped", "blackhole_route", "blackhole route"),
        14: Slot(14, "accepted", "egress_gateway", "egress gateway"),
    }
    assert LayoutFile(15, expected) == parse_layout_file(GOOD)


@pytest.mark.parametrize(("count", "applies"), [(15, True), (14, False), (16, False), (27, False)])
def test_the_names_apply_to_that_count_only(count, applies):
    file = parse_layout_file(GOOD)
    assert (file.slots if applies else {}) == file.named_for(count)


def test_the_named_layout_has_every_slot():
    layout = layout_of(15, parse_layout_file(GOOD).named_for(15))
    assert ["blackhole_route", "egress_gateway"] == [slot.reason for slot in layout.slots[13:]]
    assert ["policy", "too_short"] == [slot.reason for slot in layout.slots[4:6]]


@pytest.mark.parametrize(("count", "number"), [(25, 24), (27, 24), (28, 27), (40, 39), (16, 13)])
def test_any_unknown_slot_may_be_named(count, number):
    file = parse_layout_file(slots(f"{number}: {{category: redirected, reason: r2}}", count))
    assert {number: Slot(number, "redirected", "r2", "r2")} == file.slots


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "the layout file must be a mapping"),
        ("- 1", "the layout file must be a mapping"),
        ("15", "the layout file must be a mapping"),
        ("when_slots: 15\nslot: {}", "the layout file has an unknown key: 'slot'"),
        ("{when_slots: 15, slots: {14: {category: accepted, reason: x}}, 3: 4}", "has an unknown key: 3"),
        ("slots: {14: {category: accepted, reason: x}}", "when_slots must be the number of slots"),
        ("when_slots: fifteen\nslots: {}", "when_slots must be"),
        ("when_slots: '15'\nslots: {}", "when_slots must be"),
        ("when_slots: true\nslots: {}", "when_slots must be"),
        ("when_slots: 15.0\nslots: {}", "when_slots must be"),
        ("when_slots: 0\nslots: {}", "when_slots must be"),
        ("when_slots: -15\nslots: {}", "when_slots must be"),
        ("when_slots: 1025\nslots: {}", "when_slots must be"),
        ("when_slots: [15]\nslots: {}", "when_slots must be"),
        ("when_slots: 15", "slots must map slot numbers"),
        ("when_slots: 15\nslots:", "slots must map slot numbers"),
        ("when_slots: 15\nslots: {}", "slots must map slot numbers"),
        ("when_slots: 15\nslots: [14]", "slots must map slot numbers"),
        (slots("15: {category: accepted, reason: x}"), "slot 15 is not a number from 0 to 14"),
        (slots("-1: {category: accepted, reason: x}"), "slot -1 is not a number from 0 to 14"),
        (slots("14.0: {category: accepted, reason: x}"), "slot 14.0 is not a number"),
        (slots("true: {category: accepted, reason: x}"), "slot True is not a number"),
        (slots("'14': {category: accepted, reason: x}"), "slot '14' is not a number"),
        (slots("~: {category: accepted, reason: x}"), "slot None is not a number"),
        (slots("14: accepted"), "slot 14 must be a mapping with category and reason"),
        (slots("14: {category: accepted, reason: x, more: 1}"), "slot 14 has an unknown key: 'more'"),
        (slots("14: {reason: x}"), "slot 14: category must be one of accepted, dropped, redirected"),
        (slots("14: {category: total, reason: x}"), "slot 14: category must be one of"),
        (slots("14: {category: unknown, reason: x}"), "slot 14: category must be one of"),
        (slots("14: {category: Accepted, reason: x}"), "slot 14: category must be one of"),
        (slots("14: {category: [accepted], reason: x}"), "slot 14: category must be one of"),
        (slots("14: {category: accepted}"), "slot 14: reason must be a word"),
        (slots("14: {category: accepted, reason: ''}"), "slot 14: reason must be a word"),
        (slots("14: {category: accepted, reason: 7}"), "slot 14: reason must be a word"),
        (slots("14: {category: accepted, reason: Egress}"), "slot 14: reason must be a word"),
        (slots("14: {category: accepted, reason: 2nd}"), "slot 14: reason must be a word"),
        (slots("14: {category: accepted, reason: egress-gateway}"), "slot 14: reason must be a word"),
        (slots("14: {category: accepted, reason: grün}"), "slot 14: reason must be a word"),
        (slots('14: {category: accepted, reason: "x\\n"}'), "slot 14: reason must be a word"),
        (slots(f"14: {{category: accepted, reason: {'x' * 64}}}"), "slot 14: reason must be a word"),
    ],
)
def test_whatever_else_it_says_is_an_error_that_tells_what(text, sentence):
    with pytest.raises(LayoutFileError) as caught:
        parse_layout_file(text)
    assert sentence in str(caught.value)
    assert 1 == len(str(caught.value).splitlines())


@pytest.mark.parametrize(("count", "number"), [(15, 0), (15, 4), (15, 12), (14, 13), (27, 13), (27, 26), (28, 26)])
def test_a_slot_with_a_known_meaning_may_not_be_renamed(count, number):
    with pytest.raises(LayoutFileError, match=f"slot {number} of {count} has a known meaning"):
        parse_layout_file(slots(f"{number}: {{category: accepted, reason: mine}}", count))


@pytest.mark.parametrize(
    "text",
    [
        "14: {category: accepted, reason: policy}",
        "14: {category: dropped, reason: too_short}",
        "13: {category: dropped, reason: mine}, 14: {category: dropped, reason: mine}",
    ],
)
def test_two_slots_may_not_share_a_name(text):
    with pytest.raises(LayoutFileError, match=r"slot 1[34]: another slot is already"):
        parse_layout_file(slots(text))


def test_a_reason_may_be_that_of_another_category():
    file = parse_layout_file(slots("14: {category: accepted, reason: too_short}"))
    assert "too_short" == file.slots[14].reason


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("when_slots: 15\nwhen_slots: 16\nslots: {14: {category: accepted, reason: x}}", "when_slots"),
        ("when_slots: 15\nslots: {14: {category: accepted, reason: x}}\nslots: {}", "slots"),
        (slots("14: {category: accepted, reason: x}, 14: {category: dropped, reason: x}"), "14"),
        (slots("14: {category: accepted, category: dropped, reason: x}"), "category"),
    ],
)
def test_saying_a_thing_twice_is_an_error(text, name):
    with pytest.raises(LayoutFileError, match=f"the layout file has {name} twice"):
        parse_layout_file(text)


@pytest.mark.parametrize("other", ["0xe", "0b1110", "016", "+14", "1_4"])
def test_a_number_said_twice_in_two_spellings_is_an_error(other):
    text = f"14: {{category: accepted, reason: x}}, {other}: {{category: dropped, reason: y}}"
    with pytest.raises(LayoutFileError):
        parse_layout_file(slots(text))


@pytest.mark.parametrize(
    "text", ["{", "a: b: c", "\t- x", "'", "\0", "!!python/object:os.system {}", "[" * 5_000, "*x"]
)
def test_what_is_not_yaml_is_an_error(text):
    with pytest.raises(LayoutFileError):
        parse_layout_file(text)


# For each of these PyYAML raises something that is no YAMLError.
@pytest.mark.parametrize(
    "value",
    ["2024-99-99", "!!int x", "!!float x", "!!bool x", "!!timestamp x", f"{'9' * 5_000}"],
    ids=lambda value: value[:12],
)
def test_a_value_that_yaml_cannot_build_is_an_error(value):
    with pytest.raises(LayoutFileError):
        parse_layout_file(f"when_slots: {value}\nslots: {{14: {{category: accepted, reason: x}}}}")


def test_a_file_that_holds_itself_is_an_error():
    with pytest.raises(LayoutFileError):
        parse_layout_file("&a [*a]")


@given(st.text() | st.text(st.sampled_from("when_slots: 15{}[]&*!?|>-'\"\n\t#,0x")))
def test_any_text_is_a_layout_file_or_an_error(text):
    try:
        file = parse_layout_file(text)
    except LayoutFileError as error:
        assert 1 == len(str(error).splitlines())  # noqa: PT017  both outcomes are lawful
    else:
        assert file.slots
