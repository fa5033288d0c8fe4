"""The node's page: two snapshots as HTML.

Pure functions of snapshots: `traffic.py` and `views.py` select the data, `html.py` and `templates/` render it. The web
package takes the snapshots and controls access.
"""
