"""The health of the node and of the exporter: what is wrong comes first, what is fine is one sentence.

A pure function of a snapshot, and of the errors of the last scrape's collectors.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from exporter.calico.map_kinds import EVICTED_BY_DESIGN
from exporter.diagnosis.check import MISSING, NOTE, OK, Finding, findings
from exporter.diagnosis.map_fill import NEAR_FULL, map_fills, remedy, sentence, title
from exporter.quantities import plural
from exporter.snapshot.map_fill import MapFill
from exporter.snapshot.snapshot import MapVersions, Snapshot

FAILED, FULL = "failed", "full"
_SHOWN_RATIO = 0.5


@dataclass(frozen=True, slots=True)
class ShownMap:
    """The fill of one of Calico's maps; None while the live map is undecided, `chosen_by` empty where not known."""

    datum: str
    pin: str
    chosen_by: str
    entries: int | None = None
    max_entries: int | None = None


@dataclass(frozen=True, slots=True)
class Health:
    """`problems` are what is required and missing, collectors that failed, and maps that are more than half full.

    `notes` are the findings about what is optional. `findings` are all findings, `failures` the error of each collector
    in the last scrape, None if it succeeded.
    """

    problems: Sequence[Finding]
    notes: Sequence[Finding]
    fine: str
    findings: Sequence[Finding]
    failures: Mapping[str, str | None]
    maps: Sequence[ShownMap]


def health_of(now: Snapshot, failures: Mapping[str, str | None]) -> Health:
    """The health at `now`; `failures` are those of the last scrape."""
    every = list(findings(now))
    half_full = [one for one in map_fills(now) if one.ratio > _SHOWN_RATIO]
    problems = [one for one in every if one.state == MISSING]
    problems += [Finding(name, FAILED, error) for name, error in failures.items() if error]
    problems += [_half_full(one) for one in half_full]
    sentences = {sentence(one) for one in half_full}
    return Health(
        problems=problems,
        notes=[one for one in every if one.state == NOTE and one.found not in sentences],
        fine="; ".join(_fine(now, every, failures)),
        findings=every,
        failures=failures,
        maps=list(_maps(now, half_full)),
    )


def _half_full(one: MapFill) -> Finding:
    nearly = one.ratio > NEAR_FULL and one.map not in EVICTED_BY_DESIGN
    return Finding("map fill", FULL if nearly else NOTE, sentence(one), remedy(one) if nearly else "")


def _fine(now: Snapshot, every: Sequence[Finding], failures: Mapping[str, str | None]) -> Iterator[str]:
    checks = sum(one.state == OK for one in every)
    yield f"{checks} of {plural(len(every), 'check')} ok"
    succeeded = sum(error is None for error in failures.values())
    yield f"{succeeded} of {plural(len(failures), 'collector')} succeeded" if failures else "no scrape yet"
    known = [one for one in map_fills(now) if one.ratio <= _SHOWN_RATIO]
    if known:
        yield f"{plural(len(known), 'map')} at most {known[0].ratio:.0%} full"


def _maps(now: Snapshot, half_full: Sequence[MapFill]) -> Iterator[ShownMap]:
    for datum, part in now.maps.items():
        if not part.error:
            yield _fill(datum, part.get())
    for one in half_full:
        if one.map not in now.maps:
            yield ShownMap(title(one), one.pin, "", one.entries, one.max_entries)


def _fill(datum: str, versions: MapVersions) -> ShownMap:
    live, chosen_by = versions.choice.live, versions.choice.chosen_by
    if live is None:
        return ShownMap(datum, ", ".join(one.name for one in versions.candidates), chosen_by)
    return ShownMap(datum, live.name, chosen_by, versions.entries, live.info.max_entries)
