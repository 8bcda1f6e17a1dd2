"""`./pinpoint verify`: loads an external module in one VM, checks its kprobes, and prints a table."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from harness.core import paths
from harness.core.elf import Elf
from harness.core.errors import GuestError, GuestLost
from harness.core.events import Bus
from harness.core.text_table import lay_out
from harness.guest.guest import Guest
from harness.guest.keys import RunKeys
from harness.guest.start import StartOptions, boot
from harness.images import external_module
from harness.images.build_context import BuildContext
from harness.images.image import Image
from harness.images.prepare import prepare
from harness.images.recipe import Recipe
from harness.landing.code.system_map import SystemMap
from harness.landing.landing import Landing
from harness.landing.verify.external_probe import Life
from harness.matrix.guests import checkup
from harness.matrix.guests.checkup import KernelComplained, LeftBehind
from harness.report.board import Board
from harness.verdict.printk import plain

_HELD, _MISSED = 0, 1
_SHOWN_LINES = 12

Write = Callable[[str], None]


def verify(file: Path, recipe: Recipe, system_map: Path | None) -> int:
    """Verify a module, with the board on the terminal and the table on standard output; return the exit status, 0 or 1.

    Raises UsageError for a wrong module or System.map, BuildError, BootError or HostError when the harness fails.
    """
    bus = Bus()
    board = Board(bus, sys.stdout.isatty())
    output: list[str] = []
    log = paths.cache() / "logs" / f"verify-{recipe.name}.log"
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="verify") as aside:
        try:
            status = aside.submit(_whole, file, recipe, system_map, bus, log, output.append)
            board.follow([status])
        finally:
            board.close()
    for text in output:
        print(plain(text))
    return status.result()


def _whole(file: Path, recipe: Recipe, system_map: Path | None, bus: Bus, log: Path, write: Write) -> int:
    return Verification(file, recipe, system_map, BuildContext.in_cache(bus)).run(log, write)


class Verification:
    """One module on one VM. Everything that needs no guest is checked before one is booted."""

    def __init__(self, file: Path, recipe: Recipe, system_map: Path | None, build_context: BuildContext) -> None:
        """Raises UsageError when the module or the System.map is not for the VM's kernel."""
        elf = external_module.read(file, recipe.architecture)
        names = SystemMap.read(system_map) if system_map else None
        image = prepare(recipe, build_context, probes=False)
        external_module.demand_kernel(elf, image)
        if names:
            names.demand_of(Elf.kept(image.vmlinux))
        self._name = external_module.name(elf)
        self._names = names
        self._image: Image = replace(image, modules={self._name: file})
        self._bus = build_context.bus

    def run(self, log: Path, write: Write) -> int:
        """Boot, load, check and unload; pass each line of the report to `write`.

        Returns 0 when every kprobe landed and nothing else was wrong, else 1. The guest's console goes to `log`. Raises
        what the boot raises.
        """
        options = StartOptions.for_image(self._image, log=log, keys=RunKeys.make(), bus=self._bus)
        guest = boot(self._image, options)
        with guest:
            checkup.begin(guest)
            wrongs = [*self._live(guest, write), *_after(guest)]
        for wrong in wrongs:
            write(f"{self._name}: {wrong}")
        if wrongs:
            write(f"(the whole console: {log})")
        return _MISSED if wrongs else _HELD

    def _live(self, guest: Guest, write: Write) -> list[str]:
        """Load, check and unload the module; return what was wrong."""
        try:
            life = Life(guest, self._name, self._names)
        except GuestLost:
            return []  # the check-up reports the same with the kernel's own lines
        except GuestError as error:
            return [error.what]
        if life.landings:
            write(table(life.landings))
        missed = [landing for landing in life.landings if landing.complaint]
        for landing in missed:
            write(f"\n{landing.site}: {landing.complaint}\n\n{landing.table()}")
        found = [f"{len(missed)} of {len(life.landings)} kprobes did not land"] if missed else []
        return [*found, *life.wrongs]


def _after(guest: Guest) -> list[str]:
    """Return the kernel's complaints after the unload, or what is left of the module."""
    try:
        checkup.end(guest)
    except LeftBehind as left:
        return [str(left).replace("the cell", "the module")]
    except KernelComplained as complained:
        return _lines(complained)
    except GuestError as lost:
        return _lines(checkup.last_words(guest, lost))
    return []


def _lines(error: Exception) -> list[str]:
    """The first lines of the kernel's first complaint, of which later ones are often consequences."""
    if not isinstance(error, KernelComplained):
        return [str(error)]
    first = error.complaints[0]
    return [f"the kernel complained: {first}", *(f"    {line.strip()}" for line in first.lines[:_SHOWN_LINES])]


def table(landings: Iterable[Landing]) -> str:
    """Return a line for each kprobe: its address, the symbol there, the bytes in memory, and whether it landed."""
    rows = [("kprobe", "address", "means", "memory", "verdict")]
    for landing in landings:
        by_witness = {each.witness: each for each in landing.statements}
        address = by_witness["listed"].address
        where = "-" if address is None else f"{address:#x}"
        means = "-" if address is None else landing.meaning(address)
        seen = by_witness["outside"].detail if "outside" in by_witness else "-"
        rows.append((str(landing.site), where, means, seen, "missed" if landing.complaint else "landed"))
    return "\n".join(lay_out(rows))
