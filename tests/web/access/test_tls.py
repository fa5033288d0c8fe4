"""TLS as curl and openssl see it: versions, ciphers, curves, client certificates, and what changes while serving."""

import os
import re
import ssl
import subprocess
import time
from contextlib import contextmanager

import pytest
from cryptography.x509.oid import ExtendedKeyUsageOID

from exporter.web.access.config import WebConfigError
from exporter.web.access.live_config import LiveConfig
from tests.web.authority import Authority

LOCAL = ("DNS:localhost", "IP:127.0.0.1")
REQUIRED = "client_auth_type: RequireAndVerifyClientCert, client_ca_file: {pki}/authority.pem"
OPTIONAL = "client_auth_type: VerifyClientCertIfGiven, client_ca_file: {pki}/authority.pem"


@pytest.fixture(scope="module")
def pki(tmp_path_factory):
    """Certificates of the server and its clients, of one authority, and of another that nobody trusts."""
    folder = tmp_path_factory.mktemp("pki")
    authority = Authority(folder)
    authority.issue("server", *LOCAL)
    authority.issue("renewed", *LOCAL)
    authority.issue("rsa", *LOCAL, rsa_bits=2048)
    authority.issue("nameless")
    authority.issue("odd", "raw:dns")
    authority.issue("dns", "DNS:prometheus.monitoring.svc")
    authority.issue("email", "email:prometheus@example.org")
    authority.issue("uri", "URI:spiffe://cluster.local/ns/monitoring/sa/prometheus")
    authority.issue("four", "IP:10.0.0.1")
    authority.issue("six", "IP:2001:db8::1", "DNS:other")
    authority.issue("serveronly", "DNS:prometheus.monitoring.svc", use=[ExtendedKeyUsageOID.SERVER_AUTH])
    Authority(folder, "unknown").issue("forged", "DNS:prometheus.monitoring.svc")
    return folder


@pytest.fixture
def secure(pki, tmp_path, server):
    """Starts a server with fields of `tls_server_config` beside its certificate; the path of its file is `config`."""

    def start(fields="", pair="server", more=""):
        config = tmp_path / "web.yml"
        write(config, pki, fields, pair, more)
        running = server(web_config=str(config))
        running.config = config
        return running

    return start


def write(config, pki, fields="", pair="server", more=""):
    fields = fields.format(pki=pki)
    text = f"tls_server_config: {{cert_file: {pki}/{pair}.pem, key_file: {pki}/{pair}.key, {fields}}}\n{more}"
    fresh = config.with_suffix(".new")
    fresh.write_text(text, encoding="utf-8")
    fresh.rename(config)


def curl(running, pki, *words, path="/metrics", host="localhost"):
    """The status that curl got from a server it could verify, 0 when there was none."""
    address = f"https://{host}:{running.ports[0]}{path}"
    command = [
        "curl",
        "-s",
        "-o",
        os.devnull,
        "-w",
        "%{http_code}",
        "--cacert",
        f"{pki}/authority.pem",
        *words,
        address,
    ]
    return int(subprocess.run(command, capture_output=True, check=False, timeout=30).stdout)


def certificate(pki, name):
    return ["--cert", f"{pki}/{name}.pem", "--key", f"{pki}/{name}.key"]


def shake(running, *words):
    """What openssl says of a handshake, None when it failed."""
    address = f"localhost:{running.ports[0]}"
    command = ["openssl", "s_client", "-connect", address, *words]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False, timeout=30)
    return None if done.returncode else done.stdout.decode(errors="replace")


def serial(running, pki):
    """The serial number of the certificate that the server shows."""
    said = shake(running, "-CAfile", f"{pki}/authority.pem", "-showcerts")
    pem = said[said.index("-----BEGIN") : said.index("-----END") + 25]
    return number(pem.encode())


def number(pem):
    return subprocess.run(["openssl", "x509", "-noout", "-serial"], input=pem, capture_output=True, check=True).stdout


