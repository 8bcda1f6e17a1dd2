"""How a cell ended, and what the kernel printed during it."""
