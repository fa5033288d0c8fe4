"""Changes a node, one act after the other, and compares the counts with what was sent after each."""

import http.client
import random
import time
from collections import Counter
from concurrent.futures import Executor
from contextlib import suppress
from dataclasses import dataclass, replace

from exporter.demo.plan import CART, DATABASE, FRONTEND, PODS, PROBE, Pod
from tests.kernel.machine import exporter, samples_of
from tests.soak.changing_demo import ChangingNode, policies_named
from tests.soak.ledger import Ledger, differences, prefix_of
from tests.soak.restarting_api_server import Cluster
from tests.soak.scrapers import RENAMED, Client, Faults, Server
from tests.soak.traffic_generator import Traffic
from tests.soak.web_config import WebConfig

_FAMILIES = {
    f"calico_bpf_{family}_total": name
    for family, name in (
        ("program_packets", "packets"),
        ("accepted_flows", "accepted"),
        ("accepted_packets", "accepted packets"),
        ("dropped_packets", "dropped"),
        ("redirected_packets", "redirected"),
        ("nat_source_collisions", "collisions"),
        ("unknown_slot", "unknown"),
    )
}
_HITS = "calico_bpf_policy_rule_hits_total"
_MAX_WAIT = 8
_COMMANDS = (
    ("counters", "-o", "json"),
    ("counters", "--nonzero", "--top", "3"),
    ("scrape",),
    ("check",),
    ("policy", "--pod", "shop/cart"),
    ("why", "--pod", "shop/frontend", "--for", "1"),
    ("bundle",),
)


@dataclass
class Guest:
    """A pod that comes and goes, with the uid that the API server knows it by."""

    pod: Pod
    uid: str


