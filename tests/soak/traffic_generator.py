"""The traffic generator: one thread that goes from pod to pod and sends counted packets from inside each of them."""

import os
import random
import socket
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import cycle

from exporter.demo.namespace import enter_namespace
from exporter.demo.packets import send
from exporter.demo.plan import BLACKHOLE, Pod
from tests.soak.ledger import Ledger

# Ports that some pod denies, at either side, and ports that some pod allows.
PORTS = (5432, 6666, 7777, 8080, 9999)
ODD = {
    "short": "too_short",
    "malformed": "malformed_ip",
    "fragment": "fragment_out_of_order",
    "udp": "blackhole_route",
}
_MAX_KEPT = 40


class Traffic:
    """Sends between the pods of a node, and records the expected counts in `ledger`."""

    def __init__(self, node, ledger: Ledger, chance: random.Random):
        self._node, self._ledger, self._chance = node, ledger, chance
        # Each burst is a flow that was not there before: no two have the same port within a program's life.
        self._source_ports = cycle(range(20000, 60000))
        self._sinks: dict[str, list[socket.socket]] = {}
        self._thread = ThreadPoolExecutor(1)

    def listen(self, pod: Pod) -> None:
        """Opens the pod's ports; nothing reads from them, so nothing is sent back."""
        self._in(pod, lambda: self._sinks.update({pod.name: list(map(_sink, *zip(*_BOTH, strict=True)))}))

    def close_ports(self, pod: Pod) -> None:
        """Closes the pod's ports, before it goes."""
        for sink in self._sinks.pop(pod.name):
            sink.close()

    def send(self, pods: list[Pod], bursts: int) -> None:
        """Some bursts from and to any of the pods."""
        for _ in range(bursts):
            sender, receiver = self._chance.sample(pods, 2)
            count = self._chance.randint(1, _MAX_KEPT)
            if self._chance.random() < 0.3:
                kind = self._chance.choice(list(ODD))
                address = BLACKHOLE if kind == "udp" else receiver.ipv4
                self._ledger.odd(sender, ODD[kind], count)
                self._in(sender, partial(send, kind, address, 443, count))
            else:
                version, port = self._chance.choice((4, 6)), self._chance.choice(PORTS)
                self._ledger.udp(sender, receiver, version, port, count)
                address = receiver.ipv4 if version == 4 else receiver.ipv6
                self._in(sender, partial(_talk, address, port, next(self._source_ports), count))

    def close(self) -> None:
        """Closes every port and ends the thread."""
        for sinks in self._sinks.values():
            for sink in sinks:
                sink.close()
        self._thread.shutdown()

    def _in(self, pod: Pod, work) -> None:
        """Does it in the pod's namespace, on one CPU: so the packets of a burst stay in order."""

        def there() -> None:
            os.sched_setaffinity(0, {self._chance.choice(sorted(os.sched_getaffinity(os.getpid())))})
            enter_namespace(self._node.pod_namespace(pod))
            work()

        self._thread.submit(there).result()


_BOTH = [(family, port) for family in (socket.AF_INET, socket.AF_INET6) for port in PORTS]


def _sink(family: int, port: int) -> socket.socket:
    sink = socket.socket(family, socket.SOCK_DGRAM)
    if family == socket.AF_INET6:
        sink.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    sink.bind(("", port))
    return sink


def _talk(address: str, port: int, source_port: int, count: int) -> None:
    with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.bind(("", source_port))
        for _ in range(count):
            sender.sendto(b"soak", (address, port))
