"""Whole processes, from their start over a guest's first answer to their end: ours, virtme-ng's, and bare QEMU's."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from harness.bench import floor, virtme
from harness.bench.context import LAUNCHER, BenchContext
from harness.bench.interleave import Measure
from harness.bench.measured_ratio_and_goal import FigureDefinition, UnavailableSide
from harness.core import process
from harness.core.deadline import Deadline
from harness.core.errors import HostError

VM = "x86_64-debian"
_THAWED, _ANEW, _VNG, _FLOOR = "ours, thawed", "ours, booted anew", "vng", "floor"
_TO_VNG, _TO_FLOOR = "at most 0.5", "at most 1.5"
PAIRS = (
    FigureDefinition("boot_vs_vng", "a shell's first answer, thawed, compared with virtme-ng", _TO_VNG, _THAWED, _VNG),
    FigureDefinition(
        "boot_vs_floor", "a shell's first answer, thawed, compared with bare QEMU", _TO_FLOOR, _THAWED, _FLOOR
    ),
    FigureDefinition(
        "boot_anew_vs_vng", "a shell's first answer, booted anew, compared with virtme-ng", _TO_VNG, _ANEW, _VNG
    ),
    FigureDefinition(
        "boot_anew_vs_floor", "a shell's first answer, booted anew, compared with bare QEMU", _TO_FLOOR, _ANEW, _FLOOR
    ),
)
_SECONDS = 300.0


@contextmanager
def open_sides(context: BenchContext, wanted: Sequence[str]) -> Iterator[Mapping[str, Measure | UnavailableSide]]:
    """Yield the sides named in `wanted`, all on the kernel of one VM."""
    image = context.obtain_image(VM)
    if _THAWED in wanted:
        context.ensure_frozen_guest(VM)
    with tempfile.TemporaryDirectory(prefix="pinpoint-bench-") as scratch:
        sides: dict[str, Measure | UnavailableSide] = {
            _THAWED: lambda: _shell(context, []),
            _ANEW: lambda: _shell(context, ["--anew"]),
        }
        if _FLOOR in wanted:
            sides[_FLOOR] = floor.bare_kernel_measure(image, context.build_context, Path(scratch))
        if _VNG in wanted:
            sides[_VNG] = virtme.virtme_measure(
                image, context.build_context, Path(scratch), context.log_directory / "vng.log"
            )
        yield {name: measure for name, measure in sides.items() if name in wanted}


def _shell(context: BenchContext, options: Sequence[str]) -> float:
    """Seconds of `echo true | ./pinpoint shell`. Raises HostError when it fails."""
    log = context.log_directory / "shell.log"
    with tempfile.TemporaryFile() as typed:
        typed.write(b"true\n")
        typed.seek(0)
        began = time.monotonic()
        words = [str(LAUNCHER), "shell", "--vm", VM, *options]
        done = process.run(words, deadline=Deadline.after(_SECONDS), log=log, stdin=typed)
    if done.rc:
        raise HostError(f"./pinpoint shell ended with status {done.rc}", where=str(log))
    return time.monotonic() - began
