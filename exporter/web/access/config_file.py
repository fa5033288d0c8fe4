"""Parses the web configuration file, in the YAML schema of Prometheus' exporters.

The schema is docs/web-configuration.md of prometheus/exporter-toolkit (v0.16.0); its names of ciphers and curves are
Go's. Knows text only: no files, no sockets, no TLS. Settings that are not supported are errors, never ignored.
"""

import re
import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from exporter.web.access.certificates import TlsSettings
from exporter.web.access.config import RateLimit, WebConfig, WebConfigError

if TYPE_CHECKING:
    from exporter.web.access.yaml_fields import Fields

_Chosen = TypeVar("_Chosen")

_HEADERS: Mapping[str, tuple[str, ...]] = {
    "Content-Security-Policy": (),
    "Strict-Transport-Security": (),
    "X-Content-Type-Options": ("nosniff",),
    "X-Frame-Options": ("deny", "sameorigin"),
    "X-XSS-Protection": (),
}
_HEADER_VALUE = re.compile(r"[\t\x20-\x7e]+", re.ASCII)
# 22 characters are the salt's 16 bytes, and 31 the digest's 23. The spare bits of the last ones must be 0, or the
# library refuses the salt, and no password ever has that digest.
_BCRYPT = re.compile(
    r"\$2[aby]\$(0[4-9]|[12][0-9]|3[01])\$[./A-Za-z0-9]{21}[.Oeu][./A-Za-z0-9]{30}[.CGKOSWaeimquy26]", re.ASCII
)
_DURATION = re.compile(r"(?:(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:ns|us|µs|ms|s|m|h))+")
_DURATION_PART = re.compile(r"([0-9.]+)([a-zµ]+)")
_MAX_SECONDS = (2**63 - 1) / 1e9  # what Go's durations can hold
_SECONDS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}

_VERSIONS = {"TLS12": ssl.TLSVersion.TLSv1_2, "TLS13": ssl.TLSVersion.TLSv1_3}
_CURVES = {"CurveP256": "prime256v1", "CurveP384": "secp384r1", "CurveP521": "secp521r1", "X25519": "X25519"}
# crypto/tls.CipherSuites() of Go 1.25 and OpenSSL's names. The suites of TLS 1.3 cannot be chosen in Go either.
_CIPHERS = {
    "TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA": "ECDHE-ECDSA-AES128-SHA",
    "TLS_ECDHE_ECDSA_WITH_AES_256_CBC_SHA": "ECDHE-ECDSA-AES256-SHA",
    "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA": "ECDHE-RSA-AES128-SHA",
    "TLS_ECDHE_RSA_WITH_AES_256_CBC_SHA": "ECDHE-RSA-AES256-SHA",
    "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256": "ECDHE-ECDSA-AES128-GCM-SHA256",
    "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384": "ECDHE-ECDSA-AES256-GCM-SHA384",
    "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256": "ECDHE-RSA-AES128-GCM-SHA256",
    "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384": "ECDHE-RSA-AES256-GCM-SHA384",
    "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256": "ECDHE-ECDSA-CHACHA20-POLY1305",
    "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256": "ECDHE-RSA-CHACHA20-POLY1305",
}
_CIPHERS_13 = frozenset({"TLS_AES_128_GCM_SHA256", "TLS_AES_256_GCM_SHA384", "TLS_CHACHA20_POLY1305_SHA256"})
_CLIENT_CERTIFICATE = {
    "NoClientCert": ssl.CERT_NONE,
    "VerifyClientCertIfGiven": ssl.CERT_OPTIONAL,
    "RequireAndVerifyClientCert": ssl.CERT_REQUIRED,
}
_UNVERIFIED = ("RequestClientCert", "RequireAnyClientCert", "RequireClientCert")


def parse_web_config(text: str, folder: Path) -> WebConfig:
    """The configuration in `text`; paths in it are relative to `folder`. Raises `WebConfigError`."""
    import yaml

    from exporter.web.access.yaml_fields import FieldError, Fields

    try:
        whole = Fields("", yaml.compose(text, Loader=yaml.SafeLoader))
        config = WebConfig(
            tls=_tls(whole.fields("tls_server_config"), folder),
            headers=_http(whole.fields("http_server_config")),
            users=_users(whole.fields("basic_auth_users")),
            rate_limit=_rate_limit(whole.fields("rate_limit")),
        )
        whole.end()
    except FieldError as error:
        raise WebConfigError(str(error)) from error
    except yaml.MarkedYAMLError as error:
        where = f"line {error.problem_mark.line + 1}: " if error.problem_mark else ""
        what = ", ".join(part for part in (error.context, error.problem) if part)
        raise WebConfigError(f"{where}it is not YAML: {what}") from error
    except (yaml.YAMLError, RecursionError) as error:
        raise WebConfigError(f"it is not YAML: {' '.join(str(error).split())}") from error
    return config


def _tls(fields: "Fields", folder: Path) -> TlsSettings | None:
    given = fields.given(*fields.names())
    cert, key = _pem(fields, "cert", folder), _pem(fields, "key", folder)
    client_ca = _pem(fields, "client_ca", folder)
    demand = _client_certificate(fields, client_ca)
    sans = fields.text_list("client_allowed_sans")
    if sans is not None and demand is ssl.CERT_NONE:
        fields.refuse("client_allowed_sans", "needs client_auth_type RequireAndVerifyClientCert")
    min_version = _choice(fields, "min_version", _VERSIONS) or ssl.TLSVersion.TLSv1_2
    max_version = _choice(fields, "max_version", _VERSIONS) or ssl.TLSVersion.TLSv1_3
    if min_version > max_version:
        fields.refuse("min_version", "is above max_version")
    min_version, ciphers = _ciphers(fields, min_version, max_version)
    server_order = fields.boolean("prefer_server_cipher_suites", default=True)
    curve = _curve(fields)
    fields.end()
    if not fields.names():
        return None
    if cert is None or key is None:
        fields.refuse(
            (given or fields.names())[0],
            f"requires {'cert' if cert is None else 'key'}_file",
        )
    allowed = None if sans is None else frozenset(sans)
    return TlsSettings(cert, key, client_ca, demand, allowed, min_version, max_version, ciphers, server_order, curve)


