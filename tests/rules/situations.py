"""Situations that are ordinary in operation, minute by minute: what happens to the made nodes of a fleet."""

from dataclasses import dataclass, field

NODES = 11
END = 205
# When a situation begins, and the node that most of them happen to, which is also the one with the faults.
START = 105
NODE = 2


@dataclass
class Pod:
    """An endpoint: where and when it is, and what it counts in a minute, by direction or reason."""

    node: int
    namespace: str
    name: str
    born: int = 0
    end: int = END + 1
    starting: int = 2
    drops: object = None
    flows: object = None
    packets: object = None
    others: dict = field(default_factory=dict)
    kind: str = "workload"
    recreated: tuple = ()

    def labels(self):
        if self.kind != "workload":
            return {"interface": self.name, "namespace": "", "pod": ""}
        return {"interface": f"cali-{self.namespace}-{self.name}", "namespace": self.namespace, "pod": self.name}

    def is_starting(self, t):
        return any(0 <= t - begun < self.starting for begun in (self.born, *self.recreated))


class Calm:
    """Nothing happens. Subclasses are the situations."""

    job = "calico-bpf-exporter"

    def up(self, node, t):
        """1 where the exporter answers, 0 where it does not, None where Prometheus has no such target."""
        return 1

    def reset(self, node):
        """What the counters of a node's packets go on from, by the minute in which that happens."""
        return {}

    def rules_reset(self, node):
        """The minutes in which Felix empties the counters of rules."""
        return ()

    def calico_starts(self, node, t):
        """Whether Calico is starting on a node: nothing is ready there."""
        return False

    def pods(self):
        """The pods beside the usual ones."""
        return []

    def recreated(self, node):
        """The minutes in which all pods of a node are recreated under their names."""
        return ()


class NodeReboot(Calm):
    """A node is away for six minutes; its pods come back under their names, and drop packets until Calico is ready."""

    def up(self, node, t):
        return int(not (node == NODE and START <= t < START + 6))

    def reset(self, node):
        return {START: 0} if node == NODE else {}

    def rules_reset(self, node):
        return (START,) if node == NODE else ()

    def calico_starts(self, node, t):
        return node == NODE and START + 6 <= t < START + 9

    def recreated(self, node):
        return (START + 6,) if node == NODE else ()


class ExporterRollout(Calm):
    """One exporter after the other is replaced: for a minute its target fails, for another there is none."""

    def up(self, node, t):
        return {0: 0, 1: None}.get(t - START - 2 * node, 1)


class FelixRestart(Calm):
    """Felix restarts on every node at once: counters of rules start over, programs are attached again."""

    def rules_reset(self, node):
        return (START,)

    def calico_starts(self, node, t):
        return START <= t < START + 2


class Upgrade(Calm):
    """Calico is replaced on one node after the other: counters start over, or go on with older counts."""

    def reset(self, node):
        return {START + 3 * node: 5000 if node % 2 else 0}

    def rules_reset(self, node):
        return (START + 3 * node,)

    def calico_starts(self, node, t):
        return 0 <= t - START - 3 * node < 4

    def pods(self):
        def early(node):
            return {"host_ip_unknown": lambda t: 30 if self.calico_starts(node, t) else 0}

        return [Pod(n, "", "eth1", kind="host", flows=lambda t: 3, others=early(n)) for n in range(NODES)]


class SpotNode(Calm):
    """A node is taken away; its target fails for eight minutes, then is gone. Another comes with pods that start."""

    def up(self, node, t):
        if node == NODES - 1:
            return 1 if t < START else 0 if t < START + 8 else None
        if node == NODES:
            return 1 if t >= START + 9 else None
        return 1

    def pods(self):
        return [Pod(NODES, "web", f"new{n}", born=START + 9, starting=3, flows=lambda t: 6) for n in range(6)]


class ManyShortJobs(Calm):
    """On some nodes one job after the other, denied for the three minutes that it runs: Calico is not done by then."""

    def pods(self):
        return [
            Pod(node, "batch", f"job{node}-{born}", born=born, end=born + 3, drops=lambda t: 60)
            for node in range(0, NODES, 4)
            for born in range(60 + node % 3, END, 3)
        ]


class Scanner(Calm):
    """Someone tries every address: pods that deny all, a healthy pod with one long connection, the nodes themselves."""

    def pods(self):
        def swept(number):
            return lambda t: 600 if START <= t and (t - START) // 3 % 8 == number else 0

        def scanned(t):
            return 120 if START <= t < START + 50 else 0

        long = Pod(4, "db", "postgres", drops=scanned, packets=lambda t: 600, flows=lambda t: 0)
        noise = {"unknown_source": lambda t: 20, "blackhole_route": lambda t: 30, "too_short": lambda t: 6}
        host = Pod(5, "", "eth1", kind="host", drops=lambda t: 90, flows=lambda t: 0, others=noise)
        return [long, host, *(Pod(n, "vault", f"v{n}", drops=swept(n), flows=lambda t: 0) for n in range(8))]


class NameOverride(Calm):
    """The release has a name of its own, and so has its job."""

    job = "calico-traffic"


class Cron(Calm):
    """A pod that has run for long is denied for five minutes every two hours, and another for five in every fifteen."""

    def pods(self):
        long = Pod(3, "batch", "nightly", drops=lambda t: 300 if t % 120 < 5 else 0, flows=lambda t: 0)
        return [long, Pod(3, "batch", "often", drops=lambda t: 300 if t % 15 < 5 else 0, flows=lambda t: 0)]


class Gap(Calm):
    """Prometheus itself scrapes nothing for eight minutes."""

    def up(self, node, t):
        return None if START <= t < START + 8 else 1


class StatefulSetRestart(Calm):
    """All pods of a node are recreated under their names, twice."""

    def recreated(self, node):
        return (START, START + 5)


class FailedScrapes(Calm):
    """Every seventh scrape of a node times out; pods are recreated in turns."""

    def up(self, node, t):
        return int((t + node) % 7 != 0)

    def pods(self):
        def turns(number):
            return tuple(range(65 + 3 * number, END, 12))

        return [Pod(n, "hpa", f"p{n}", born=60, flows=lambda t: 6, recreated=turns(n)) for n in range(4)]


class NewNodes(Calm):
    """One node after the other is replaced: away for six minutes, and Calico takes four to start."""

    def up(self, node, t):
        return int(node == NODE or not 0 <= t - START - 3 * node < 6)

    def calico_starts(self, node, t):
        return node != NODE and 6 <= t - START - 3 * node < 10


SITUATIONS = {
    "calm": Calm,
    "node reboot": NodeReboot,
    "exporter rollout": ExporterRollout,
    "Felix restart": FelixRestart,
    "upgrade": Upgrade,
    "spot node": SpotNode,
    "many short jobs": ManyShortJobs,
    "scanner": Scanner,
    "name override": NameOverride,
    "cron job": Cron,
    "gap": Gap,
    "StatefulSet restart": StatefulSetRestart,
    "failed scrapes": FailedScrapes,
    "new nodes": NewNodes,
}
