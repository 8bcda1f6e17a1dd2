"""The command that measures performance: bench."""

from __future__ import annotations

from collections.abc import Sequence

import click

from harness.bench.bench import run_bench_command as measure
from harness.cli_common import VMS, example_epilog
from harness.images.vm_recipe import select


@click.command(epilog=example_epilog("bench --vm x86_64-debian --figure thaw_x86_64"))
@VMS
@click.option(
    "--runs", default=5, show_default=True, metavar="N", type=click.IntRange(min=1), help="Runs of each side."
)
@click.option("--figure", "figures", multiple=True, metavar="NAME", help="A figure; repeat for more. All without it.")
def bench(vms: Sequence[str], runs: int, figures: Sequence[str]) -> int:
    """Measure performance, in comparison with peers. Medians and spread go to bench.json and figures.jsonl."""
    return measure(select(vms), runs, figures)
