"""A short soak, its law on made-up processes, and the faults that it must find."""

import random
import sys

import pytest

from tests.soak.flat import Sample, growth

FLAT = Sample(resident=70 << 20, descriptors=12, threads=5, children=0)


def faulty(fault):
    return (sys.executable, "-m", "tests.soak.faulty_exporter", fault)


@pytest.mark.kernel
@pytest.mark.timeout(300)
def test_a_node_that_changes_all_the_time_leaves_the_servers_flat_and_every_count_as_it_was_sent(problems):
    assert [] == problems(seconds=50, warm_up=5)


@pytest.mark.kernel
@pytest.mark.timeout(300)
def test_what_leaks_and_what_fails_for_no_reason_is_found(problems):
    found = problems(seconds=12, warm_up=0, program=faulty("leaks"))
    for server in ("plain", "TLS and users"):
        for measure in ("resident", "descriptors", "threads", "children"):
            assert any(one.startswith(f"{server}: {measure} grew") for one in found), found
        assert any(one.startswith(server) and "maps failed and nothing had been done" in one for one in found)


@pytest.mark.kernel
@pytest.mark.timeout(300)
def test_a_packet_that_is_lost_is_found(problems):
    found = problems(seconds=10, warm_up=0, program=faulty("loses"))
    wrong = [one for one in found if "dropped policy" in one]
    assert wrong
    for one in wrong:
        sent, counted = (int(part.split()[0]) for part in one.rpartition(": ")[2].split(", "))
        assert sent == counted + 1


def steady(count=400):
    chance = random.Random(1)
    noise = 1 << 20
    return [
        Sample(FLAT.resident + chance.randrange(noise), FLAT.descriptors + chance.randrange(2), 5, 0)
        for _ in range(count)
    ]


def grown(samples, start, **more):
    """From the sample numbered `start` on, each measure is higher by so much for each sample."""
    return [
        Sample(
            **{
                name: getattr(one, name) + int(more.get(name, 0) * max(0, number - start))
                for name in ("resident", "descriptors", "threads", "children")
            }
        )
        for number, one in enumerate(samples)
    ]


def test_a_process_that_holds_the_same_more_or_less_is_flat():
    assert [] == growth(steady())


def test_what_fills_itself_in_the_first_quarter_and_then_stays_is_flat():
    filled = [Sample(one.resident // 2, 3, 1, 0) for one in steady(100)]
    assert [] == growth(filled + steady(300))


@pytest.mark.parametrize(
    "leak",
    [{"resident": 40_000}, {"descriptors": 0.02}, {"threads": 0.01}, {"children": 0.01}],
    ids=lambda leak: next(iter(leak)),
)
def test_a_measure_that_grows_little_by_little_is_named_with_what_it_was_and_is(leak):
    (name,) = leak
    (sentence,) = growth(grown(steady(), 0, **leak))
    assert sentence.startswith(f"{name} grew from ")


def test_too_few_samples_prove_nothing():
    assert ["only 19 samples were taken: a soak needs 20 after its warm-up"] == growth(steady(19))
