"""`./pinpoint verify`: somebody else\x27s modules or command on a VM, judged and reported."""
