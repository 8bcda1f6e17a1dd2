"""Lets the next module have the addresses of removed ones, where the kernel frees addresses lazily."""

from __future__ import annotations

from harness.guest.guest import Guest

_EAGER = "CONFIG_STRICT_MODULE_RWX"
# Without that option the kernel keeps the addresses of freed memory until 32 MiB of them are waiting (lazy_max_pages()
# and free_vmap_area_noflush(), mm/vmalloc.c, 6.1; VM_FLUSH_RESET_PERMS is set with that option only). init_module()
# copies this file to such memory before it finds that it is no module.
_FREE = """
dd if=/dev/zero of=/tmp/pinpoint_zeros bs=1 count=1 seek=34603008 2>/dev/null
insmod /tmp/pinpoint_zeros 2>/dev/null
rm -f /tmp/pinpoint_zeros
sleep 0.1
"""


def free_addresses_of_removed_modules(guest: Guest) -> None:
    """Let the kernel give the addresses of removed modules to the next ones, as most kernels do at once.

    The lowest free addresses are then the same before each load of a module, so that it returns to where it was.
    """
    if _EAGER not in guest.image.config:
        guest.run_script(_FREE).check()
