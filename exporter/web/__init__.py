"""Serves scrapes over HTTP: routes, limits, TLS, access control, protection from slow or malicious clients.

Knows its sockets, the web configuration and the text of a scrape. Knows nothing of maps or Calico's files.
"""
