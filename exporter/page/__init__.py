"""The node's page: the facts of two looks as HTML, for a person with a browser.

Pure over snapshots: `traffic.py` and `views.py` decide what is shown, `html.py` and `templates/` how it looks. Who may
see it, and when a look is made, is the web room's business.
"""
