"""The sites of one function: where the kernel accepts a probe, where not and why."""
