# A recorded node that went v3.29.7 -> v3.30.7 -> v3.31.6 -> v3.32.1 -> back to v3.31.6; every older pin stayed.
import pytest

from exporter.bpf.maps import MapError
from exporter.snapshot.memory import Memory
from tests.nodes import is_undecided

STAGES = {
    "1-v3.29.7": ("cali_counters2", 14),
    "2-v3.30.7": ("cali_counters3", 17),
    "3-v3.31.6": ("cali_counters5", 25),
    "4-v3.32.1": ("cali_counters6", 27),
    "5-v3.31.6-downgraded": ("cali_counters5", 25),
}
SEVERAL = [stage for stage in STAGES if stage != "1-v3.29.7"]


@pytest.fixture
def stages(make, recorded):
    """The node at two moments of a stage, between which its live map moved."""

    def two(stage):
        if stage.endswith("downgraded"):
            return [make.like(recorded(f"upgrade/{stage}.{when}")) for when in ("before", "after")]
        live, _ = STAGES[stage]
        before, after = (make.like(recorded(f"upgrade/{stage}")) for _ in range(2))
        after.maps[live] = make.moved(after.maps[live])
        return [before, after]

    return two


def choice_of(snapshot):
    choice = snapshot.counter_map.get().choice
    return choice.live and choice.live.name, choice.chosen_by


@pytest.mark.parametrize("stage", STAGES)
def test_after_a_snapshot_before_and_one_after_it_moved_the_live_map_is_chosen(make, stages, stage):
    memory = Memory()
    _, after = [make.snapshot(source, memory) for source in stages(stage)]
    live, slots = STAGES[stage]
    assert (live, "movement" if stage in SEVERAL else "only") == choice_of(after)
    assert slots == len(after.counters.get().layout.slots)


@pytest.mark.parametrize("stage", SEVERAL)
def test_a_single_snapshot_is_undecided_and_says_so(make, stages, stage):
    snapshot = make.snapshot(stages(stage)[0])
    assert is_undecided(snapshot)
    assert (None, "undecided") == choice_of(snapshot)
    with pytest.raises(MapError, match=r"undecided which of cali_counters2, .* Calico uses now"):
        snapshot.counters.get()


@pytest.mark.parametrize("stage", SEVERAL)
def test_two_snapshots_between_which_nothing_moved_are_undecided(make, stages, stage):
    memory = Memory()
    for _ in range(3):
        snapshot = make.snapshot(stages(stage)[0], memory)
        with pytest.raises(MapError, match="undecided"):
            snapshot.counters.get()


@pytest.mark.parametrize("stage", SEVERAL)
def test_whatever_is_undecided_everything_else_is_whole(make, stages, stage):
    snapshot = make.snapshot(stages(stage)[0])
    assert is_undecided(snapshot)
    assert 7 == len(snapshot.ifstate.get())
    assert 8 == len(snapshot.endpoints.get().by_index)
    assert "only" == snapshot.rule_map.get().choice.chosen_by


@pytest.mark.parametrize("stage", SEVERAL)
def test_the_other_versions_are_stale(make, stages, stage):
    memory = Memory()
    before, after = stages(stage)
    make.snapshot(before, memory)
    versions = make.snapshot(after, memory).counter_map.get()
    pinned = sorted(name for name in after.maps if name.startswith("cali_counters"))
    assert pinned == sorted([*versions.stale, STAGES[stage][0]])


# A map that was not read while the older one changed is compared from its second snapshot on: hence three.
def test_one_memory_that_lives_through_the_whole_chain_ends_each_stage_with_the_live_map(make, stages):
    memory, chosen = Memory(), []
    for stage, (live, _) in STAGES.items():
        before, after = stages(stage)
        later = make.node(after.maps.values())
        later.maps[live] = make.moved(later.maps[live])
        chosen.append([choice_of(make.snapshot(source, memory))[0] for source in (before, after, later)][-1])
    assert [live for live, _ in STAGES.values()] == chosen


def test_through_the_whole_chain_no_snapshot_shows_a_map_that_was_never_alive_before(make, stages):
    memory, alive = Memory(), set()
    for stage, (live, _) in STAGES.items():
        alive.add(live)
        for source in stages(stage):
            chosen, _ = choice_of(make.snapshot(source, memory))
            assert chosen is None or chosen in alive


