"""HTTP/1.1 over TCP and TLS: listens, admits and evicts connections, and times out slow clients.

What the library of an HTTP server would be: knows nothing of what is served, and nothing of who has access.
"""
