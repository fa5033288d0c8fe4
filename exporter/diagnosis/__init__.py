"""What snapshots mean for a person: changes between two, why an endpoint loses packets, its rules, what is missing.

Pure functions of snapshots. Knows no metric names, HTTP or terminals, and not how a fact was read.
"""
