"""A TLS connection for two threads, one that reads and one that writes."""

import select
import socket
import ssl
from contextlib import suppress
from threading import Lock


class Duplex:
    """Reads and writes in turns: with two threads in it, OpenSSL takes one's wait for bytes for the other's end."""

    def __init__(self, connection):
        self._connection, self._turn = connection, Lock()
        connection.settimeout(0)

    def recv(self, size):
        """What has come, `size` bytes at most; nothing after the end."""
        while True:
            with self._turn, suppress(ssl.SSLWantReadError):
                return self._connection.recv(size)
            select.select([self._connection], [], [])

    def sendall(self, content):
        """Sends all of it."""
        left = memoryview(content)
        while left:
            with self._turn, suppress(ssl.SSLWantWriteError):
                left = left[self._connection.send(left) :]
                continue
            select.select([], [self._connection], [])

    def shutdown(self, how):
        """Shuts the TCP connection down, without a word of TLS."""
        socket.socket.shutdown(self._connection, how)
