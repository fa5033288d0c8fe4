"""The command line: one file per command; the entry point is `main.py`.

Knows options, tables and exit codes, but not how anything is read, decoded or named.
"""
