"""Boot an image, connect to the guest and control it."""