@contextmanager
def opened(running, pki, name=None):
    """A connection that stays open, as Prometheus keeps it, and a function that asks on it."""
    context = ssl.create_default_context(cafile=f"{pki}/authority.pem")
    if name:
        context.load_cert_chain(f"{pki}/{name}.pem", f"{pki}/{name}.key")
    with context.wrap_socket(running.open(), server_hostname="localhost") as client:

        def ask():
            client.sendall(b"GET /healthz HTTP/1.1\r\nHost: node\r\n\r\n")
            return client.recv(1 << 16)

        yield ask


def test_a_scrape_over_tls_is_the_scrape(secure, pki):
    assert 200 == curl(secure(), pki)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_each_name_of_the_certificate_is_served(secure, pki, host):
    assert 200 == curl(secure(), pki, host=host)


@pytest.mark.parametrize(
    ("fields", "served"),
    [
        ("", {"-tls1_2", "-tls1_3"}),
        ("min_version: TLS13", {"-tls1_3"}),
        ("max_version: TLS12", {"-tls1_2"}),
        ("cipher_suites: [TLS_AES_128_GCM_SHA256]", {"-tls1_3"}),
    ],
)
def test_the_versions_served_are_those_asked_for(secure, fields, served):
    running = secure(fields)
    old = ("-cipher", "DEFAULT@SECLEVEL=0")
    offers = {"-tls1": old, "-tls1_1": old, "-tls1_2": (), "-tls1_3": ()}
    assert served == {version for version, more in offers.items() if shake(running, version, *more)}


@pytest.mark.parametrize(
    ("suite", "cipher", "pair"),
    [
        ("TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA", "ECDHE-ECDSA-AES128-SHA", "server"),
        ("TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384", "ECDHE-ECDSA-AES256-GCM-SHA384", "server"),
        ("TLS_ECDHE_RSA_WITH_AES_256_CBC_SHA", "ECDHE-RSA-AES256-SHA", "rsa"),
        ("TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256", "ECDHE-RSA-CHACHA20-POLY1305", "rsa"),
    ],
)
def test_the_only_suite_of_the_list_is_the_only_one_of_tls_1_2(secure, suite, cipher, pair):
    running = secure(f"cipher_suites: [{suite}]", pair)
    assert f"Cipher is {cipher}" in shake(running, "-tls1_2")
    assert shake(running, "-tls1_2", "-cipher", f"ALL:!{cipher}") is None


@pytest.mark.parametrize(("order", "chosen"), [("true", "AES256-GCM"), ("false", "CHACHA20")])
def test_the_order_of_suites_is_the_servers_unless_the_file_says_otherwise(secure, order, chosen):
    names = "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384, TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256"
    running = secure(f"cipher_suites: [{names}], prefer_server_cipher_suites: {order}")
    offer = "ECDHE-ECDSA-CHACHA20-POLY1305:ECDHE-ECDSA-AES256-GCM-SHA384"
    assert re.search(rf"Cipher is \S*{chosen}", shake(running, "-tls1_2", "-cipher", offer))


@pytest.mark.parametrize("version", ["-tls1_2", "-tls1_3"])
def test_the_one_curve_of_the_list_is_the_only_one(secure, version):
    running = secure("curve_preferences: [CurveP384]")
    assert "ECDH, secp384r1" in shake(running, version)
    assert shake(running, version, "-groups", "X25519:P-256") is None


@pytest.mark.parametrize("exchange", ["DHE+AES", "kRSA", "aNULL:eNULL", "3DES"])
def test_no_exchange_is_offered_that_is_weak_or_costs_the_server_more_than_the_client(secure, exchange):
    assert shake(secure(pair="rsa"), "-tls1_2", "-cipher", f"{exchange}@SECLEVEL=0") is None


def test_the_protocol_agreed_on_is_http_1_1_also_with_a_client_that_would_take_2(secure):
    assert "ALPN protocol: http/1.1" in shake(secure(), "-alpn", "h2,http/1.1")


