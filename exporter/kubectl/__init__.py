"""`kubectl calico-bpf`: the exporter's commands for a pod anywhere in the cluster, typed on a laptop.

It finds the pod's node and the exporter there, and runs the command in the exporter's pod. It knows kubectl and the
exporter's command line, and nothing of a node: only the standard library and click, on any system kubectl runs on.
"""
