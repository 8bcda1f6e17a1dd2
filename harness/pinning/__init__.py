"""What keeps a module loaded, the loader that needs no such pin, and every order of loading and removing."""
