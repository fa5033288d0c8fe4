"""Every law of recordings, asked of every recording of a real node: one test for each recording and each pair."""

from importlib import import_module
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.recorded import NAMES, PAIRS, Pair, ask, law_of_pairs, law_of_recordings, recording

TESTS = Path(__file__).parent
# A file of tests registers its laws when it is imported.
for file in sorted(TESTS.rglob("test_*.py")):
    if "\n@law_of_" in file.read_text(encoding="utf-8"):
        import_module(".".join(file.relative_to(TESTS.parent).with_suffix("").parts))


@pytest.mark.parametrize("name", NAMES)
def test_a_recording_keeps_every_law(name):
    ask(law_of_recordings.of(name), recording(name))


@pytest.mark.parametrize("name", PAIRS)
def test_a_pair_of_recordings_keeps_every_law(name):
    ask(law_of_pairs.of(name), Pair(name))


@pytest.mark.parametrize(("laws", "names"), [(law_of_recordings, NAMES), (law_of_pairs, PAIRS)])
def test_every_law_is_asked_of_most_recordings_and_of_none_that_is_not_there(laws, names):
    assert laws.asked_of
    for law, asked in laws.asked_of.values():
        assert asked <= set(names), law.__name__
        assert len(asked) > len(names) * 0.7, law.__name__


def test_each_law_that_is_broken_is_named_and_the_others_are_asked_all_the_same():
    asked = []

    def one_is_two(subject):
        assert 1 == len(subject.name)

    def nothing_is_there(subject):
        raise KeyError("nothing")

    def names_are_text(subject):
        asked.append(subject.name)

    with pytest.raises(ExceptionGroup, match="ab breaks one_is_two, nothing_is_there") as raised:
        ask([one_is_two, nothing_is_there, names_are_text], SimpleNamespace(name="ab"))
    assert [AssertionError, KeyError] == [type(error) for error in raised.value.exceptions]
    assert ["ab"] == asked
