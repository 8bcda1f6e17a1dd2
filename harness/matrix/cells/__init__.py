"""Cells: which exist, the result of each, and the bundle of a failed one."""
