"""The proxy that the environment names for a server: HTTPS_PROXY, HTTP_PROXY, ALL_PROXY and NO_PROXY.

A variable in lower case overrides the one in upper case, as in curl. NO_PROXY is a list of names, which cover what is
below them, of addresses, networks such as 10.0.0.0/8, and `*`; each may end in a port.
"""

import ipaddress
import os
from collections.abc import Mapping


def proxy_for(scheme: str, host: str, port: int, environment: Mapping[str, str] = os.environ) -> str | None:
    """The URL of the proxy for a server of this scheme, None for a direct connection."""
    proxy = _variable(f"{scheme}_proxy", environment) or _variable("all_proxy", environment)
    exceptions = _variable("no_proxy", environment).split(",")
    if not proxy or any(_covers(one.strip().lower(), host.lower(), port) for one in exceptions):
        return None
    return proxy if "://" in proxy else f"http://{proxy}"


def _variable(name: str, environment: Mapping[str, str]) -> str:
    return environment.get(name) or environment.get(name.upper()) or ""


def _covers(exception: str, host: str, port: int) -> bool:
    if exception == "*":
        return True
    network = _network(exception.strip("[]"))
    if network:
        address = _network(host)
        return bool(address and address.version == network.version and address.network_address in network)
    name, colon, number = exception.rpartition(":")
    if colon and number.isdigit():
        return int(number) == port and _covers(name, host, port)
    below = exception.removeprefix("*")
    return bool(below) and (host == below or host.endswith("." + below.removeprefix(".")))


def _network(text: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network | None:
    try:
        return ipaddress.ip_network(text, strict=False)
    except ValueError:
        return None
