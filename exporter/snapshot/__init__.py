"""One look at the node: reads, decodes and joins each part when it is first asked for, and keeps it for that look.

The only room that knows both the kernel room and the node room. Knows no metric names, no HTTP and no terminals.
"""
