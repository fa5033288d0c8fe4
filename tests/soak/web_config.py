"""The web configuration of a server, and what becomes of it while it is served."""

import random

import bcrypt

from tests.soak.scrapers import PASSWORD, USER


class WebConfig:
    """TLS and two users in a file in `folder`, with certificates of `authority`."""

    def __init__(self, folder, authority):
        self.path = folder / "web.yml"
        self.authority = authority
        self._user = bcrypt.hashpw(PASSWORD.encode(), bcrypt.gensalt(4)).decode()
        self._broken = False
        self._renew()
        self._write("first")

    def change(self, chance: random.Random) -> None:
        """A broken file is mended; else it is broken, the certificate renewed, or another user's password changed."""
        what = "change" if self._broken else chance.choice(("break", "renew", "change"))
        self._broken = what == "break"
        if what == "break":
            self.path.write_text("tls_server_config: {cert_file: nowhere.pem\n", encoding="utf-8")
        elif what == "renew":
            self._renew()
        else:
            self._write(str(chance.random()))

    def _renew(self) -> None:
        self.authority.issue("server", "IP:127.0.0.1")

    def _write(self, other: str) -> None:
        pair = f"cert_file: {self.authority.folder}/server.pem, key_file: {self.authority.folder}/server.key"
        spare = bcrypt.hashpw(other.encode(), bcrypt.gensalt(4)).decode()
        text = f"tls_server_config: {{{pair}}}\nbasic_auth_users: {{{USER}: {self._user}, spare: {spare}}}\n"
        self.path.write_text(text, encoding="utf-8")
