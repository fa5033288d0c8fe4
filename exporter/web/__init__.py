"""The web room: HTTP over the scrapes: routes, limits, TLS, who may come in, clients that are slow or mean harm.

Knows sockets of its own, its own configuration file and the text of a scrape. Knows no maps, bytes of maps or files
that others wrote.
"""
