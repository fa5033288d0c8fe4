"""A cluster's CA of every kind: the exporter accepts and refuses what kubectl, which is Go, accepts and refuses."""

import os
import subprocess
from pathlib import Path

import pytest
from cryptography.x509.oid import ExtendedKeyUsageOID

from exporter.node.api_server import ApiServer, ApiServerError
from tests.kernel.conftest import give_up
from tests.web.authority import Authority
from tests.web.fake_api_server import LOCAL, Answer, FakeApiServer

KUBECTL = Path(__file__).parents[2] / ".tools" / "bin" / "kubectl"
PATH = "/apis/example.org"


def ca(**kind):
    """A CA of this kind, and a certificate of the API server by it."""

    def make(folder):
        authority = Authority(folder, **kind)
        return authority.ca, authority.issue("apiserver", *LOCAL)

    return make


def server(*sans, **kind):
    """The API server's certificate of this kind, by a CA that is whole."""

    def make(folder):
        authority = Authority(folder)
        return authority.ca, authority.issue("apiserver", *sans, **kind)

    return make


def intermediate(*, trusted="root", sent=True, **kind):
    """A chain root, middle, server; what of it is in the CA file, and whether the server sends the middle."""

    def make(folder):
        root = Authority(folder, "root", **kind)
        middle = Authority(folder, "middle", parent=root)
        pem, key = middle.issue("apiserver", *LOCAL)
        if sent:
            pem.write_bytes(pem.read_bytes() + middle.ca.read_bytes())
        return folder / f"{trusted}.pem", (pem, key)

    return make


def itself(**kind):
    """The API server's certificate signed by itself."""

    def make(folder):
        authority = Authority(folder, sans=LOCAL, **kind)
        return authority.ca, (authority.ca, folder / "authority.key")

    return make


def leaf(folder):
    authority = Authority(folder)
    pair = authority.issue("apiserver", *LOCAL)
    return pair[0], pair


def several(*kinds):
    """A CA file with several CAs of one name, as while a CA is renewed; the last one is the server's."""

    def make(folder):
        every = [Authority(folder, f"ca-{number}", common_name="ca", **kind) for number, kind in enumerate(kinds)]
        trusted = folder / "all.pem"
        trusted.write_bytes(b"".join(one.ca.read_bytes() for one in every))
        return trusted, every[-1].issue("apiserver", *LOCAL)

    return make


def other(folder):
    Authority(folder, "other", common_name="authority")
    return folder / "other.pem", Authority(folder).issue("apiserver", *LOCAL)


ACCEPTED = {
    "whole": ca(),
    "no key usage": ca(usage=()),
    "no key identifiers": ca(identifiers=False),
    "neither": ca(usage=(), identifiers=False),
    "basic constraints that are not critical": ca(critical=False),
    "version 1": ca(version=1),
    "no path length left": ca(path_length=0),
    "root of an intermediate": intermediate(),
    "root without key usage of an intermediate": intermediate(usage=()),
    "intermediate that the server sends": intermediate(trusted="middle"),
    "intermediate that the server does not send": intermediate(trusted="middle", sent=False),
    "intermediate of an expired root": intermediate(trusted="middle", days=(-2, -1)),
    "the server's own certificate": leaf,
    "a self-signed certificate": itself(ca=False, usage=("digital_signature",)),
    "a self-signed CA as the server's": itself(usage=()),
    "a self-signed certificate of version 3 with names alone": itself(ca=None, usage=(), identifiers=False),
    "renewed, the old one expired": several({"days": (-2, -1)}, {}),
    "renewed, both valid": several({}, {}),
    "no extended key usage": server(*LOCAL, use=()),
    "wildcard": server("IP:127.0.0.1", "DNS:*.example.org"),
}
UNKNOWN, PURPOSE, INVALID = "signed by an unknown authority", "certificate purpose", "invalid CA certificate"
REFUSED = {
    "another of that name": (other, UNKNOWN),
    "root of an intermediate that the server does not send": (intermediate(sent=False), UNKNOWN),
    "expired": (ca(days=(-2, -1)), "it has expired, or a CA that signed it has"),
    "not valid yet": (ca(days=(1, 2)), "it is not valid yet, or a CA that signed it is not"),
    "expired root of an intermediate": (intermediate(days=(-2, -1)), "it has expired, or a CA that signed it has"),
    "path length exceeded": (intermediate(path_length=0), "path length constraint exceeded"),
    "no CA": (ca(ca=False), INVALID),
    "neither basic constraints nor key usage": (ca(ca=None, usage=()), INVALID),
    "key usage of other things": (ca(usage=("digital_signature",)), INVALID),
    "expired certificate": (server(*LOCAL, days=(-2, -1)), "it has expired, or a CA that signed it has"),
    "certificate not valid yet": (server(*LOCAL, days=(1, 2)), "it is not valid yet"),
    "another name": (server("DNS:localhost", "IP:127.0.0.2"), "it is not valid for '127.0.0.1'"),
    "an address as a name": (server("DNS:127.0.0.1"), "it is not valid for '127.0.0.1'"),
    "no names": (server(), "it is not valid for '127.0.0.1'"),
    "clients alone": (server(*LOCAL, use=[ExtendedKeyUsageOID.CLIENT_AUTH]), PURPOSE),
}


