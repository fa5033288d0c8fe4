"""Users and passwords of basic authentication, held as bcrypt hashes.

Knows bcrypt and the value of the Authorization header. A valid password is cached as a keyed digest, so that only a
user's first request is slow.
"""

import base64
import binascii
import hashlib
import hmac
import os
from collections.abc import Mapping

_BCRYPT_BYTES = 72  # bcrypt reads no more, as Go's and Apache's do; the library refuses to be given more


class Passwords:
    """The users of one configuration, bcrypt hashes by name."""

    def __init__(self, users: Mapping[str, str]) -> None:
        self._hashes = {name.encode(): hashed.encode() for name, hashed in users.items()}
        self._stand_ins = list(self._hashes.values())
        self._right: dict[bytes, bytes] = {}
        self._key = os.urandom(32)

    def is_cached(self, name: bytes, password: bytes) -> bool:
        """Whether this password was valid before; False does not mean that it is wrong."""
        return hmac.compare_digest(self._right.get(name, b""), self._digest(password))

    def check(self, name: bytes, password: bytes) -> bool:
        """Whether this password is valid. Takes the same time for a name that does not exist."""
        import bcrypt

        known = name in self._hashes
        # An unknown name is checked against one fixed hash, so that the time does not reveal which names exist.
        stand_in = self._stand_ins[int.from_bytes(self._digest(name)[:8]) % len(self._stand_ins)]
        right = bcrypt.checkpw(password[:_BCRYPT_BYTES], self._hashes.get(name, stand_in)) and known
        if right:
            self._right[name] = self._digest(password)
        return right

    def _digest(self, data: bytes) -> bytes:
        return hashlib.blake2b(data, key=self._key, digest_size=32).digest()


def parse_basic(authorization: str) -> tuple[bytes, bytes] | None:
    """Name and password of an `Authorization: Basic …` header (RFC 7617), None for any other."""
    scheme, _, encoded = authorization.partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        name, colon, password = base64.b64decode(encoded.strip(), validate=True).partition(b":")
    except (binascii.Error, ValueError):
        return None
    return (name, password) if colon else None
