"""A thawed guest's first answer compared with its own boot: from the start of QEMU to a proved answer over SSH."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial

from harness.bench.context import BenchContext
from harness.bench.interleave import Measure
from harness.bench.measured_ratio_and_goal import FigureDefinition

_THAW, _BOOT = "thaw", "boot"


def figure_definition(name: str, vm: str, goal: str) -> FigureDefinition:
    """Return the figure of one VM."""
    return FigureDefinition(name, f"{vm}: a thawed guest's first answer compared with its own boot", goal, _THAW, _BOOT)


@contextmanager
def open_sides(vm: str, context: BenchContext, _wanted: Sequence[str]) -> Iterator[Mapping[str, Measure]]:
    """Yield both sides: a guest of the VM is thawed, or booted."""
    context.ensure_frozen_guest(vm)
    yield {_THAW: partial(_begin, context, vm, anew=False), _BOOT: partial(_begin, context, vm, anew=True)}


def _begin(context: BenchContext, vm: str, *, anew: bool) -> float:
    with context.fleet.start_fresh_guest(vm, anew=anew) as guest:
        return guest.boot_seconds