def test_the_live_map_goes_on_being_chosen_while_the_node_is_quiet(make, stages):
    memory = Memory()
    before, after = stages("5-v3.31.6-downgraded")
    choices = [choice_of(make.snapshot(source, memory))[0] for source in (before, after, after, after)]
    assert [None, *["cali_counters5"] * 3] == choices


def test_an_upgrade_that_happens_between_two_snapshots_is_followed(make, stages):
    memory = Memory()
    before, after = stages("4-v3.32.1")
    last = make.node([dump for name, dump in before.maps.items() if name != "cali_counters6"])
    first = make.node(last.maps.values())
    last.maps["cali_counters5"] = before.maps["cali_counters5"] = after.maps["cali_counters5"] = make.moved(
        first.maps["cali_counters5"]
    )
    choices = [choice_of(make.snapshot(source, memory))[0] for source in (first, last, before, after)]
    assert [None, "cali_counters5", "cali_counters5", "cali_counters6"] == choices


def test_programs_of_the_newest_start_prove_a_map_in_one_snapshot(make, stages):
    source = stages("5-v3.31.6-downgraded")[0]
    ids = {name: dump.info.id for name, dump in source.maps.items()}
    source.maps["cali_progs_ing2"] = make.programs("cali_progs_ing2", 1, 11, 12)
    source.maps["cali_progs_egr2"] = make.programs("cali_progs_egr2", 2, 13)
    source.facts["programs"] = [
        make.program(11, 1_000, ids["cali_counters6"], ids["cali_rule_ctrs2"]),
        make.program(12, 2_000, ids["cali_counters5"], ids["cali_rule_ctrs2"]),
        make.program(13, 3_000, ids["cali_rule_ctrs2"]),
    ]
    snapshot = make.snapshot(source)
    assert ("cali_counters5", "programs") == choice_of(snapshot)
    assert 25 == len(snapshot.counters.get().layout.slots)


def test_what_programs_proved_is_kept_when_they_are_out_of_reach(make, stages):
    memory = Memory()
    source, later = stages("5-v3.31.6-downgraded")
    source.maps["cali_progs_ing2"] = make.programs("cali_progs_ing2", 1, 11)
    source.facts["programs"] = [make.program(11, 1_000, source.maps["cali_counters5"].info.id)]
    choices = [choice_of(make.snapshot(one, memory)) for one in (source, later, later)]
    assert [("cali_counters5", "programs"), *[("cali_counters5", "movement")] * 2] == choices


def test_what_moved_before_programs_were_last_asked_is_no_evidence(make, stages):
    memory = Memory()
    quiet, moved = stages("5-v3.31.6-downgraded")
    assert is_undecided(make.snapshot(quiet, memory))
    moved.maps["cali_progs_ing2"] = make.programs("cali_progs_ing2", 1, 11)
    moved.facts["programs"] = [make.program(11, 1_000, moved.maps["cali_counters6"].info.id)]
    assert ("cali_counters6", "programs") == choice_of(make.snapshot(moved, memory))
    moved.facts["programs"] = []
    assert "cali_counters6" == choice_of(make.snapshot(moved, memory))[0]


@pytest.mark.parametrize("stage", ["2-v3.30.7", "3-v3.31.6", "4-v3.32.1"])
def test_a_map_that_lay_dead_beside_the_live_one_is_not_chosen_while_that_is_away(make, stages, stage):
    memory = Memory()
    before, after = stages(stage)
    live, _ = STAGES[stage]
    away = make.node([dump for name, dump in after.maps.items() if name != live], links=after.links())
    back = make.node(after.maps.values())
    later = make.node(after.maps.values())
    later.maps[live] = make.moved(later.maps[live])
    choices = [choice_of(make.snapshot(source, memory))[0] for source in (before, after, away, away, back, later)]
    assert [None, live, None, None, None, live] == choices


def test_a_map_that_lay_dead_and_is_left_alone_is_chosen_again_when_it_moves(make, stages):
    memory = Memory()
    before, after = stages("2-v3.30.7")
    alone = make.node([after.maps["cali_counters2"]])
    moved = make.node([make.moved(after.maps["cali_counters2"])])
    choices = [choice_of(make.snapshot(source, memory)) for source in (before, after, alone, moved, moved)]
    assert [(None, "undecided"), ("cali_counters2", "movement"), ("cali_counters2", "only")] == choices[2:]
