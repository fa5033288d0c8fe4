"""Lets `python -m exporter` be the same program as `calico-bpf-exporter`."""

from exporter.cli.main import main

main()
