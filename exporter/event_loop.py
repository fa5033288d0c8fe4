"""asyncio without OpenSSL: it imports `ssl` where that is installed, 3.7 MiB, for connections in TLS of its own.

The server's TLS does not use them (`exporter/web/transport/tls.py`). Imported before everything else that uses asyncio.
"""

from exporter.light_imports import hidden

with hidden("ssl"):
    import asyncio

__all__ = ["asyncio"]
