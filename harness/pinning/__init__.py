"""What holds a module in the kernel, the loader that relies on none of it, and every order of loading and removing."""
