"""How a cell ended, and what the kernel said meanwhile."""
