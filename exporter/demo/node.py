"""Builds and removes the demo node: a namespace as node, one for each pod, veths, routes, programs and Calico's files.

Shaped as Calico shapes it: the host side of a pod's veth has the address ee:ee:ee:ee:ee:ee and a /32 and a /128 route,
the pod's gateway is 169.254.1.1. Neighbours are static, without ARP or NDP, so that counts are exact.
"""

import fcntl
import ipaddress
import json
import os
import shutil
import signal
import struct
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from subprocess import Popen
from typing import TextIO

from exporter.calico.hooks import TC_EGRESS, TC_HOOKS, TC_INGRESS
from exporter.demo import DemoError
from exporter.demo.bpffs import POLICY_SIZE, BpfFs
from exporter.demo.commands import require, run, start
from exporter.demo.namespace import write_settings
from exporter.demo.plan import BLACKHOLE, NODE_ADDRESS, PODS, POOLS, SERVICES, Pod
from exporter.demo.policy_files import policy_files
from exporter.demo.policy_rules import EGRESS, INGRESS, ip_set_id
from exporter.demo.service_maps import (
    BLACKHOLE_DROP,
    HOST,
    IN_POOL,
    LOCAL,
    NAT_OUT,
    WORKLOAD,
    Entry,
    route_entry,
    service_entries,
)

STATE = Path("/run/calico-bpf-exporter-demo")
_HOST_MAC = "ee:ee:ee:ee:ee:ee"
_HOST_LINK_LOCAL = "fe80::ecee:eeff:feee:eeee"  # the kernel derives it from that address
_WORLD = "192.168.50.2"
# The programs of each side, in their order.
_PROGRAMS = {TC_INGRESS: ("ingress", ("translate", "from_endpoint")), TC_EGRESS: ("egress", ("to_endpoint",))}
# Ingress of a pod is egress of the host's interface.
_DIRECTIONS = {TC_INGRESS: EGRESS, TC_EGRESS: INGRESS}
_WORKLOAD, _READY_4, _READY_6, _HOST = 0x1, 0x2, 0x4, 0x8