@pytest.mark.parametrize(
    ("fields", "name", "status"),
    [
        (REQUIRED, None, 0),
        (REQUIRED, "dns", 200),
        (REQUIRED, "nameless", 200),
        (REQUIRED, "forged", 0),
        (REQUIRED, "serveronly", 0),
        (OPTIONAL, None, 200),
        (OPTIONAL, "dns", 200),
        (OPTIONAL, "forged", 0),
        ("", "forged", 200),
    ],
)
def test_client_certificates_are_verified_as_the_file_says(secure, pki, fields, name, status):
    assert status == curl(secure(fields), pki, *(certificate(pki, name) if name else ()))


@pytest.mark.parametrize(
    "kind",
    [
        {"usage": ()},
        {"identifiers": False},
        {"critical": False},
        {"version": 1},
        {"parent": True},
    ],
    ids=lambda kind: next(iter(kind)),
)
def test_client_certificates_of_a_ca_that_go_accepts_are_accepted(secure, pki, tmp_path, kind):
    kind = {**kind, "parent": Authority(tmp_path, "root")} if "parent" in kind else kind
    Authority(tmp_path, "old", **kind).issue("client", "DNS:prometheus.monitoring.svc")
    running = secure(f"client_auth_type: RequireAndVerifyClientCert, client_ca_file: {tmp_path}/old.pem")
    assert 200 == curl(running, pki, *certificate(tmp_path, "client"))
    assert 0 == curl(running, pki, *certificate(pki, "forged"))


@pytest.mark.parametrize(
    ("kind", "days"), [({"ca": False}, (-1, 2)), ({"days": (-2, -1)}, (-1, 2)), ({}, (-2, -1)), ({}, (1, 2))]
)
def test_client_certificates_that_are_expired_or_of_no_ca_are_refused(secure, pki, tmp_path, kind, days):
    Authority(tmp_path, "old", **kind).issue("client", "DNS:prometheus.monitoring.svc", days=days)
    running = secure(f"client_auth_type: RequireAndVerifyClientCert, client_ca_file: {tmp_path}/old.pem")
    assert 0 == curl(running, pki, *certificate(tmp_path, "client"))


@pytest.mark.parametrize(
    ("allowed", "name", "status"),
    [
        ("prometheus.monitoring.svc", "dns", 200),
        ("prometheus@example.org", "email", 200),
        ("'spiffe://cluster.local/ns/monitoring/sa/prometheus'", "uri", 200),
        ("10.0.0.1", "four", 200),
        ("'2001:db8::1'", "six", 200),
        ("another, other", "six", 200),
        ("PROMETHEUS.monitoring.svc", "dns", 0),
        ("monitoring.svc", "dns", 0),
        ("dns", "dns", 0),
        ("nameless", "nameless", 0),
        ("", "dns", 0),
    ],
)
def test_a_subject_name_is_allowed_only_as_it_is_written(secure, pki, allowed, name, status):
    running = secure(f"{REQUIRED}, client_allowed_sans: [{allowed}]")
    assert status == curl(running, pki, *certificate(pki, name))


def test_without_a_certificate_no_subject_name_is_allowed(secure, pki):
    assert 0 == curl(secure(f"{OPTIONAL}, client_allowed_sans: [a]"), pki)


@pytest.mark.parametrize("more", ["", ", client_allowed_sans: [prometheus.monitoring.svc]"])
def test_a_certificate_with_an_odd_name_is_one_counted_rejection(secure, pki, more):
    running = secure(f"{REQUIRED}{more}")
    assert 0 == curl(running, pki, *certificate(pki, "odd"))
    assert "127.0.0.1 was rejected (tls_handshake): its certificate has a name that cannot be read" in running.log()
    with opened(running, pki, "dns") as ask:
        assert b"200 OK" in ask()


