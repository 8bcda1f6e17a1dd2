"""`./pinpoint verify`: foreign modules, or a foreign command, on a VM, judged and reported."""
