"""The internal command `shard`: the process of a cell shard, which `./pinpoint run` starts."""

from __future__ import annotations

import click

from harness.matrix.cell_shards import shard_process


@click.command(hidden=True)
def shard() -> int:
    """Run the order on standard input and write pytest's reports to standard output."""
    return shard_process.run_order_from_standard_input()
