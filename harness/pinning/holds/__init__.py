"""What holds a module in the kernel."""
