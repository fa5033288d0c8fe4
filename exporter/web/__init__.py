"""The web room: HTTP over the scrapes: routes, limits, clients that are slow or mean harm.

Knows sockets of its own and the text of a scrape. Knows no maps, bytes of maps or files of the node.
"""
