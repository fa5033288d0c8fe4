"""A list that is decoded while it arrives has the members that the whole document has, wherever it is cut."""

import json
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.node.json_stream import decode, members
from tests.fuzz.shapes import STRICT, encoded

LIST = {"kind": "PodList", "metadata": {"resourceVersion": "9"}, "items": [{"a": 1}, "b", [2], None]}


def cut(document, size):
    return [document[at : at + size] for at in range(0, len(document), size)]


def all_of(pieces):
    """The members, or None for what is refused."""
    try:
        return list(members(pieces, 1 << 20))
    except (ValueError, RecursionError):
        return None


@given(st.dictionaries(st.text().filter(lambda name: name != "items"), STRICT), st.lists(STRICT), st.integers(1, 20))
def test_it_makes_no_difference_where_a_document_is_cut(others, items, size):
    document = {**others, "items": items}
    text = json.dumps(document, ensure_ascii=False).encode("utf-8", "surrogatepass")
    pairs = list(members(cut(text, size), 1 << 20))
    assert [value for name, value in pairs if name == "items"] == json.loads(text, parse_int=float)["items"]
    assert dict(one for one in pairs if one[0] != "items") == json.loads(json.dumps(others), parse_int=float)


@given(encoded(LIST), st.integers(1, 20))
def test_what_is_no_document_is_refused_wherever_it_is_cut(document, size):
    assert all_of(cut(document, size)) == all_of([document])
    try:
        whole = decode(document)
    except (ValueError, RecursionError):
        whole = None
    if not isinstance(whole, dict):
        assert all_of([document]) is None


@pytest.mark.parametrize(
    "text",
    ["", " ", "[]", "{", '{"a"}', '{"a":}', '{"a":1,}', '{"a":1 "b":2}', '{"items":[1,]}', '{"items":[1 2]}',
     '{"items":[1}', '{"a":1}{}', '{"a":1} x', "{1:2}", '{"items":[{]}', '{"a":01}', '{"a":tru}'],
)  # fmt: skip
def test_what_json_does_not_allow_is_refused(text):
    assert all_of([text.encode()]) is None


def test_a_number_that_is_cut_is_one_number():
    assert [("items", 12.0), ("items", 345.0), ("a", 67.0)] == list(
        members([b'{"items": [1', b"2,3", b"4", b'5], "a": 6', b"7}"], 100)
    )


def test_a_value_that_is_too_large_is_refused_before_it_is_whole():
    def endless():
        yield b'{"items": ["'
        while True:
            yield b"x" * 1000

    with pytest.raises(ValueError, match="longer than 1 MiB"):
        list(members(endless(), 1 << 20))


def test_one_item_at_a_time_is_in_memory():
    item = json.dumps({f"field-{number}": {"value": number} for number in range(500)}).encode()

    def pieces():
        yield b'{"items": ['
        for _ in range(499):
            yield item + b","
        yield item + b"]}"

    tracemalloc.start()
    assert 500 == sum(1 for _ in members(pieces(), 1 << 20))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 40 * len(item)
