"""What a person types: one file per command, and `main.py`, where the rooms are put together.

Knows options, tables and exit codes. Knows nothing of how anything is read, decoded or named.
"""
