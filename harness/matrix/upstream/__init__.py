"""The kernel's own tests of kprobes and uprobes, run in a guest and read."""