class NodeChanges:
    """Changes `node` and checks the counts of its servers. `problems` has a sentence for everything that went wrong.

    `inside` is one thread in the node's namespace.
    """

    def __init__(
        self,
        node: ChangingNode,
        cluster: Cluster,
        web: WebConfig,
        servers: list[Server],
        faults: Faults,
        inside: Executor,
        seed: int,
    ):
        self.node, self.cluster, self.web, self.servers, self.faults = node, cluster, web, servers, faults
        self._inside = inside
        self.chance = random.Random(seed)
        self.ledger = Ledger()
        self.traffic = Traffic(node, self.ledger, self.chance)
        self.acts = Counter()
        self.problems: list[str] = []
        self._pods = {pod.name: pod for pod in PODS}
        self._guests: list[Guest] = []
        self._uids = 0
        self._stale: list[str] = []
        self._clients = {server.name: Client(server, keep=False) for server in servers}
        for pod in PODS:
            self.cluster.tell("ADDED", pod, pod.name)
            self.traffic.listen(pod)

    def round(self, until: float) -> None:
        """Every act once in a random order, with traffic between and a comparison after each, until it is time."""
        acts = [
            *[self.add_guest] * 3,
            *[self.remove_guest] * 2,
            self.recreate_guest,
            self.rename_link,
            *[self.change_policy] * 2,
            self.rename_map,
            self.set_map_aside,
            self.leave_map_behind,
            self.upgrade,
            self.recreate_states,
            self.restart_api_server,
            *[self.change_web_config] * 2,
            *[self.run_command] * 2,
            *[self.annoy] * 2,
            self.get_page,
        ]
        self.chance.shuffle(acts)
        for act in acts:
            if self.problems or time.monotonic() > until:
                return
            self.traffic.send(list(self._pods.values()), self.chance.randint(2, 6))
            act()
            self.acts[act.__name__.replace("_", " ")] += 1
            self.traffic.send(list(self._pods.values()), self.chance.randint(2, 6))
            self.compare()

    def finish(self) -> None:
        """The last comparison; what was counted then is part of the totals."""
        self._close(self._interfaces())

    # What is done.

    def add_guest(self) -> None:
        if len(self._guests) >= 8:
            self.remove_guest()
        self._uids += 1
        model = self.chance.choice((FRONTEND, CART, DATABASE, PROBE))
        names = {f"guest-{number}" for number in range(20)} - self._pods.keys()
        name = self.chance.choice(sorted(names))
        policies = policies_named(f"of-{name}", model.policies)
        pod = replace(model, name=name, number=20 + self._uids % 200, policies=policies, sends=())
        self._add(Guest(pod, str(self._uids)))

    def _add(self, guest: Guest, index: int | None = None) -> None:
        self.cluster.tell("ADDED", guest.pod, guest.uid)
        self.node.add_pod(guest.pod, index)
        self._guests.append(guest)
        self._pods[guest.pod.name] = guest.pod
        self.traffic.listen(guest.pod)

    def remove_guest(self) -> None:
        if self._guests:
            self._remove(self._guests.pop(self.chance.randrange(len(self._guests))))

    def _remove(self, guest: Guest) -> None:
        # Its counts go with it: they are compared before.
        self._close({guest.pod.interface})
        self.traffic.close_ports(guest.pod)
        self.node.remove_pod(guest.pod)
        del self._pods[guest.pod.name]
        self.cluster.tell("DELETED", guest.pod, guest.uid)

    def recreate_guest(self) -> None:
        """Recreates a pod under the same name, now and then with the same interface index."""
        if not self._guests:
            self.add_guest()
        old = self._guests.pop(0)
        index = self.node.ifindex(old.pod.interface) if self.chance.random() < 0.5 else None
        self._remove(old)
        self._uids += 1
        self._add(Guest(replace(old.pod, number=20 + self._uids % 200), str(self._uids)), index)

    def rename_link(self) -> None:
        """A guest's interface has another name for a moment, and its counts go on under it; then the guest goes."""
        if not self._guests:
            self.add_guest()
        guest = self._guests.pop()
        own = guest.pod.interface
        self.compare()
        self.node.rename_link(own, RENAMED)
        self.compare(renamed=own)
        self.node.rename_link(RENAMED, own)
        self._remove(guest)

    def change_policy(self) -> None:
        """A pod's last policy is deleted and one of another name takes its place."""
        name = self.chance.choice([name for name, pod in self._pods.items() if pod.policies])
        old = self._pods[name]
        new = replace(old, policies=policies_named(f"changed-{self.chance.randrange(40)}", old.policies))
        self.node.change_policy(old, new)
        self._pods[name] = new
        for guest in self._guests:
            guest.pod = new if guest.pod.name == name else guest.pod

    def rename_map(self) -> None:
        with self.faults.injected("the counter map was renamed", "counters", "maps"):
            self.node.bpf.rename(f"cali_counters{self._free_number()}")

    def set_map_aside(self) -> None:
        """Calico is being reinstalled: for a moment there is no counter map."""
        with self.faults.injected("there was no live counter map", "counters", "maps"):
            name = self.node.bpf.counters
            self.node.bpf.rename("set_aside")
            time.sleep(self.chance.uniform(0, 0.5))  # simulates the absence: waits for nothing
            self.node.bpf.rename(name)
            self.compare()  # the live one of several maps shows when it changes

    def leave_map_behind(self) -> None:
        """A counter map of an older Calico lies there; those that lay there before are removed."""
        with self.faults.injected("counter maps of older releases were removed", "counters", "maps"):
            for name in self._stale:
                (self.node.pins / name).unlink()
            self._stale = []
        number = self._free_number()
        self.node.leave_behind(number)
        self._stale.append(f"cali_counters{number}")

    def upgrade(self) -> None:
        self._close(self._interfaces())
        number = self._free_number()
        self._stale.append(self.node.bpf.counters)
        with self.faults.injected("Calico was upgraded", "counters", "maps"):
            self.node.upgrade(number, with_array=self.chance.random() < 0.5)

    def recreate_states(self) -> None:
        with self.faults.injected("the interface state map was recreated", "counters", "endpoints", "maps", "rules"):
            self.node.recreate_states(self._interfaces())

    def restart_api_server(self) -> None:
        self._there(self.cluster.restart, self.chance.uniform(0, 1.5))

    def change_web_config(self) -> None:
        self.web.change(self.chance)

    def run_command(self) -> None:
        words = list(self.chance.choice(_COMMANDS))
        if words == ["bundle"]:
            words.append(self.node.state / "bundle.tar.xz")
        where = ("--bpf.fs", self.node.bpf.path, "--calico.run-dir", self.node.run_dir)
        done = exporter(*words, *where, prefix=("ip", "netns", "exec", self.node.namespace))
        if done.returncode:
            self.problems.append(f"{words[0]} exited {done.returncode}: {done.stderr or done.stdout}")

    def annoy(self) -> None:
        """Malformed clients, and one with a wrong password."""
        for server in self.servers:
            self._there(server.annoy, self.chance)
            if server.tls and self._there(self._clients[server.name].get, "/metrics", "wrong")[0] != 401:
                self.problems.append("a wrong password was not refused")

    def get_page(self) -> None:
        for server in self.servers:
            until = time.monotonic() + _MAX_WAIT
            # Requests of about a second share one snapshot, which can be older than the newest pod.
            while (wrong := self._wrong_page(server)) and time.monotonic() < until:
                time.sleep(0.2)
            self.problems.extend(f"{server.name}: {one}" for one in wrong)

    def _wrong_page(self, server: Server) -> list[str]:
        status, page = self._there(self._clients[server.name].get, "/")
        missing = sorted(one.pod.name for one in self._guests if one.pod.name not in page)
        return [f"the page says {status} and nothing of {', '.join(missing)}"] if status != 200 or missing else []

    # What is counted.

    def compare(self, renamed: str = "") -> Counter:
        """The counts of the pods' interfaces, which all servers must report as sent; `renamed` has a new name now."""
        interfaces = self._interfaces()
        expected = self.ledger.of(interfaces)
        counted: Counter = Counter()
        for server in self.servers:
            counted, wrong = self._wait_for_counts(server, expected, renamed)
            self.problems.extend(f"{server.name}: {one}" for one in wrong)
        return counted

    def _wait_for_counts(self, server: Server, expected: Counter, renamed: str) -> tuple[Counter, list[str]]:
        until = time.monotonic() + _MAX_WAIT
        while True:
            samples = {}
            with suppress(OSError, http.client.HTTPException):  # the scrapers report it
                status, body = self._there(self._clients[server.name].get)
                samples = samples_of(body) if status == 200 else {}
            counted = self._counted(samples, renamed)
            wrong = differences(expected, counted) + self._wrong_hits(samples)
            if not wrong or time.monotonic() > until:
                return counted, wrong

    def _counted(self, samples: dict, renamed: str) -> Counter:
        counted: Counter = Counter()
        interfaces = self._interfaces()
        for (name, labels), value in samples.items():
            if value and name in _FAMILIES:
                known = dict(labels)
                interface = renamed if known["interface"] == RENAMED else known["interface"]
                if interface in interfaces:
                    what = known.get("reason") or known.get("path") or known.get("slot") or ""
                    counted[interface, known["direction"], (_FAMILIES[name], what)] += int(value)
        return counted

    def _wrong_hits(self, samples: dict) -> list[str]:
        hits = {prefix_of(dict(labels)): value for (name, labels), value in samples.items() if name == _HITS}
        wrong = {prefix for prefix, value in hits.items() if value != self.ledger.hits[prefix]}
        return [f"rule {one} has {hits[one]:.0f} hits, and {self.ledger.hits[one]} were sent" for one in sorted(wrong)]

    def _close(self, interfaces: set[str]) -> None:
        counted = self.compare()
        self.ledger.close(Counter({key: value for key, value in counted.items() if key[0] in interfaces}), interfaces)

    def _interfaces(self) -> set[str]:
        return {pod.interface for pod in self._pods.values()}

    def _free_number(self) -> int:
        taken = {*self._stale, self.node.bpf.counters}
        return self.chance.choice([number for number in range(2, 9) if f"cali_counters{number}" not in taken])

    def _there(self, work, *words):
        return self._inside.submit(work, *words).result()