class Node:
    """A demo node; `name` begins its namespaces, `state` is its folder. One node of a name at a time."""

    def __init__(self, name: str = "calico-demo", state: Path = STATE) -> None:
        self.name = name
        self.state = state
        self.bpf = BpfFs(state / "bpf")
        self.run_dir = state / "calico"
        self.namespace = f"{name}-node"
        self._lock: TextIO | None = None
        self._children: list[Popen[bytes]] = []

    def build(self, pods: Sequence[Pod] = PODS) -> None:
        """Builds the node after removing leftovers of an earlier one of this name. Raises `DemoError`."""
        self.claim()
        self.remove()
        self.bpf.mount()
        self.bpf.load(self.state)
        (self.run_dir / "endpoint-status").mkdir(parents=True)
        (self.run_dir / "bpf").mkdir()
        self._policy_folder.mkdir(mode=0o600)  # as Felix makes it
        self._add_namespace(self.namespace)
        write_settings(self.namespace, {"net/ipv4/ip_forward": 1, "net/ipv6/conf/all/forwarding": 1})
        self._manage("lo", _READY_4 | _READY_6 | _HOST)
        self._add_world()
        self._write_home(BLACKHOLE, 0, "00:00:00:00:00:00")
        self._write_services()
        for pod in pods:
            self.add_pod(pod)

    def claim(self) -> None:
        """Locks this name. Raises `DemoError` if a node of this name is running or none can be built."""
        if os.geteuid() != 0:
            raise DemoError(
                "the demo builds network namespaces and loads BPF programs: run it as root (sudo make demo)"
            )
        require()
        if self._lock is None:
            self._take_lock()

    def remove(self) -> None:
        """Removes everything of this node, including leftovers."""
        for child in self._children:
            child.kill()
            child.wait()
        self._children.clear()
        for namespace in self._namespaces():
            inside = {int(number) for number in run("ip", "netns", "pids", namespace, check=False).split()}
            for number in inside - {os.getpid()}:  # the exporter of the demo runs in the node's namespace itself
                with suppress(ProcessLookupError):
                    os.kill(number, signal.SIGKILL)
            run("ip", "netns", "delete", namespace)
        self.bpf.unmount()
        for folder in (self.bpf.path, self.run_dir):
            shutil.rmtree(folder, ignore_errors=True)

    def close(self) -> bool:
        """Removes the node and its folder, and returns whether there was one; does nothing without the lock."""
        if self._lock is None:
            return False
        built = self.bpf.is_mounted()
        self.remove()
        shutil.rmtree(self.state, ignore_errors=True)
        self._lock.close()
        self._lock = None
        return built

    def add_pod(self, pod: Pod, ifindex: int | None = None) -> None:
        """Adds a pod as Felix does: interface state, counters, programs, policy and its files, then endpoint status.

        Its interface gets the index `ifindex`, else the kernel's next.
        """
        namespace = self.pod_namespace(pod)
        self._add_namespace(namespace)
        veth = [pod.interface, *(["index", ifindex] if ifindex else []), "address", _HOST_MAC, "type", "veth"]
        peer = ("peer", "name", "eth0", "address", pod.mac, "netns", namespace)
        run("ip", "-n", self.namespace, "link", "add", *veth, *peer)
        run("ip", "-n", self.namespace, "link", "set", pod.interface, "up")
        self._configure_pod(pod, namespace)
        for address in (pod.ipv4, pod.ipv6):
            run("ip", "-n", self.namespace, "neigh", "replace", address, "lladdr", pod.mac, "dev", pod.interface)
            run("ip", "-n", self.namespace, "route", "replace", address, "dev", pod.interface)
        ifindex = self._manage(pod.interface, _WORKLOAD | _READY_4 | _READY_6)
        for hook in TC_HOOKS:
            self._write_policy(ifindex, hook, pod)
        for address in (pod.ipv4, pod.ipv6):
            self._write_home(address, ifindex, pod.mac)
            self.bpf.write("tc/globals", *_member(pod, address), struct.pack("<I", 1))
            self.bpf.write("tc/globals", *_pod_route(address, ifindex))
        for name, text in policy_files(pod).items():
            file = self._policy_folder / name
            file.touch(mode=0o600)
            file.write_text(text, encoding="utf-8")
        self._status_file(pod).write_text(_status(pod), encoding="utf-8")

    def remove_pod(self, pod: Pod) -> None:
        """Removes a pod as Felix does: its veth, and with it its counters, state and files."""
        ifindex = self.ifindex(pod.interface)
        run("ip", "-n", self.namespace, "link", "delete", pod.interface)
        run("ip", "netns", "delete", self.pod_namespace(pod))
        for hook in TC_HOOKS:
            self.bpf.delete("tc/globals", "cali_counters6", struct.pack("<2I", ifindex, hook))
        self.bpf.delete("tc/globals", "cali_iface4", struct.pack("<I", ifindex))
        for address in (pod.ipv4, pod.ipv6):
            self.bpf.delete("tc/globals", *_member(pod, address))
            self.bpf.delete("tc/globals", *_pod_route(address, ifindex)[:2])
        for name in policy_files(pod):
            (self._policy_folder / name).unlink()
        self._status_file(pod).unlink()

    def send_forever(self, pods: Sequence[Pod] = PODS) -> None:
        """Starts each pod's traffic: a process in its namespace that ends with this one."""
        for pod in pods:
            words = (sys.executable, "-m", "exporter.demo.packets", "forever", pod.name)
            self._children.append(start("ip", "netns", "exec", self.pod_namespace(pod), *words))

    def send(self, pod: Pod, kind: str, address: str, port: int, count: int) -> None:
        """Sends exactly `count` packets of `kind` from a pod, and returns when they are sent."""
        words = (sys.executable, "-m", "exporter.demo.packets", "send", kind, address, port, count)
        run("ip", "netns", "exec", self.pod_namespace(pod), *words)

    def pod_namespace(self, pod: Pod) -> str:
        """The network namespace of a pod."""
        return f"{self.name}-{pod.name}"

    def ifindex(self, interface: str) -> int:
        """The index of an interface of the node."""
        (link,) = json.loads(run("ip", "-n", self.namespace, "-json", "link", "show", "dev", interface))
        return int(link["ifindex"])

    def _take_lock(self) -> None:
        self.state.mkdir(parents=True, exist_ok=True)
        lock = (self.state / "lock").open("a+", encoding="utf-8")
        lock.seek(0)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            process = lock.read()
            lock.close()
            raise DemoError(
                f"a demo node is already running on this machine, process {process}: use that one, or end it first "
                f"(Ctrl-C in its terminal, or kill {process})"
            ) from error
        lock.truncate()
        lock.write(str(os.getpid()))
        lock.flush()
        self._lock = lock

    def _namespaces(self) -> list[str]:
        lines = run("ip", "netns", "list").splitlines()
        return [name for name in (line.split()[0] for line in lines if line) if name.startswith(f"{self.name}-")]

    def _add_namespace(self, name: str) -> None:
        run("ip", "netns", "add", name)
        # No duplicate-address detection, router solicitation or waiting: counts would have noise in them.
        quiet = ("accept_dad", "accept_ra", "router_solicitations")
        write_settings(name, {f"net/ipv6/conf/default/{key}": 0 for key in quiet})
        run("ip", "-n", name, "link", "set", "lo", "up")

    def _add_world(self) -> None:
        world = f"{self.name}-world"
        self._add_namespace(world)
        run("ip", "-n", self.namespace, "link", "add", "eth0", "type", "veth", "peer", "name", "eth0", "netns", world)
        for namespace, address in ((self.namespace, f"{NODE_ADDRESS}/24"), (world, f"{_WORLD}/24")):
            run("ip", "-n", namespace, "addr", "add", address, "dev", "eth0")
            run("ip", "-n", namespace, "link", "set", "eth0", "up")
        run("ip", "-n", world, "route", "add", "default", "via", NODE_ADDRESS)
        self._manage("eth0", _READY_4 | _READY_6 | _HOST)

    def _configure_pod(self, pod: Pod, namespace: str) -> None:
        def ip(*words: str) -> None:
            run("ip", "-n", namespace, *words)

        ip("link", "set", "eth0", "up")
        ip("addr", "add", f"{pod.ipv4}/32", "dev", "eth0")
        ip("addr", "add", f"{pod.ipv6}/128", "dev", "eth0", "nodad")
        ip("neigh", "replace", "169.254.1.1", "lladdr", _HOST_MAC, "dev", "eth0")
        ip("neigh", "replace", _HOST_LINK_LOCAL, "lladdr", _HOST_MAC, "dev", "eth0")
        ip("route", "add", "169.254.1.1", "dev", "eth0", "scope", "link")
        ip("route", "add", "default", "via", "169.254.1.1", "dev", "eth0")
        ip("-6", "route", "add", "default", "via", _HOST_LINK_LOCAL, "dev", "eth0")

    def _manage(self, interface: str, flags: int) -> int:
        ifindex = self.ifindex(interface)
        self.bpf.write_interface(ifindex, interface, flags)
        run("tc", "-n", self.namespace, "qdisc", "add", "dev", interface, "clsact")
        for hook, (side, programs) in _PROGRAMS.items():
            self.bpf.write_counters(ifindex, hook)
            for priority, program in enumerate(programs, 1):
                pinned = ("prio", priority, "bpf", "direct-action", "object-pinned", self.bpf.program(program))
                run("tc", "-n", self.namespace, "filter", "add", "dev", interface, side, *pinned)
        return ifindex

    def _write_policy(self, ifindex: int, hook: int, pod: Pod) -> None:
        steps = pod.policy_path(_DIRECTIONS[hook]).steps()
        packed = b"".join(struct.pack("<2QH4B2x", *step.words(tier)) for tier, step in steps)
        self.bpf.write("demo", "demo_policy", struct.pack("<2I", ifindex, hook), packed.ljust(POLICY_SIZE, b"\0"))

    def _write_services(self) -> None:
        routes = [route_entry(pool, IN_POOL | (NAT_OUT if "." in pool else 0)) for pool in POOLS]
        routes += [route_entry(NODE_ADDRESS, LOCAL | HOST), route_entry(BLACKHOLE, BLACKHOLE_DROP)]
        services = [entry for one in SERVICES for entry in service_entries(one, [NODE_ADDRESS])]
        for entry in (*routes, *services):
            self.bpf.write("tc/globals", *entry)

    def _write_home(self, address: str, ifindex: int, mac: str) -> None:
        value = struct.pack("<I6s2x", ifindex, bytes.fromhex(mac.replace(":", "")))
        self.bpf.write("demo", "demo_homes", _mapped(address), value)

    @property
    def _policy_folder(self) -> Path:
        return self.run_dir / "bpf/policy"

    def _status_file(self, pod: Pod) -> Path:
        return self.run_dir / "endpoint-status" / f"k8s {pod.namespace}%2F{pod.name} eth0"


def _status(pod: Pod) -> str:
    nets = {"ipv4Nets": [f"{pod.ipv4}/32"], "ipv6Nets": [f"{pod.ipv6}/128"]}
    return json.dumps({"ifaceName": pod.interface, "mac": pod.mac, **nets})


def _mapped(address: str) -> bytes:
    raw = ipaddress.ip_address(address).packed
    return raw if len(raw) == 16 else bytes(8) + struct.pack(">I", 0xFFFF) + raw


def _member(pod: Pod, address: str) -> tuple[str, bytes]:
    """The map and key of the entry by which a pod's address is in the IP set of the pods with its label."""
    ip = ipaddress.ip_address(address)
    prefix = 64 + ip.max_prefixlen  # the number of the set counts too
    return f"cali_v{ip.version}_ip_sets", struct.pack("<I", prefix) + struct.pack(
        ">Q", ip_set_id(pod.name)
    ) + ip.packed + bytes(4)


def _pod_route(address: str, ifindex: int) -> Entry:
    return route_entry(address, IN_POOL | WORKLOAD | LOCAL | (NAT_OUT if "." in address else 0), ifindex)
