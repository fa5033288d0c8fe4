"""Serves scrapes over HTTP: routes, limits, TLS, access control, and slow or malicious clients.

Knows sockets of its own, its own configuration file and the text of a scrape. Knows no maps, bytes of maps or files
that others wrote.
"""
