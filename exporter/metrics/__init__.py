"""The metrics room: families, their names, help and labels, and their text.

Knows what a snapshot offers and how Prometheus wants it. Knows no ctypes, processes,
netlink, APIs and no bytes of maps.
"""
