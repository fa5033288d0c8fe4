"""Who has access: the web configuration, passwords, reviews of tokens, the rate limit and the server's names.

Stands before the routes as a handler, and knows nothing of what they serve.
"""
