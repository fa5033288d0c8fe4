"""Replaces names: of pods, namespaces, policies, tiers, labels, nodes, IP sets and interfaces.

A name is replaced part by part between dots and slashes, each part by a keyed hash of it, so that the same name is the
same everywhere and in every bundle under the same key. Words that Kubernetes and Calico give a meaning stay.

A sentence can quote what others wrote, such as the API server, a certificate or Felix, with names that stand nowhere
else. So only words of letters alone and outside quotes stay in it: a path, a host and a user are none.
"""

import hashlib
import re
from collections.abc import Iterable, Sequence
from ipaddress import ip_interface

from exporter.calico.names import PLUGIN_PREFIXES, workload_interface
from exporter.snapshot.redacted_addresses import IN_TEXT, Addresses

_KEPT = frozenset(
    {
        *("", "default", "kns", "ksa", "pcns", "pcsa", "knp", "kanp", "kbanp", "kcnp", "ossg"),
        "projectcalico-default-allow",
        *("adminnetworkpolicy", "baselineadminnetworkpolicy", "kube-admin", "kube-baseline"),
    }
)
_SEPARATORS = re.compile(r"([./])")
# The names that the kernel, systemd and Calico give to interfaces: they say what an interface is, not whose.
_KEPT_INTERFACE = re.compile(
    r"lo|(?:eth|wlan|ib|bond|br|docker|cni|dummy|tunl|kube-ipvs)\d+(?:\.\d+)?|en[ops]\d+(?:[fsdnp]\d+){0,4}(?:\.\d+)?"
    r"|(?:bpfin|bpfout|wireguard)\.cali|(?:vxlan|vxlan-v6)\.calico|wg-v6\.cali"
)
_INTERFACE = re.compile(rf"{_KEPT_INTERFACE.pattern}|(?:{'|'.join(PLUGIN_PREFIXES)})[0-9a-f]{{11}}")
_IP_SET = re.compile(r"(?<!\w)(?:s|n|svc|svcnoport|t|dp):[\w-]{16,}")
_SELECTOR_TOKEN = re.compile(r"'[^']*'|\"[^\"]*\"|[A-Za-z_][\w./-]*")
_SELECTOR_WORDS = frozenset({"all", "global", "has", "in", "not", "contains", "starts", "ends", "with"})
_KNOWN_LABEL = re.compile(
    r"(?:pcns\.|pcsa\.)?(?:projectcalico\.org/(?:name|namespace|serviceaccount|orchestrator|kind|tier)"
    r"|kubernetes\.io/(?:metadata\.name|hostname|os|arch)|topology\.kubernetes\.io/(?:region|zone)"
    r"|node-role\.kubernetes\.io/(?:control-plane|master|worker)"
    r"|app\.kubernetes\.io/(?:name|instance|version|component|part-of|managed-by))"
)
_WORD = re.compile(r"%[0-9A-Fa-f]{2}|[A-Za-z0-9](?:[\w-]*[A-Za-z0-9])?")
_PIECE = re.compile(r"\"[^\"]*\"|`[^`]*`|(?<!\w)'[^']*'(?!\w)|[^\s\"`]+")
_AROUND = "'()[]{}<>,;:.!?"
_PLAIN = re.compile(r"[A-Za-z]*(?:'s)?|[\d.]+|--[a-z.-]+|x509|TLSv1(?:\.\d)?|I[Pp][Vv][46]|e?BPF|\d+-bit")
_DOUBTFUL = re.compile(rf"{IN_TEXT.pattern}|(?:%[0-9A-Fa-f]{{2}})|\w+(?:-+\w+)*")
# The folders and files that everybody has.
_KEPT_IN_PATH = re.compile(
    r"%.*|\d+|k8s|https?|sys|fs|bpf|tc|globals|var|run|proc|calico|policy|endpoint-status|json|cali_\w+"
    r"|(?:in|e)gress_v[46]|xdp_v[46]|name-[0-9a-f]{10}"
)
_URL_HOST = re.compile(r"(?<=://)(?![0-9.]+(?![\w-]))[\w.-]+")


class Names:
    """The replacements under a key. `replaced` are those so far, of parts of names and of interfaces.

    `prefixes` are those of workload interfaces, whose names are hashes of the pods' names.
    """

    def __init__(self, key: bytes, prefixes: Sequence[str] = ()) -> None:
        self.addresses = Addresses(key)
        self.replaced: dict[str, str] = {}
        self._key = key
        self._new: frozenset[str] = frozenset()  # the replacements before a sentence
        self._prefixes = tuple(dict.fromkeys((*prefixes, *PLUGIN_PREFIXES)))

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

    def sentence(self, text: str) -> str:
        """A sentence with what others can have written, in which what can be a name is replaced."""
        self._new = frozenset(self.replaced.values())
        return _PIECE.sub(lambda found: self._piece(found[0]), self.in_text(text))

    def address(self, text: str) -> str:
        """The replacement of an address or a network; what is none is a name."""
        return self.addresses.one(text) if _is_address(text) else self.name(text)

    def _piece(self, piece: str) -> str:
        """A word of a sentence, or what is quoted in it."""
        if piece[0] not in "\"`'" and _PLAIN.fullmatch(piece.strip(_AROUND)):
            return piece
        return _DOUBTFUL.sub(lambda found: self._doubtful(found[0]), piece)

    def _doubtful(self, word: str) -> str:
        if _KEPT_IN_PATH.fullmatch(word) or _is_address(word) or word in self._new:
            return word
        return self.interface(word) if _INTERFACE.fullmatch(word) else self._part(word)

    def _part(self, part: str) -> str:
        if part in _KEPT:
            return part
        return self.replaced.setdefault(part, f"name-{self._hash(part)[:10]}")

    def _hash(self, text: str) -> str:
        return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), key=self._key, digest_size=16).hexdigest()


def _is_address(text: str) -> bool:
    try:
        ip_interface(text)
    except ValueError:
        return False
    return True
