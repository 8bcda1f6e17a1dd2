"""The kernel's own table of names, /proc/kallsyms: what symbol + offset is resolved by."""

from __future__ import annotations

from collections.abc import Iterable

from harness.landing.layout import Layout
from harness.landing.site import Site


def missed_by_symbol(layout: Layout, functions: Iterable[tuple[Site, int]]) -> list[Site]:
    """The functions that the kernel would not find, or find elsewhere than the address beside each.

    The kernel takes the first entry of a name (kallsyms_lookup_name(), kernel/kallsyms.c, 6.1), for MOD:SYM the first
    of that module.
    """
    listing = layout.guest.script("grep -i ' [tw] ' /proc/kallsyms").check().stdout
    found: dict[tuple[str, str], int] = {}
    for line in listing.splitlines():
        address, _, name, *module = line.split()
        found.setdefault((module[0].strip("[]") if module else "", name), int(address, 16))
    return [site for site, truth in functions if found.get((site.module, site.symbol)) != truth]
