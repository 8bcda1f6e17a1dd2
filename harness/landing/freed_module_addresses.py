"""Lets the next module have the addresses of removed ones, where the kernel frees addresses lazily."""

from __future__ import annotations

from harness.guest.guest import Guest

_EAGER = "CONFIG_STRICT_MODULE_RWX"
# Without that option the kernel keeps the addresses of freed memory until 32 MiB of them are waiting (lazy_max_pages()
# and free_vmap_area_noflush(), mm/vmalloc.c, 6.1; VM_FLUSH_RESET_PERMS is set with that option only). init_module()
# copies this file to such memory before it finds that it is no module, and finit_module(), which busybox tries first,
# reads it to such memory, too.
_FREED = 33 << 20
_FREE = """
dd if=/dev/zero of=/tmp/pinpoint_zeros bs=1 count=1 seek={size} 2>/dev/null
for turn in {turns}; do insmod /tmp/pinpoint_zeros 2>/dev/null; done
rm -f /tmp/pinpoint_zeros
sleep 0.1
"""
# busybox reads the file into memory of its own, so that it is there twice. In a smaller guest a quarter of it is freed
# four times.
_LARGE_MIB = 128


def free_addresses_of_removed_modules(guest: Guest) -> None:
    """Let the kernel give the addresses of removed modules to the next ones, as most kernels do at once.

    The lowest free addresses are then the same before each load of a module, so that it returns to where it was.
    """
    if _EAGER not in guest.image.config:
        large = guest.image.recipe.machine.memory_mib >= _LARGE_MIB
        script = _FREE.format(size=_FREED, turns="1") if large else _FREE.format(size=_FREED // 4, turns="1 2")
        guest.run_script(script).check()
