"""A node's raw data in one archive, loaded for analysis on another machine.

`bundle_writer.py` puts a source's raw facts into a tar archive; `Bundle` is a `NodeSource` over such an archive, so
every command works on it without root, BPF or Calico. The recordings in the tests are bundles. Errors of the node are
stored as messages and raised again.

Members: `bundle.json` (format, versions, pins, what failed), `maps/<pin>/{info.json,keys,values}` with the columns of
`MapDump` as raw bytes (of connection tracking only the entries of this node's endpoints), `links.json`, `routes.json`,
`addresses.json`, `programs.json`, `nics.json`, `queue_drops.json`, `pods.json` (if the API server was used),
`packets.json` (if captured), `endpoint-status/<file>`, `policy/<file>`. Others are ignored; `exporter/archive.py`
compresses them.
"""

import json
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from exporter.archive import ArchiveError, read_archive
from exporter.bpf.accounting import MapUsage
from exporter.bpf.maps import MapDump, MapError, MapInfo, MapMissing, ProgramInfo, ShapeCheck, sum_over_cpus, unchecked
from exporter.errors import ExporterError
from exporter.node import NodeError
from exporter.node.files import Folder
from exporter.node.netlink import HostRoute, Link, NodeAddress
from exporter.node.nic import Nic, NicCounters
from exporter.node.pods import ClusterPod, ClusterPods
from exporter.node.policies import Policies, policies_of
from exporter.snapshot.bundled_maps import NEW_DATA
from exporter.snapshot.recorded_packets import PACKETS, RecordedPackets, parse_packets
from exporter.snapshot.source import is_policy_file_of

FORMAT = 1
ADDRESSES = "addresses"
# Parsed, JSON takes up to thirty times its size.
_MAX_JSON, _MAX_KEYS, _MAX_VALUES = 16 << 20, 32 << 20, 256 << 20
_MAX_TEXT, _MAX_QUOTED = 1 << 16, 200
FOLDERS = {"endpoint_status": "endpoint-status", "policy_files": "policy"}


class BundleError(ExporterError):
    """The file is not a bundle that this program can read. The message is one sentence."""


