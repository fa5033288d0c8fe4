"""Replaces names: of pods, namespaces, policies, tiers, labels, nodes, IP sets and interfaces.

A name is replaced part by part between dots and slashes, each part by a keyed hash of it, so that the same name is the
same everywhere and in every bundle under the same key. Words that Kubernetes and Calico give a meaning stay.
"""

import hashlib
import re
from collections.abc import Iterable, Sequence

from exporter.calico.names import workload_interface
from exporter.snapshot.redacted_addresses import Addresses

_KEPT = frozenset(
    {
        *("", "default", "kns", "ksa", "knp", "kanp", "kbanp", "kcnp", "ossg", "projectcalico-default-allow"),
        *("adminnetworkpolicy", "baselineadminnetworkpolicy", "kube-admin", "kube-baseline"),
    }
)
_SEPARATORS = re.compile(r"([./])")
# The names that the kernel, systemd and Calico give to interfaces: they say what an interface is, not whose.
_KEPT_INTERFACE = re.compile(
    r"lo|(?:eth|wlan|ib|bond|br|docker|cni|dummy|tunl|kube-ipvs)\d+(?:\.\d+)?|en[ops]\d+(?:[fsdnp]\d+){0,4}(?:\.\d+)?"
    r"|(?:bpfin|bpfout|wireguard)\.cali|(?:vxlan|vxlan-v6)\.calico|wg-v6\.cali"
)
_WORKLOAD_PREFIXES = ("cali", "eni", "vlan", "azv")
_IP_SET = re.compile(r"(?<!\w)(?:s|n|svc|svcnoport|t|dp):[\w-]{16,}")
_SELECTOR_TOKEN = re.compile(r"'[^']*'|\"[^\"]*\"|[A-Za-z_][\w./-]*")
_SELECTOR_WORDS = frozenset({"all", "global", "has", "in", "not", "contains", "starts", "ends", "with"})
_KNOWN_LABEL = re.compile(r"(?:[\w-]+\.)*(?:projectcalico\.org|kubernetes\.io|k8s\.io)/.*")
_WORD = re.compile(r"%[0-9A-Fa-f]{2}|[A-Za-z0-9](?:[\w-]*[A-Za-z0-9])?")
_URL_HOST = re.compile(r"(?<=://)(?![0-9.]+(?![\w-]))[\w.-]+")


class Names:
    """The replacements under a key. `replaced` are those so far, of parts of names and of interfaces.

    `prefixes` are those of workload interfaces, whose names are hashes of the pods' names.
    """

    def __init__(self, key: bytes, prefixes: Sequence[str] = ()) -> None:
        self.addresses = Addresses(key)
        self.replaced: dict[str, str] = {}
        self._key = key
        self._prefixes = tuple(dict.fromkeys((*prefixes, *_WORKLOAD_PREFIXES)))

    def name(self, text: str) -> str:
        """The replacement of a name."""
        return "".join(part if part in "./" else self._part(part) for part in _SEPARATORS.split(text))

    def know_pods(self, pods: Iterable[tuple[str, str]]) -> None:
        """Learns these pods' namespaces and names: interfaces that Calico named after them follow."""
        for namespace, pod in pods:
            renamed = self.name(namespace), self.name(pod)
            for prefix in self._prefixes:
                self.replaced[workload_interface(prefix, namespace, pod)] = workload_interface(prefix, *renamed)

    def interface(self, name: str) -> str:
        """The replacement of an interface's name, no longer than the kernel's limit."""
        if not name or _KEPT_INTERFACE.fullmatch(name):
            return name
        if name not in self.replaced:
            prefix = next((one for one in self._prefixes if name.startswith(one) and name != one), "if-")
            self.replaced[name] = f"{prefix}{self._hash(name)[:11]}"[:15]
        return self.replaced[name]

    def ip_set(self, name: str) -> str:
        """The replacement of an IP set's name, whose first letters say of what kind it is."""
        kind, colon, content = name.partition(":")
        return f"{kind}:{self._hash(content)[:24]}" if colon else self.name(name)

    def identifier(self, text: str) -> str:
        """The replacement of a hash that Calico made of a rule."""
        return self._hash(text)[:16] if text else text

    def selector(self, text: str) -> str:
        """A selector with the same operators and other labels and values."""

        def token(found: re.Match[str]) -> str:
            word = found[0]
            if word[0] in "'\"":
                return word[0] + self.name(word[1:-1]) + word[0]
            return word if word in _SELECTOR_WORDS or _KNOWN_LABEL.fullmatch(word) else self.name(word)

        return _SELECTOR_TOKEN.sub(token, text)

    def in_text(self, text: str) -> str:
        """A sentence with every address, IP set, host and known name in it replaced."""
        text = _URL_HOST.sub(lambda found: self.name(found[0]), text)
        text = _IP_SET.sub(lambda found: self.ip_set(found[0]), self.addresses.in_text(text))
        return _WORD.sub(lambda found: self.replaced.get(found[0], found[0]), text)

    def _part(self, part: str) -> str:
        if part in _KEPT:
            return part
        return self.replaced.setdefault(part, f"name-{self._hash(part)[:10]}")

    def _hash(self, text: str) -> str:
        return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), key=self._key, digest_size=16).hexdigest()
