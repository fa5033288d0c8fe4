"""Edits of a recording, for the fixture `changed`: packets counted, entries removed, interfaces recreated, files."""

import ipaddress
import json

import numpy as np

COUNTERS = "cali_counters6"


def edits(*several):
    """All of these, one after another."""

    def edit(members):
        members = {**members}
        for one in several:
            members |= one(members)
        return members

    return edit


def added(ifindex, hook, slot, packets):
    """Adds this many packets to this slot of the first CPU; a negative number subtracts."""

    def edit(members):
        keys, values = _counters(members)
        (row,) = np.flatnonzero((keys[:, 0] == ifindex) & (keys[:, 1] == hook))
        values[row, 0, slot] += np.uint64(packets % (1 << 64))
        return {f"maps/{COUNTERS}/values": values.tobytes()}

    return edit


def without(ifindex, *hooks):
    """Removes the entries of this interface at these hooks, or at all hooks if none is named."""

    def edit(members):
        keys, values = _counters(members)
        gone = (keys[:, 0] == ifindex) & (np.isin(keys[:, 1], hooks) if hooks else True)
        return {f"maps/{COUNTERS}/keys": keys[~gone].tobytes(), f"maps/{COUNTERS}/values": values[~gone].tobytes()}

    return edit


def renumbered(old, new):
    """The interface of index `old` is recreated with index `new`."""

    def edit(members):
        found = {}
        for name in ("links.json", "routes.json"):
            rows = json.loads(members[name])
            found[name] = json.dumps(
                [one | {"ifindex": new if one["ifindex"] == old else one["ifindex"]} for one in rows]
            )
        for pin, words in ((COUNTERS, 2), ("cali_iface4", 1)):
            keys = np.frombuffer(members[f"maps/{pin}/keys"], "<u4").reshape(-1, words).copy()
            keys[keys[:, 0] == old, 0] = new
            found[f"maps/{pin}/keys"] = keys.tobytes()
        return {name: one.encode() if isinstance(one, str) else one for name, one in found.items()}

    return edit


def renamed(old, new):
    """The interface is renamed everywhere but in its policy files."""

    def edit(members):
        keys = f"{old}\0".encode(), f"{new}\0".encode().ljust(len(old) + 1, b"\0")
        assert len(keys[0]) == len(keys[1])
        names = [one for one in members if one == "links.json" or one.startswith("endpoint-status/")]
        found = {one: members[one].replace(old.encode(), new.encode()) for one in names}
        values = "maps/cali_iface4/values"
        return found | {values: members[values].replace(*keys)}

    return edit


def removed(ifindex):
    """The interface and everything that refers to it is gone."""

    def edit(members):
        found = without(ifindex)(members)
        name = {one["ifindex"]: one["name"] for one in json.loads(members["links.json"])}[ifindex].encode()
        for file in ("links.json", "routes.json"):
            rows = [one for one in json.loads(members[file]) if one["ifindex"] != ifindex]
            found[file] = json.dumps(rows).encode()
        keys = np.frombuffer(members["maps/cali_iface4/keys"], "<u4")
        values = np.frombuffer(members["maps/cali_iface4/values"], np.uint8).reshape(len(keys), -1)
        found["maps/cali_iface4/keys"] = keys[keys != ifindex].tobytes()
        found["maps/cali_iface4/values"] = values[keys != ifindex].tobytes()
        status = [one for one in members if one.startswith("endpoint-status/") and name in members[one]]
        return found | dict.fromkeys(status)

    return edit


def unpinned(pin):
    """This map is not there."""

    def edit(members):
        head = json.loads(members["bundle.json"])
        return {"bundle.json": json.dumps(head | {"pins": [one for one in head["pins"] if one != pin]}).encode()}

    return edit


def failing(part, sentence):
    """This part could not be read, with this error."""

    def edit(members):
        head = json.loads(members["bundle.json"])
        return {"bundle.json": json.dumps(head | {"errors": head["errors"] | {part: sentence}}).encode()}

    return edit


def made_at(time):
    """The bundle was made at this time."""

    def edit(members):
        head = json.loads(members["bundle.json"])
        return {"bundle.json": json.dumps(head | {"about": head["about"] | {"made": time}}).encode()}

    return edit


def _counters(members):
    info = json.loads(members[f"maps/{COUNTERS}/info.json"])
    shape = -1, info["copies"], info["info"]["value_size"] // 8
    keys = np.frombuffer(members[f"maps/{COUNTERS}/keys"], "<u4").reshape(-1, 2)
    return keys, np.frombuffer(members[f"maps/{COUNTERS}/values"], "<u8").reshape(shape).copy()


def with_ip_sets(family, sets):
    """The IP-set map of this IP family with these {number: [(address, prefix length)]}."""

    def edit(members):
        pin = f"cali_v{family}_ip_sets"
        rows = [(number, *one) for number, inside in sets.items() for one in inside]
        keys = [(64 + length).to_bytes(4, "little") + number.to_bytes(8, "big") for number, _, length in rows]
        keys = [key + ipaddress.ip_address(one).packed + bytes(4) for key, (_, one, _) in zip(keys, rows, strict=True)]
        info = {"pin": pin, "id": 70 + family, "name": pin, "type": "lpm_trie", "key_size": 20 if family == 4 else 32}
        info |= {"value_size": 4, "max_entries": 1000, "flags": 1}
        head = json.loads(members["bundle.json"])
        return {
            "bundle.json": json.dumps(head | {"pins": [*head["pins"], pin]}).encode(),
            f"maps/{pin}/info.json": json.dumps({"info": info, "copies": 1}).encode(),
            f"maps/{pin}/keys": b"".join(keys),
            f"maps/{pin}/values": bytes(4 * len(keys)),
        }

    return edit


def rewritten(before, after, *names):
    """These texts in the policy files whose name holds one of `names`, in all of them if none is given."""

    def edit(members):
        files = [
            one for one in members if one.startswith("policy/") and (not names or any(name in one for name in names))
        ]
        return {one: members[one].replace(before, after) for one in files}

    return edit


def without_policy_files(*names):
    """No policy file whose name holds one of `names`, none at all if none is given."""

    def edit(members):
        files = [one for one in members if one.startswith("policy/")]
        return dict.fromkeys(one for one in files if not names or any(name in one for name in names))

    return edit


def broken_policy_files(*names):
    """Policy files that are cut off: those whose name holds one of `names`, all if none is given."""

    def edit(members):
        return {one: members[one][: len(members[one]) // 2] for one in without_policy_files(*names)(members)}

    return edit


def hit(rule_id, hits):
    """Adds this many hits to this rule."""

    def edit(members):
        path = "maps/cali_rule_ctrs2"
        copies = json.loads(members[f"{path}/info.json"])["copies"]
        keys = np.frombuffer(members[f"{path}/keys"], "<u8")
        values = np.frombuffer(members[f"{path}/values"], "<u8").reshape(-1, copies).copy()
        if rule_id not in keys:
            keys, values = np.append(keys, np.uint64(rule_id)), np.vstack([values, np.zeros((1, copies), "<u8")])
        values[keys == rule_id, 0] += np.uint64(hits)
        return {f"{path}/keys": keys.tobytes(), f"{path}/values": values.astype("<u8").tobytes()}

    return edit
