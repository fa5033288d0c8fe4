"""One snapshot of the node: reads what is asked for, decodes and joins it, and makes a value of it.

The only package that knows both `bpf` and `node`. Knows no metric names, no HTTP, no terminals and not what facts mean.
"""
