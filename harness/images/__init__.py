"""From a recipe to a bootable image."""
