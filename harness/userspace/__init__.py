"""Probes in user space: where a uprobe lands in the processes that map a file."""
