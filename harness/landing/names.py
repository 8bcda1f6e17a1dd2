"""The kernel's own table of names, /proc/kallsyms: what symbol + offset is resolved by."""

from __future__ import annotations

from collections.abc import Iterable

from harness.landing.layout import Layout
from harness.landing.site import Site

# Types of code, also weak, as nm(1) writes them.
_CODE = "tTwW"


def missed_by_symbol(layout: Layout, functions: Iterable[tuple[Site, int]]) -> list[Site]:
    """The functions that the kernel would not find, or find elsewhere than the address beside each.

    The kernel takes the first entry of a name (kallsyms_lookup_name(), kernel/kallsyms.c, 6.1), for MOD:SYM the first
    of that module.
    """
    found: dict[tuple[str, str], int] = {}
    for line in layout.guest.read_text("/proc/kallsyms").splitlines():
        address, kind, name, *module = line.split()
        if kind in _CODE:
            found.setdefault((module[0].strip("[]") if module else "", name), int(address, 16))
    return [site for site, truth in functions if found.get((site.module, site.symbol)) != truth]