def test_clients_that_tls_turns_away_are_counted(secure, pki):
    running = secure(f"{OPTIONAL}, client_allowed_sans: [prometheus.monitoring.svc]")
    for name in ("forged", "four"):
        curl(running, pki, *certificate(pki, name))
    shake(running, "-tls1_1", "-cipher", "DEFAULT@SECLEVEL=0")
    with opened(running, pki, "dns") as ask:
        assert b"200 OK" in ask()
    running.open().close()  # only checks whether the port is open, as a probe of TCP does
    assert re.search(
        r"127.0.0.1 was rejected \(tls_handshake\): certificate verify failed; not logged again for 10 s", running.log()
    )
    command = ["curl", "-s", "--cacert", f"{pki}/authority.pem", *certificate(pki, "dns")]
    address = f"https://localhost:{running.ports[0]}/metrics?collect[]=maps"
    said = subprocess.run([*command, "-g", address], capture_output=True, check=True).stdout.decode()
    assert 'calico_bpf_exporter_scrapes_rejected_total{reason="tls_handshake"} 3.0' in said
    assert "calico_bpf_exporter_config_reload_success 1.0" in said


def test_pem_in_the_file_itself_is_served(pki, tmp_path, server):
    def block(name, path):
        return f"  {name}: |\n" + "".join(f"    {line}\n" for line in path.read_text().splitlines())

    text = "tls_server_config:\n" + block("cert", pki / "server.pem") + block("key", pki / "server.key")
    text += "  client_auth_type: RequireAndVerifyClientCert\n" + block("client_ca", pki / "authority.pem")
    (tmp_path / "web.yml").write_text(text, encoding="utf-8")
    running = server(web_config=str(tmp_path / "web.yml"))
    assert [0, 200] == [curl(running, pki), curl(running, pki, *certificate(pki, "dns"))]


def test_a_renewed_certificate_is_served_without_a_restart_and_old_connections_end(secure, pki, until):
    running = secure()
    assert number((pki / "server.pem").read_bytes()) == serial(running, pki)
    with opened(running, pki) as ask:
        assert b"200 OK" in ask()
        write(running.config, pki, pair="renewed")
        assert until(lambda: number((pki / "renewed.pem").read_bytes()) == serial(running, pki))
        assert b"" == ask()
    assert 200 == curl(running, pki)


def test_a_change_that_leaves_tls_as_it_was_ends_no_connection(secure, pki, until):
    running = secure()
    with opened(running, pki) as ask:
        assert b"200 OK" in ask()
        write(running.config, pki, more="rate_limit: {interval: 1ms, burst: 1000}")
        assert until(lambda: b"200 OK" in ask() and running.log().count(" loaded: ") == 2)
        write(running.config, pki, more="rate_limit: {interval: 2ms, burst: 1000}", pair="renewed")
        assert until(lambda: b"" == ask())


def test_a_key_that_comes_later_than_its_certificate_is_waited_for_and_nobody_is_turned_away(
    pki, tmp_path, server, until
):
    for name in ("pem", "key"):
        (tmp_path / f"tls.{name}").write_bytes((pki / f"server.{name}").read_bytes())
    config = tmp_path / "web.yml"
    config.write_text("tls_server_config: {cert_file: tls.pem, key_file: tls.key}", encoding="utf-8")
    running = server(web_config=str(config))
    before = serial(running, pki)
    (tmp_path / "tls.pem").write_bytes((pki / "renewed.pem").read_bytes())
    assert until(lambda: curl(running, pki) == 200 and "key values mismatch" in running.log())
    assert before == serial(running, pki)
    (tmp_path / "tls.key").write_bytes((pki / "renewed.key").read_bytes())
    assert until(lambda: serial(running, pki) != before)
    assert 1 == running.log().count("keeping the previous one")
    assert "reload succeeded again" in running.log()


