"""The command that shrinks the cache: gc."""

from __future__ import annotations

import time

import click

from harness.core import paths
from harness.core.events import Bus
from harness.images import cache_garbage_collection
from harness.images.build_context import BuildContext

_GIB = 1 << 30


@click.command()
@click.option(
    "--older", metavar="DAYS", type=click.FloatRange(min=0, max=36500), help="Remove what no run used for so long."
)
@click.option("--size", metavar="GIB", type=click.FloatRange(min=0, max=1 << 20), help="Remove until so much is left.")
@click.option("--dry-run", is_flag=True, help="Print what would be removed and remove nothing.")
def gc(older: float | None, size: float | None, dry_run: bool) -> int:
    """Remove store entries and logs that no run uses: those unused for 30 days by default.

    Entries in use by another run stay. Compiler caches and source trees stay too: delete them by hand.
    """
    cache, now = paths.cache(), time.time()
    store = BuildContext.in_cache(Bus()).store
    days = 30.0 if older is None and size is None else older
    found = cache_garbage_collection.list_cache_items(cache)
    bytes_left = None if size is None else int(size * _GIB)
    removed = 0
    for each in cache_garbage_collection.choose_items_to_remove(found, days, bytes_left, now):
        gone = dry_run or cache_garbage_collection.remove_item_unless_in_use(store, each)
        removed += each.size if gone else 0
        what = ("would be removed" if dry_run else "removed") if gone else "is in use, and stays"
        click.echo(f"{each.path.name}  {each.size / _GIB:.2f} GiB, unused for {each.days_unused(now):.1f} days: {what}")
    left = sum(each.size for each in found) - removed
    click.echo(
        f"{removed / _GIB:.2f} GiB {'would be ' if dry_run else ''}removed, {left / _GIB:.2f} GiB left in {cache}"
    )
    return 0
