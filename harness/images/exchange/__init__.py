"""Images between machines: store entries in an OCI image layout, which is a directory or one tar file."""
