"""The node's page: the facts of two snapshots as HTML, for a person with a browser.

Pure over snapshots: `traffic.py` and `views.py` decide what is shown, `html.py` and `templates/` the HTML. Access
and the time of a snapshot are decided in the web package.
"""
