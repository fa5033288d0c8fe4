"""Writes a bundle: everything this program reads on a node, as raw data. `bundle.py` has the format and reads it."""

import json
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from functools import partial
from typing import IO, Any, TypeVar

from exporter.archive import write_archive
from exporter.bpf.maps import ProgramInfo
from exporter.calico.pins import POLICY_PROGRAMS, Pin
from exporter.node.endpoints import Endpoints
from exporter.node.files import Folder
from exporter.snapshot.bundle import ADDRESSES, FOLDERS, FORMAT, max_bytes
from exporter.snapshot.bundled_maps import NEW_DATA, entry_members, map_members
from exporter.snapshot.pinned_maps import programs_of
from exporter.snapshot.policy_tags import Entries, ids_in, read_policy_entries
from exporter.snapshot.recorded_packets import PACKETS, RecordedPackets, packets_member
from exporter.snapshot.settings import all_addresses
from exporter.snapshot.snapshot import MapVersions, Part, Snapshot
from exporter.snapshot.source import NodeSource

# The parts of a snapshot that a bundle needs.
PARTS = frozenset(
    {
        "pins",
        "counter_map",
        "ifstate",
        "links",
        "host_routes",
        ADDRESSES,
        "nics",
        "queue_drops",
        "run_dir",
        "cluster_pods",
        "endpoints",
    }
)
Edit = Callable[[dict[str, bytes]], dict[str, bytes]]
_T = TypeVar("_T")
_NO_FOLDER: Folder[bytes] = Folder(present=False, files={}, problems=())


@dataclass(frozen=True, slots=True)
class Written:
    """The number of maps and Calico files in a bundle, and one sentence for each part that could not be read."""

    maps: int
    files: int
    problems: tuple[str, ...]


def write_bundle(
    source: NodeSource,
    snapshot: Snapshot,
    about: dict[str, str],
    target: IO[bytes],
    edit: Edit = dict,
    packets: Part[RecordedPackets] | None = None,
) -> Written:
    """Writes everything this program reads on a node to `target`: the raw data of `source`, and the live map that
    `snapshot` determined; `about` holds versions and the node name, `edit` changes the members before. `packets` are
    those that were captured.
    """
    errors: dict[str, str] = {}
    pinned = _value(errors, "pins", snapshot.pins) or ()
    kept = [pin for pin in pinned if pin.datum not in POLICY_PROGRAMS.values()]
    entries: dict[str, Entries] = {}
    if not snapshot.ifstate.error:
        entries = _value(errors, "policy_programs", Part.of(partial(_policy_entries, source, snapshot))) or {}
    pins = [*(pin.name for pin in kept), *entries]
    members = _map_members(source, snapshot, kept, entries, errors)
    parts: dict[str, Part[Any]] = {
        "programs": Part.of(partial(_programs, source, snapshot, entries)),
        "links": snapshot.links,
        "routes": snapshot.host_routes,
        ADDRESSES: snapshot.addresses,
        "nics": snapshot.nics,
        "queue_drops": snapshot.queue_drops,
        "run_dir": snapshot.run_dir,
        "pods": snapshot.cluster_pods,
    }
    values = {name: _value(errors, name, part) for name, part in parts.items()}
    members |= {f"{name}.json": _json(value) for name, value in values.items() if value is not None}
    if recorded := packets and _value(errors, "packets", packets):
        members[PACKETS] = packets_member(recorded)
    folders = {part: _value(errors, part, Part.of(getattr(source, part))) or _NO_FOLDER for part in FOLDERS}
    for part, folder in folders.items():
        members |= {f"{FOLDERS[part]}/{name}": content for name, content in folder.files.items()}
    _leave_out_oversized(members, errors)
    head = {
        "format": FORMAT,
        "about": about,
        "reader": snapshot.reader,
        "pins": pins,
        "attach_point_folders": _value(errors, "attach_point_folders", Part.of(source.attach_point_folders)) or [],
        "live": _live(_value(errors, "live", snapshot.counter_map)),
        "folders": {part: _folder_state(folder) for part, folder in folders.items()},
        "data": [datum for datum in (*NEW_DATA, ADDRESSES) if not source.predates(datum)],
        "clock_ns": source.clock_ns(),
        "errors": errors,
    }
    write_archive(edit({"bundle.json": _json(head), **members}), target)
    return Written(
        len(pins) - sum(f"maps/{name}" in errors for name in pins),
        sum(name.startswith(tuple(f"{folder}/" for folder in FOLDERS.values())) for name in members),
        tuple(f"{part}: {sentence}" for part, sentence in errors.items()),
    )


def _map_members(
    source: NodeSource, snapshot: Snapshot, pins: Iterable[Pin], entries: dict[str, Entries], errors: dict[str, str]
) -> dict[str, bytes]:
    """The maps at `pins`, and of the maps of policy programs these entries."""
    endpoints = all_addresses(snapshot.endpoints.or_else(Endpoints({})))
    reads = {pin.name: partial(map_members, source, pin, endpoints) for pin in pins}
    reads |= {name: partial(entry_members, source, name, found) for name, found in entries.items()}
    members: dict[str, bytes] = {}
    for name, read in reads.items():
        members |= _value(errors, f"maps/{name}", Part.of(read)) or {}
    return members


def _leave_out_oversized(members: dict[str, bytes], errors: dict[str, str]) -> None:
    """Leaves out what `read_bundle` would refuse, a map as a whole, with a sentence."""
    for name in [name for name, content in members.items() if len(content) > max_bytes(name)]:
        part = name.rpartition("/")[0] if name.startswith("maps/") else name.removesuffix(".json")
        errors[part] = f"it has {len(members[name]) >> 20} MiB, more than a bundle may hold"
        for one in [one for one in members if one == name or one.startswith(f"{part}/")]:
            del members[one]


def _policy_entries(source: NodeSource, snapshot: Snapshot) -> dict[str, Entries]:
    return read_policy_entries(source, snapshot.pins.get(), snapshot.ifstate.get())


def _programs(source: NodeSource, snapshot: Snapshot, entries: dict[str, Entries]) -> list[ProgramInfo]:
    policies = ids_in(entries)
    return [*programs_of(source, snapshot.pins.get()), *(source.programs(policies) if policies else ())]


def _live(versions: MapVersions | None) -> dict[str, object] | None:
    live = versions and versions.choice.live
    return {"pin": live.name, "id": live.info.id, "chosen_by": versions.choice.chosen_by} if versions and live else None


def _folder_state(folder: Folder[bytes]) -> dict[str, object]:
    kept = ("present", "problems", "unread")
    return {name: getattr(folder, name) for name in kept}


def _value(errors: dict[str, str], name: str, part: Part[_T]) -> _T | None:
    if part.error:
        errors[name] = str(part.error)
    return part.or_else(None)


def _json(value: object) -> bytes:
    return json.dumps(value, indent=1, default=asdict).encode()
