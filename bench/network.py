"""Links and routes for the benchmarks of `serve`, in a network namespace."""

import contextlib
import os
import subprocess
from collections.abc import Iterator, Mapping

from exporter.demo.namespace import enter_namespace


@contextlib.contextmanager
def private_network(addresses: Mapping[str, str]) -> Iterator[None]:
    """Moves this process into a network namespace with these links, from number 2, each with a route."""
    name = f"bench-{os.getpid()}-{len(addresses)}"
    lines = ["link set lo up"]
    for index, (link, address) in enumerate(addresses.items(), 2):
        # Bridges, since they are one link each; what kind of link it is makes no difference to the exporter.
        lines.append(f"link add name {link} index {index} type bridge")
        lines += [f"link set {link} up", f"route add {address}/32 dev {link} scope link"]
    subprocess.run(["ip", "netns", "add", name], check=True)
    try:
        subprocess.run(["ip", "-n", name, "-batch", "-"], input="\n".join(lines), text=True, check=True)
        enter_namespace(name)
        yield
    finally:
        subprocess.run(["ip", "netns", "del", name], check=True)