# What OpenSSL does otherwise, and whether it accepts what kubectl does not; docs/security.md names them.
OTHERWISE = {
    "several CAs of one name without key identifiers": (several({"identifiers": False}, {}), False),
    "a server whose key usage has no signatures": (itself(), False),
    "a CA with a small key": (ca(rsa_bits=1024), False),
    "no basic constraints and a key usage that signs": (ca(ca=None), True),
}


@pytest.fixture
def cluster(tmp_path, monkeypatch):
    """Starts an API server of this kind; its kubeconfig."""
    monkeypatch.setenv("NO_PROXY", "*")
    started = []

    def start(make, **fields):
        trusted, pair = make(tmp_path)
        fake = FakeApiServer(Authority(tmp_path, "clients"), pair)
        started.append(fake)
        fake.answers[PATH] = Answer(200, {"kind": "APIGroup", "apiVersion": "v1"})
        return fake.kubeconfig(tmp_path / "config", **{"certificate-authority": str(trusted), **fields})

    yield start
    for fake in started:
        fake.stop()
        assert [] == fake.faults


def asked(kubeconfig):
    """What the exporter says of the certificate, None when it accepts it."""
    api = ApiServer(kubeconfig)
    try:
        b"".join(api.read(PATH, {}, 1000))
    except ApiServerError as error:
        return str(error)
    finally:
        api.close()
    return None


def kubectl_accepts(kubeconfig):
    if not KUBECTL.exists():
        give_up("kubectl is not here: `make setup` brings it")
    command = [KUBECTL, "--kubeconfig", kubeconfig, "get", "--raw", PATH]
    done = subprocess.run(command, env={**os.environ, "NO_PROXY": "*"}, capture_output=True, text=True, check=False)
    assert done.returncode == 0 or "x509: " in done.stderr or "tls: " in done.stderr
    return done.returncode == 0


@pytest.mark.parametrize("kind", ACCEPTED)
def test_what_kubectl_accepts_is_accepted(cluster, kind):
    kubeconfig = cluster(ACCEPTED[kind])
    assert kubectl_accepts(kubeconfig)
    assert asked(kubeconfig) is None


@pytest.mark.parametrize("kind", REFUSED)
def test_what_kubectl_refuses_is_refused_and_the_sentence_says_why(cluster, kind):
    make, why = REFUSED[kind]
    kubeconfig = cluster(make)
    assert not kubectl_accepts(kubeconfig)
    said = asked(kubeconfig)
    assert said.startswith("the certificate of the API server https://127.0.0.1:")
    assert f" was refused: {why}" in said or (" was refused: " in said and why in said)
    assert "did not answer" not in said


@pytest.mark.parametrize("kind", OTHERWISE)
def test_where_kubectl_and_the_exporter_differ_is_known(cluster, kind):
    make, accepted = OTHERWISE[kind]
    kubeconfig = cluster(make)
    assert kubectl_accepts(kubeconfig) is not accepted
    said = asked(kubeconfig)
    assert said is None if accepted else " was refused: " in said


def test_the_common_name_is_not_a_name_of_the_server(cluster):
    def make(folder):
        authority = Authority(folder)
        return authority.ca, authority.issue("localhost")

    kubeconfig = cluster(make)
    kubeconfig.write_text(kubeconfig.read_text().replace("https://127.0.0.1", "https://localhost"))
    assert not kubectl_accepts(kubeconfig)
    assert asked(kubeconfig).endswith(" was refused: it is not valid for 'localhost'")


def test_a_cluster_that_asks_for_no_verification_has_none(cluster):
    kubeconfig = cluster(ca(days=(-2, -1)), **{"certificate-authority": "", "insecure-skip-tls-verify": True})
    assert kubectl_accepts(kubeconfig)
    assert asked(kubeconfig) is None
