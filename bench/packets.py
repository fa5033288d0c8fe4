"""The cost of `why --packets`, printed as lines: `python bench/packets.py` as root.

Sends through a veth pair in a network namespace of its own, at a fixed rate: packets that are none of the pod's, which
the kernel's filter leaves out, and packets of the pod's. Measures the CPU time of the capture's process and the packets
that its socket lost.
"""

import os
import socket
import struct
import subprocess
import sys
import time
from pathlib import Path

from exporter.node.packet_filter import Watched
from exporter.node.packet_socket import PacketSocket

SECONDS = 5.0
_NAMESPACE, _POD, _PEER, _OTHER = "bench-packets", "10.65.0.2", "10.65.0.3", "10.65.0.9"
# (packets a second, destination, whether each is a flow of its own)
_LOADS = ((10_000, _OTHER, False), (5_000, _POD, False), (5_000, _POD, True), (20_000, _POD, False))


def main() -> None:
    """Makes the namespace, measures in it in a process of its own, and removes it."""
    if os.geteuid() != 0:
        sys.exit("the benchmark makes a network namespace: run it as root")
    if sys.argv[1:2] == ["send"]:
        return send(int(sys.argv[2]), sys.argv[3], new_flows=sys.argv[4] == "True")
    if sys.argv[1:] == ["inside"]:
        return measure()
    try:
        subprocess.run(["ip", "netns", "add", _NAMESPACE], check=True)
        links = "link add out0 type veth peer name in0\nlink set out0 up\nlink set in0 up\nlink set lo up\n"
        subprocess.run(["ip", "-n", _NAMESPACE, "-batch", "-"], input=links.encode(), check=True)
        subprocess.run(["ip", "netns", "exec", _NAMESPACE, sys.executable, __file__, "inside"], check=True)
    finally:
        subprocess.run(["ip", "netns", "delete", _NAMESPACE], check=False)


def measure() -> None:
    """Captures under each load."""
    for rate, destination, new_flows in _LOADS:
        # The pod's interface is another one: each packet is then seen where it goes out and where it comes in.
        opened = PacketSocket(Watched(socket.if_nametoindex("lo"), "lo", (_POD,)))
        words = [sys.executable, __file__, "send", str(rate), destination, str(new_flows)]
        sender = subprocess.Popen(words)
        begin = time.process_time()
        opened.run(SECONDS + 1)
        used = time.process_time() - begin
        capture = opened.capture()
        opened.close()
        sender.wait()
        what = "new flows" if new_flows else "one flow"
        print(
            f"{rate} packets a second to {destination} ({what}): {100 * used / SECONDS:.1f} % of a core, "
            f"{capture.packets} read, {capture.lost} lost, {len(capture.flows)} flows"
        )


def send(rate: int, destination: str, *, new_flows: bool) -> None:
    """Sends at this rate, in bursts of a hundredth of a second."""
    link = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
    link.bind(("out0", 0))
    mac = bytes.fromhex(Path("/sys/class/net/in0/address").read_text(encoding="ascii").strip().replace(":", ""))
    ends = socket.inet_aton(_PEER) + socket.inet_aton(destination)
    head = mac + bytes(6) + b"\x08\x00" + struct.pack(">BBHHHBBH", 0x45, 0, 28, 1, 0, 64, 17, 0) + ends
    begin, sent = time.monotonic(), 0
    while (passed := time.monotonic() - begin) < SECONDS:
        while sent < passed * rate:
            link.send(head + struct.pack(">HHHH", (sent if new_flows else 1) & 0xFFFF, 9999, 8, 0))
            sent += 1
        time.sleep(0.01)


if __name__ == "__main__":
    main()
