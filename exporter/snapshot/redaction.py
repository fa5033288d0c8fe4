"""Redacts a bundle: names, addresses and selectors are replaced, and every command says the same about what is left.

The same name or address is replaced alike wherever it stands, and in all bundles under one key, so that two of them
can be compared. Only what this program reads is kept of a file. Counts, ports, times and versions stay, and so do the
numbers of IP sets: Calico hashes them from selectors, so who guesses a selector can confirm it.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any
from urllib.parse import quote, unquote

from exporter.calico.endpoint_status import EndpointStatusError, parse_endpoint_status
from exporter.calico.pins import parse_pins
from exporter.calico.policy_debug import parse_file_name
from exporter.snapshot.recorded_packets import PACKETS
from exporter.snapshot.redacted_maps import MapRows
from exporter.snapshot.redacted_names import Names
from exporter.snapshot.redacted_policy import PolicyFiles
from exporter.snapshot.redacted_rules import RuleIds

_STATUS, _POLICY = "endpoint-status/", "policy/"
_KEPT_ABOUT = ("exporter", "calico", "kernel", "made")
_UNKNOWN_LAYOUT = "left out by --redact: its layout is not known, and it could name addresses"


class Redaction:
    """The redaction of a bundle with these members, under this key; `prefixes` are those of workload interfaces."""

    def __init__(self, members: Mapping[str, bytes], key: bytes, prefixes: Sequence[str] = ()) -> None:
        self.names = Names(key, prefixes)
        self._members = members
        self._rule_ids = RuleIds(self.names, key, (namespace for namespace, _ in self._pods()))
        self._policies = PolicyFiles(self.names, self._rule_ids)
        self._errors: dict[str, str] = {}

    def redacted(self) -> dict[str, bytes]:
        """The members of the redacted bundle."""
        names = self.names
        names.know_pods(self._pods())
        files = dict(self._files())  # before programs, whose tags follow from them
        parts: dict[str, Callable[[Any], object]] = {
            "links.json": lambda rows: [{**row, "name": names.interface(row["name"])} for row in rows],
            "routes.json": self._with_addresses,
            "addresses.json": self._with_addresses,
            "nics.json": lambda rows: {names.interface(name): row for name, row in rows.items()},
            "queue_drops.json": lambda rows: rows,
            "run_dir.json": lambda nothing: nothing,
            "pods.json": self._pod_list,
            PACKETS: self._packets,
            "programs.json": lambda rows: [{**row, "tag": self._tag(row.get("tag", ""))} for row in rows],
        }
        tables = {name: self._json(name, part) for name, part in parts.items() if name in self._members}
        maps = dict(self._maps())
        # Last, when all names are known that a sentence can contain.
        return {"bundle.json": self._json("bundle.json", self._head), **maps, **tables, **files}

    def _json(self, name: str, replace: Callable[[Any], object]) -> bytes:
        indent = None if name == PACKETS else 1  # which has many short rows
        return json.dumps(replace(json.loads(self._members[name])), indent=indent).encode()

    def _of(self, folder: str) -> Iterator[tuple[str, bytes]]:
        for path, content in self._members.items():
            if path.startswith(folder):
                yield path.removeprefix(folder), content

    def _pods(self) -> Iterator[tuple[str, str]]:
        for name, content in self._of(_STATUS):
            with suppress(EndpointStatusError):
                status = parse_endpoint_status(name, content.decode("utf-8", "replace"))
                yield status.namespace, status.pod
        if "pods.json" in self._members:
            for row in json.loads(self._members["pods.json"])["pods"]:
                yield row["namespace"], row["pod"]

    def _files(self) -> Iterator[tuple[str, bytes]]:
        for name, content in self._of(_STATUS):
            yield _STATUS + self._status_name(name), self._status(content)
        programs = [(parse_file_name(name), name, content) for name, content in self._of(_POLICY)]
        for about, _, content in programs:
            if about:
                self._policies.learn(about, content)
        for about, name, content in programs:
            yield _POLICY + self._policy_name(name), self._policies.redact(content, about.family) if about else b""

    def _policy_name(self, name: str) -> str:
        about = parse_file_name(name)
        return self.names.interface(about.interface) + name[len(about.interface) :] if about else self.names.name(name)

    def _status_name(self, name: str) -> str:
        parts = [unquote(part) for part in name.split(" ")]
        if len(parts) != 3:  # then it names no pod
            return " ".join(quote(self.names.name(part), safe="") for part in parts)
        orchestrator, workload, endpoint = parts
        renamed = orchestrator, self.names.name(workload), self.names.interface(endpoint)
        return " ".join(quote(part, safe="", errors="surrogatepass") for part in renamed)

    def _status(self, content: bytes) -> bytes:
        try:
            fields = json.loads(content)
        except (ValueError, RecursionError):
            return b"{"  # cut off, as it was
        if not isinstance(fields, dict) or not isinstance(fields.get("ifaceName"), str):
            return b"{}"
        kept: dict[str, object] = {"ifaceName": self.names.interface(fields["ifaceName"])}
        for key in ("ipv4Nets", "ipv6Nets"):
            nets = fields.get(key)
            texts = [net for net in nets if isinstance(net, str)] if isinstance(nets, list) else []
            kept[key] = [self.names.addresses.one(net) for net in texts]
        return json.dumps(kept).encode()

    def _maps(self) -> Iterator[tuple[str, bytes]]:
        pins = {pin.name: pin for pin in parse_pins(json.loads(self._members["bundle.json"])["pins"])}
        rows = MapRows(self.names, self._rule_ids)
        for name, pin in pins.items():
            path = f"maps/{name}"
            if f"{path}/info.json" not in self._members:
                continue
            info = json.loads(self._members[f"{path}/info.json"])["info"]
            columns = (self._members[f"{path}/{part}"] for part in ("keys", "values"))
            changed = rows.redact(pin.datum, (info["key_size"], info["value_size"]), *columns)
            if changed is None:
                self._errors[path] = _UNKNOWN_LAYOUT
                continue
            yield f"{path}/info.json", self._members[f"{path}/info.json"]
            yield from zip((f"{path}/keys", f"{path}/values"), changed, strict=True)

    def _with_addresses(self, rows: list[dict[str, Any]]) -> object:
        return [{**row, "address": self.names.addresses.one(row["address"])} for row in rows]

    def _pod_list(self, listed: dict[str, Any] | None) -> object:
        if listed is None:
            return None
        names = self.names
        texts = {"problem": names.sentence(listed["problem"])} if listed.get("problem") else {}
        texts |= {"advice": names.in_text(listed["advice"])} if listed.get("advice") else {}
        return listed | texts | {"node": names.name(listed["node"]), "pods": [*map(self._pod, listed["pods"])]}

    def _pod(self, row: dict[str, Any]) -> dict[str, object]:
        renamed: dict[str, object] = {key: self.names.name(row[key]) for key in ("namespace", "pod", "owner")}
        addresses = [self.names.addresses.one(address) for address in row["addresses"]]
        return renamed | {"owner_kind": row["owner_kind"], "addresses": addresses}

    def _packets(self, found: dict[str, Any]) -> object:
        names, capture = self.names, found["capture"]
        unreadable = {names.interface(name): kinds for name, kinds in capture["unreadable"].items()}
        flows = [self._flow(one) for one in capture["flows"]]
        counted = [{**one, "interface": names.interface(one["interface"])} for one in found["counted"]]
        return {"capture": capture | {"unreadable": unreadable, "flows": flows}, "counted": counted}

    def _flow(self, row: dict[str, Any]) -> object:
        one = self.names.addresses.one
        addresses = {name: one(row[name]) for name in ("source", "destination")}
        beyond = {name: [[one(address), port] for address, port in row[name]] for name in ("passed_to", "answered_by")}
        return row | addresses | beyond | {"interface": self.names.interface(row["interface"])}

    def _tag(self, tag: str) -> str:
        return self._policies.tags.get(tag, tag)

    def _head(self, head: dict[str, Any]) -> object:
        names = self.names
        about = {key: text for key, text in head["about"].items() if key in _KEPT_ABOUT}
        if "node" in head["about"]:
            about["node"] = names.name(head["about"]["node"])
        folders = {part: self._folder(part, state) for part, state in head["folders"].items()}
        errors = {self._part(part): names.sentence(text) for part, text in head["errors"].items()} | self._errors
        attached = [self._attach_point(name) for name in head["attach_point_folders"]]
        return head | {"about": about, "folders": folders, "errors": errors, "attach_point_folders": attached}

    def _part(self, name: str) -> str:
        """A part of the bundle, which can be a file."""
        for folder, rename in ((_STATUS, self._status_name), (_POLICY, self._policy_name)):
            if name.startswith(folder):
                return folder + rename(name.removeprefix(folder))
        return name

    def _attach_point(self, name: str) -> str:
        interface, mark, direction = name.rpartition("_")
        return self.names.interface(interface) + mark + direction

    def _folder(self, part: str, state: dict[str, Any]) -> dict[str, object]:
        rename = self._policy_name if part == "policy_files" else self._status_name
        unread = {name: rename(name) for name in state.get("unread", ())}
        problems = []
        for problem in state["problems"]:
            for before, after in unread.items():
                problem = problem.replace(before, after)  # noqa: PLW2901  one after another
            problems.append(self.names.sentence(problem))
        known = {"unread": [*unread.values()]} if "unread" in state else {}
        return {"present": state["present"], "problems": problems, **known}
