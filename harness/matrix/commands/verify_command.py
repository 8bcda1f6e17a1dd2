"""`./pinpoint verify`: someone else's module against one VM, from its file to a table and an exit status."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from harness.core import paths
from harness.core.deadline import Deadline
from harness.core.elf import Elf
from harness.core.errors import GuestError, GuestLost
from harness.core.events import Bus
from harness.guest.accelerator import choose
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

Say = Callable[[str], None]


def verify(file: Path, recipe: Recipe, system_map: Path | None) -> int:
    """Do it all, with the board on the terminal and the table on standard output. Gives the exit status, 0 or 1.

    Raises UsageError for a module or a map that cannot be right, BuildError, BootError or HostError where we fail.
    """
    bus = Bus()
    board = Board(bus, sys.stdout.isatty())
    said: list[str] = []
    log = paths.cache() / "logs" / f"verify-{recipe.name}.log"
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="verify") as aside:
        try:
            status = aside.submit(_whole, file, recipe, system_map, bus, log, said.append)
            board.follow([status])
        finally:
            board.close()
    for text in said:
        print(plain(text))
    return status.result()


def _whole(file: Path, recipe: Recipe, system_map: Path | None, bus: Bus, log: Path, say: Say) -> int:
    return Verification(file, recipe, system_map, BuildContext.in_cache(bus)).run(log, say)


class Verification:
    """One module, on one VM. Everything that needs no guest is checked before one is booted."""

    def __init__(self, file: Path, recipe: Recipe, system_map: Path | None, build_context: BuildContext) -> None:
        """Raises UsageError, one line, when the module or the System.map cannot be right for the VM."""
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

    def run(self, log: Path, say: Say) -> int:
        """Boot, load, check, unload; say what was seen. Gives 0 when every kprobe landed and all was well, else 1.

        The guest's console goes to `log`. Raises what the boot raises.
        """
        accelerator = choose(self._image.recipe.architecture, None)
        deadline = Deadline.after(self._image.recipe.machine.boot_seconds)
        guest = boot(self._image, StartOptions(log, RunKeys.make(), accelerator, self._bus, deadline))
        with guest:
            checkup.begin(guest)
            wrongs = [*self._live(guest, say), *_after(guest)]
        for wrong in wrongs:
            say(f"{self._name}: {wrong}")
        if wrongs:
            say(f"(the whole console: {log})")
        return _MISSED if wrongs else _HELD

    def _live(self, guest: Guest, say: Say) -> list[str]:
        """One life of the module; what was wrong with it."""
        try:
            life = Life(guest, self._name, self._names)
        except GuestLost:
            return []  # the check-up finds the same, and the kernel's words
        except GuestError as error:
            return [error.what]
        if life.landings:
            say(table(life.landings))
        missed = [landing for landing in life.landings if landing.complaint]
        for landing in missed:
            say(f"\n{landing.site}: {landing.complaint}\n\n{landing.table()}")
        found = [f"{len(missed)} of {len(life.landings)} kprobes did not land"] if missed else []
        return [*found, *life.wrongs]


def _after(guest: Guest) -> list[str]:
    """What the kernel complained of, or what is left of the module."""
    try:
        checkup.end(guest)
    except LeftBehind as left:
        return [str(left).replace("the cell", "the module")]
    except KernelComplained as complained:
        return _words(complained)
    except GuestError as lost:
        return _words(checkup.last_words(guest, lost))
    return []


def _words(error: Exception) -> list[str]:
    """The kernel's own words: the first lines of its first complaint, which others follow from."""
    if not isinstance(error, KernelComplained):
        return [str(error)]
    first = error.complaints[0]
    return [f"the kernel complained: {first}", *(f"    {line.strip()}" for line in first.lines[:_SHOWN_LINES])]


def table(landings: Iterable[Landing]) -> str:
    """One line for each kprobe: where it is, what that means, what memory has there, whether it landed."""
    rows = [("kprobe", "address", "means", "memory", "verdict")]
    for landing in landings:
        said = {each.witness: each for each in landing.statements}
        address = said["listed"].address
        where = "-" if address is None else f"{address:#x}"
        means = "-" if address is None else landing.meaning(address)
        seen = said["outside"].detail if "outside" in said else "-"
        rows.append((str(landing.site), where, means, seen, "missed" if landing.complaint else "landed"))
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    return "\n".join(
        "  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[4]]).rstrip()
        for row in rows
    )