@pytest.mark.parametrize(
    ("fields", "more", "lost"),
    [
        ("", "", "client_auth_type"),
        (f"{OPTIONAL}, client_allowed_sans: [other]", "", "client_auth_type"),
        (REQUIRED, "", "client_allowed_sans"),
        (f"{REQUIRED}, client_allowed_sans: [other]", "", "basic_auth_users"),
    ],
)
def test_a_file_that_asks_for_less_while_it_is_written_opens_nothing(secure, pki, until, fields, more, lost):
    users = f"basic_auth_users: {{bob: $2b$04${'a' * 21}e{'a' * 31}}}"
    running = secure(f"{REQUIRED}, client_allowed_sans: [other]", more=users)
    write(running.config, pki, fields, more=more)
    time.sleep(1.1)
    assert 0 == curl(running, pki)
    assert until(lambda: f"{lost} is weaker than at startup: restart to apply it" in running.log())
    assert 401 == curl(running, pki, *certificate(pki, "six"))


@pytest.mark.parametrize("name", ["tls.pem", "tls.key", "ca.pem"])
def test_a_file_of_pem_that_is_emptied_before_it_is_written_opens_nothing(pki, tmp_path, server, until, name):
    for copy, original in (("tls.pem", "server.pem"), ("tls.key", "server.key"), ("ca.pem", "authority.pem")):
        (tmp_path / copy).write_bytes((pki / original).read_bytes())
    config = tmp_path / "web.yml"
    fields = "client_auth_type: RequireAndVerifyClientCert, client_ca_file: ca.pem"
    config.write_text(f"tls_server_config: {{cert_file: tls.pem, key_file: tls.key, {fields}}}", encoding="utf-8")
    running = server(web_config=str(config))
    (tmp_path / name).write_bytes(b"")
    time.sleep(1.1)
    assert [0, 200] == [curl(running, pki), curl(running, pki, *certificate(pki, "dns"))]
    assert 400 == running.ask().status
    assert until(lambda: "keeping the previous one" in running.log())


@pytest.mark.parametrize("kind", ["fifo", "device"])
@pytest.mark.timeout(20)
def test_a_file_that_becomes_a_fifo_or_a_device_does_not_stop_the_server(secure, pki, until, kind):
    running = secure()
    assert 200 == curl(running, pki)
    odd = running.config.with_suffix(".odd")
    os.mkfifo(odd) if kind == "fifo" else odd.symlink_to("/dev/zero")
    odd.rename(running.config)
    time.sleep(1.1)
    assert 200 == curl(running, pki)
    assert until(lambda: "is not a regular file, so it cannot be reloaded" in running.log())


@pytest.mark.parametrize("odd", ["web.yml", "tls.pem", "tls.key"])
@pytest.mark.timeout(5)
def test_a_fifo_is_refused_at_the_start(pki, tmp_path, odd):
    for name in ("pem", "key"):
        (tmp_path / f"tls.{name}").write_bytes((pki / f"server.{name}").read_bytes())
    (tmp_path / "web.yml").write_text("tls_server_config: {cert_file: tls.pem, key_file: tls.key}", encoding="utf-8")
    (tmp_path / odd).unlink()
    os.mkfifo(tmp_path / odd)
    with pytest.raises(WebConfigError, match=f"{odd} is not a regular file"):
        LiveConfig(tmp_path / "web.yml")


@pytest.mark.parametrize("content", [b"", b"{}", b"tls_server_config: {", b"\xff", None])
def test_a_file_that_breaks_or_goes_changes_nothing_and_is_said_once(secure, pki, until, content):
    running = secure(REQUIRED)
    running.config.unlink() if content is None else running.config.write_bytes(content)
    time.sleep(1.1)
    assert until(lambda: curl(running, pki) == 0 and "keeping the previous one" in running.log())
    time.sleep(1.1)
    assert 200 == curl(running, pki, *certificate(pki, "dns"))
    assert 1 == running.log().count("keeping the previous one")
    command = ["curl", "-gs", "--cacert", f"{pki}/authority.pem", *certificate(pki, "dns")]
    address = f"https://localhost:{running.ports[0]}/metrics?collect[]=maps"
    said = subprocess.run([*command, address], capture_output=True, check=True).stdout.decode()
    assert "calico_bpf_exporter_config_reload_success 0.0" in said