class Bundle:
    """A `NodeSource` over a bundle. Raises `BundleError` if the archive is incomplete."""

    reader_name = "bundle"

    def __init__(self, members: dict[str, bytes]) -> None:
        self._members = members
        head = self._json("bundle.json")
        if not isinstance(head, dict) or head.get("format") != FORMAT:
            raise BundleError(f"the bundle is not of format {FORMAT}: read it with the release that made it")
        for text in (*head["pins"], *head["attach_point_folders"], *head["errors"].values(), *head["about"].values()):
            _text(text)
        self._head = head
        self._policies: Policies | None = None
        self._errors: dict[str, str] = head["errors"]
        self.about: dict[str, str] = head["about"]

    def proven_live(self) -> int | None:
        """The kernel id of the counter map that was live when the bundle was written."""
        live = self._head["live"]
        return int(live["id"]) if live else None

    def pin_names(self) -> list[str]:
        self._raise("pins", MapError)
        return list(self._head["pins"])

    def attach_point_folders(self) -> list[str]:
        self._raise("attach_point_folders", MapError)
        return list(self._head["attach_point_folders"])

    def map_info(self, name: str) -> MapInfo:
        self._raise(f"maps/{name}", MapError)
        if name not in self._head["pins"]:
            raise MapMissing(f"the bundle holds no map {name}")
        info = self._json(f"maps/{name}/info.json")["info"]
        return MapInfo(
            pin=_text(info["pin"]),
            id=int(info["id"]),
            name=_text(info["name"]),
            type=_text(info["type"]),
            key_size=int(info["key_size"]),
            value_size=int(info["value_size"]),
            max_entries=int(info["max_entries"]),
            flags=int(info["flags"]),
        )

    def map_usage(self, name: str) -> MapUsage:
        return MapUsage(self.map_info(name), None)

    def map_dump(self, name: str, *, sum_cpus: bool = False, check: ShapeCheck = unchecked) -> MapDump:
        info = self.map_info(name)
        check(info)
        copies = self._json(f"maps/{name}/info.json")["copies"]
        try:
            dump = MapDump(info, self._members[f"maps/{name}/keys"], self._members[f"maps/{name}/values"], int(copies))
        except (KeyError, ValueError) as error:
            raise BundleError(f"the bundle is damaged: its map {name} is incomplete") from error
        sizes = dump.count * info.key_size, dump.count * dump.copies * info.value_size
        if sizes != (len(dump.keys), len(dump.values)) or dump.copies < 0:
            raise BundleError(f"the bundle is damaged: its map {name} is incomplete")
        return sum_over_cpus(dump) if sum_cpus else dump

    def map_batches(self, name: str) -> Iterator[MapDump]:
        """See `NodeSource`; of connection tracking it holds the entries of the node's endpoints."""
        info = self.map_info(name)
        keys, values = (self._members.get(f"maps/{name}/{part}", b"") for part in ("keys", "values"))
        yield MapDump(info, keys, values)

    def predates(self, datum: str) -> bool:
        return datum in (*NEW_DATA, ADDRESSES) and datum not in self._head.get("data", ())

    def clock_ns(self) -> int | None:
        clock = self._head.get("clock_ns")
        return None if clock is None else int(clock)

    def programs(self, ids: Sequence[int]) -> list[ProgramInfo]:
        self._raise("programs", MapError)
        wanted = set(ids)
        return [
            ProgramInfo(row["id"], row["load_time"], tuple(row["map_ids"]), _text(row.get("tag", "")))
            for row in self._json("programs.json")
            if row["id"] in wanted
        ]

    def map_values(self, name: str, keys: Sequence[bytes]) -> list[bytes | None]:
        dump = self.map_dump(name)
        found = dict(dump.entries())
        return [found.get(key) for key in keys]

    def links(self) -> tuple[Link, ...]:
        self._raise("links", NodeError)
        return tuple(Link(int(row["ifindex"]), _text(row["name"])) for row in self._json("links.json"))

    def host_routes(self) -> tuple[HostRoute, ...]:
        self._raise("routes", NodeError)
        return tuple(HostRoute(_address(row["address"]), int(row["ifindex"])) for row in self._json("routes.json"))

    def addresses(self) -> tuple[NodeAddress, ...]:
        if self.predates(ADDRESSES):
            raise NodeError("this bundle was made by an older version and has no addresses of the node")
        self._raise(ADDRESSES, NodeError)
        rows = self._json("addresses.json")
        return tuple(NodeAddress(_address(row["address"]), int(row["bits"]), int(row["ifindex"])) for row in rows)

    def interfaces_to(self, addresses: Collection[str]) -> dict[str, int]:
        raise NodeError(f"a bundle does not hold the kernel's routes, such as to {', '.join(sorted(addresses)[:3])}")

    def nics(self) -> dict[str, Nic]:
        self._raise("nics", NodeError)
        if "nics.json" not in self._members:
            raise NodeError("the bundle holds no interface counters: it was made before they were part of it")
        rows = self._json("nics.json").items()
        return {name: Nic(NicCounters(**row["received"]), NicCounters(**row["sent"])) for name, row in rows}

    def received(self) -> dict[str, tuple[int, int]]:
        return {name: (nic.received.packets, nic.received.bytes) for name, nic in self.nics().items()}

    def queue_drops(self) -> dict[int, int]:
        self._raise("queue_drops", NodeError)
        if "queue_drops.json" not in self._members:
            raise NodeError("the bundle holds no drops of clsact: it was made before they were part of it")
        return {int(ifindex): int(count) for ifindex, count in self._json("queue_drops.json").items()}

    def check_run_dir(self) -> None:
        self._raise("run_dir", NodeError)

    def endpoint_status(self) -> Folder[bytes]:
        return self._folder("endpoint_status")

    def cluster_pods(self) -> ClusterPods | None:
        self._raise("pods", NodeError)
        if "pods.json" not in self._members:
            return None
        content = self._json("pods.json")
        pods = tuple(_pod(row) for row in content["pods"])
        synced, problem = content["synced"], content["problem"]
        return ClusterPods(
            pods,
            None if synced is None else float(synced),
            None if problem is None else _text(problem),
            {_text(reason): int(count) for reason, count in content["errors"].items()},
            _text(content["node"]),
            _text(content.get("advice", "")),
        )

    def packets(self) -> RecordedPackets | None:
        self._raise("packets", NodeError)
        return parse_packets(self._json(PACKETS)) if PACKETS in self._members else None

    def policy_files(self, interfaces: Collection[str] | None = None) -> Folder[bytes]:
        folder = self._folder("policy_files")
        files = {name: one for name, one in folder.files.items() if is_policy_file_of(name, interfaces)}
        return replace(folder, files=files)

    def policies(self) -> Policies:
        if self._policies is None:
            self._policies = policies_of(self.policy_files())
        return self._policies

    def policy_file_names(self) -> list[str]:
        return sorted(self.policy_files().files)

    def _folder(self, part: str) -> Folder[bytes]:
        self._raise(part, NodeError)
        prefix = f"{FOLDERS[part]}/"
        files = {name.removeprefix(prefix): data for name, data in self._members.items() if name.startswith(prefix)}
        state = self._head["folders"][part]
        unread = _texts(state.get("unread", []))  # missing in the first bundles of 0.1.0
        return Folder(state["present"], files, _texts(state["problems"]), {}, unread)

    def _raise(self, part: str, kind: type[Exception]) -> None:
        if part in self._errors:
            raise kind(self._errors[part])

    def _json(self, name: str) -> Any:
        try:
            return json.loads(self._members[name])
        except KeyError as error:
            raise BundleError(f"the file is not a bundle: it holds no {name}") from error
        except (ValueError, RecursionError) as error:
            raise BundleError(f"the bundle is damaged: {name} is not JSON") from error


