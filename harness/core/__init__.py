"""Code that every package of the harness may import and that imports none of them."""
