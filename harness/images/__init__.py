"""Build a bootable image from a recipe."""