def read_bundle(path: Path) -> Bundle:
    """The bundle in the file at `path`. Raises `BundleError`."""
    try:
        bundle = Bundle(read_archive(path, max_bytes))
        _check(bundle)
    except OSError as error:
        raise BundleError(f"{path} could not be read: {error.strerror or error}") from error
    except ArchiveError as error:
        raise BundleError(f"{path} is not a bundle: {error}") from error
    except MemoryError as error:
        raise BundleError(f"{path} could not be read: the process was refused memory") from error
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise BundleError(f"{path} is not a bundle, or is damaged: {error!s:.{_MAX_QUOTED}}") from error
    return bundle


def max_bytes(member: str) -> int:
    """The largest size of a member, 0 for what is no part of a bundle."""
    folder, _, name = member.rpartition("/")
    if folder.startswith("maps/"):
        return {"info.json": _MAX_JSON, "keys": _MAX_KEYS, "values": _MAX_VALUES}.get(name, 0)
    return _MAX_JSON if folder in ("", *FOLDERS.values()) else 0


def _check(bundle: Bundle) -> None:
    # Parse everything once, so that a damaged bundle fails at startup and not in the middle of a command.
    parts: list[Callable[[], object]] = [bundle.links, bundle.host_routes, bundle.nics, bundle.queue_drops]
    parts += [bundle.attach_point_folders, bundle.addresses, bundle.clock_ns, bundle.cluster_pods]
    parts += [bundle.packets, bundle.endpoint_status, bundle.policy_files, bundle.proven_live]
    parts += [partial(bundle.programs, [])]
    with suppress(MapError):
        parts += [partial(bundle.map_dump, name) for name in bundle.pin_names()]
    for part in parts:
        with suppress(MapError, NodeError):  # an error recorded on the node is valid content
            part()


def _pod(row: dict[str, Any]) -> ClusterPod:
    addresses = tuple(_text(address) for address in row["addresses"])
    namespace, pod, owner_kind, owner = (_text(row[name]) for name in ("namespace", "pod", "owner_kind", "owner"))
    return ClusterPod(namespace, pod, addresses, owner_kind, owner)


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise BundleError(f"the bundle is damaged: it holds {value!r:.{_MAX_QUOTED}} instead of a string")
    if len(value) > _MAX_TEXT:
        raise BundleError(f"the bundle is damaged: it holds a string of {len(value)} characters")
    return value


def _texts(values: object) -> tuple[str, ...]:
    if not isinstance(values, list):
        raise BundleError(f"the bundle is damaged: it holds {values!r:.{_MAX_QUOTED}} instead of a list")
    return tuple(map(_text, values))


def _address(value: object) -> str:
    address = _text(value)
    ip_address(address)
    return address