def _pem(fields: "Fields", name: str, folder: Path) -> str | Path | None:
    inline, path = fields.text(name), fields.text(f"{name}_file")
    if inline and path:
        fields.refuse(name, f"and {name}_file are mutually exclusive")
    if path and not path.isprintable():
        fields.refuse(f"{name}_file", f"is {path!a}; it must be the path of a file")
    return folder / path if path else inline or None


def _client_certificate(fields: "Fields", client_ca: str | Path | None) -> ssl.VerifyMode:
    name = "client_auth_type"
    if fields.text(name) in _UNVERIFIED:
        fields.refuse(
            name,
            "would take any certificate without verifying it, which is not supported; "
            "VerifyClientCertIfGiven and RequireAndVerifyClientCert are",
        )
    demand = _choice(fields, name, _CLIENT_CERTIFICATE) or ssl.CERT_NONE
    if demand is not ssl.CERT_NONE and client_ca is None:
        # Go would accept certificates of every public CA.
        fields.refuse(name, "needs client_ca_file, the CA of the clients")
    if demand is ssl.CERT_NONE and client_ca is not None:
        fields.refuse(fields.given("client_ca", "client_ca_file")[0], "needs client_auth_type")
    return demand


def _ciphers(
    fields: "Fields", min_version: ssl.TLSVersion, max_version: ssl.TLSVersion
) -> tuple[ssl.TLSVersion, tuple[str, ...]]:
    names = fields.text_list("cipher_suites") or []
    for name in names:
        if name not in _CIPHERS and name not in _CIPHERS_13:
            fields.refuse(
                "cipher_suites", f"has {name!r}; supported are {', '.join((*_CIPHERS, *sorted(_CIPHERS_13)))}"
            )
    chosen = tuple(_CIPHERS[name] for name in names if name in _CIPHERS)
    if names and not chosen:
        if max_version is ssl.TLSVersion.TLSv1_2:
            fields.refuse("cipher_suites", "has no suite of TLS 1.2 and max_version is TLS12")
        min_version = ssl.TLSVersion.TLSv1_3  # without a suite there is no TLS 1.2
    return min_version, chosen


def _curve(fields: "Fields") -> str | None:
    names = fields.text_list("curve_preferences") or []
    for name in names:
        if name not in _CURVES:
            fields.refuse("curve_preferences", f"has {name!r}; supported are {', '.join(_CURVES)}")
    if len(names) > 1:
        fields.refuse("curve_preferences", "has several curves; at most one is supported")
    return _CURVES[names[0]] if names else None


def _choice(fields: "Fields", name: str, choices: Mapping[str, _Chosen]) -> _Chosen | None:
    given = fields.text(name)
    if not given:
        return None
    if given not in choices:
        fields.refuse(name, f"is {given!r}; supported are {', '.join(choices)}")
    return choices[given]


def _http(fields: "Fields") -> tuple[tuple[str, str], ...]:
    if fields.boolean("http2", default=False):
        fields.refuse("http2", "is true, but HTTP/2 is not supported; omit it or set it to false")
    headers = fields.fields("headers")
    fields.end()
    chosen = []
    for name in headers.names():
        value = headers.text(name)
        if name not in _HEADERS:
            headers.refuse(name, f"cannot be set; these can: {', '.join(_HEADERS)}")
        if not value:
            continue
        if _HEADERS[name] and value not in _HEADERS[name]:
            headers.refuse(name, f"is {value!r}; it can be {' or '.join(_HEADERS[name])}")
        if not _HEADER_VALUE.fullmatch(value):
            headers.refuse(name, "must be printable ASCII on one line")
        chosen.append((name, value.strip()))
    return tuple(chosen)


def _users(fields: "Fields") -> Mapping[str, str]:
    users = {}
    for name in fields.names():
        if ":" in name:
            fields.refuse(name, "contains a colon, which basic authentication does not allow in names")
        users[name] = fields.text(name) or ""
        if not _BCRYPT.fullmatch(users[name]):
            fields.refuse(name, "must be a bcrypt hash, as `htpasswd -nBC 10 NAME` prints it")
    return users


def _rate_limit(fields: "Fields") -> RateLimit | None:
    interval, burst = fields.text("interval"), fields.text("burst")
    fields.end()
    if interval is None or interval == "0":
        return None
    if not _DURATION.fullmatch(interval):
        fields.refuse("interval", f"is {interval!r}; it must be a duration with its unit, for example 1s or 250ms")
    seconds = sum(float(number) * _SECONDS[unit] for number, unit in _DURATION_PART.findall(interval))
    if seconds > _MAX_SECONDS:
        fields.refuse("interval", "is longer than 292 years")
    if seconds == 0:
        return None
    if burst is None or not re.fullmatch("[0-9]{1,9}", burst, re.ASCII) or int(burst) == 0:
        name = "interval" if burst is None else "burst"
        fields.refuse(name, "needs a burst of at least 1")
    return RateLimit(seconds, int(burst))
