import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.bpf.json_rows import objects_of

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
OBJECTS = st.lists(st.dictionaries(st.text(), VALUES, max_size=3), max_size=6)


def cut(text, places):
    """The text in pieces, cut at these places."""
    places = sorted({min(place, len(text)) for place in places})
    return [text[start:end] for start, end in zip([0, *places], [*places, len(text)], strict=True)]


@given(OBJECTS, st.lists(st.integers(0, 400)), st.sampled_from([None, 1]), st.sampled_from(["", "\n"]))
def test_an_array_of_objects_is_the_same_however_it_is_cut(objects, places, indent, end):
    assert list(objects_of(cut(json.dumps(objects, indent=indent) + end, places))) == objects


@given(OBJECTS, st.integers(1, 400))
def test_a_text_that_ends_early_is_an_error(objects, length):
    text = json.dumps(objects)
    with pytest.raises(ValueError, match="no array of objects"):
        list(objects_of([text[: max(len(text) - length, 0)]]))


@given(st.text())
def test_any_text_is_objects_or_an_error(text):
    try:
        found = list(objects_of([text]))
    except ValueError:
        return
    assert all(isinstance(one, dict) for one in found)


def test_an_object_without_an_end_is_not_collected_for_ever():
    with pytest.raises(ValueError, match="an object of more than"):
        list(objects_of('[{"a": "' if number == 0 else "x" * (1 << 20) for number in range(1000)))


def test_an_object_that_is_nested_too_deep_is_an_error():
    with pytest.raises(ValueError, match="nested too deep"):
        list(objects_of(['[{"a": ' + "[" * 100_000]))
