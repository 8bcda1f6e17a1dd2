"""From an image to a running guest."""
