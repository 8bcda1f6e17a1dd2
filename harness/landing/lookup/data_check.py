"""Read data inside and outside the guest; compare its address by all witnesses and its value."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from functools import partial

from harness.guest.memory import UnmappedError
from harness.landing import data
from harness.landing.data import Datum
from harness.landing.landing import Landing, Missed
from harness.landing.layout import Layout
from harness.landing.lookup import data_module
from harness.landing.lookup.data_module import Answer, Question
from harness.landing.mutants import HONEST, Mutant
from harness.landing.site import Site
from harness.landing.witness import Statement

Holds = Callable[[bytes], bool]
"""Whether these bytes are what a datum must hold."""


class Readings:
    """Data of one guest, as cases read it."""

    def __init__(self, layout: Layout, mutant: Mutant = HONEST) -> None:
        self.layout = layout
        self.guest = layout.guest
        self.mutant = mutant
        self.word_bytes = layout.kernel.word_bytes
        self._order = layout.kernel.byte_order

    def encoded(self, value: int, size: int) -> bytes:
        """A number as the guest's memory has it."""
        return value.to_bytes(size, self._order)

    def points_to(self, known: bytes, within: int = 0) -> Holds:
        """For a pointer: it leads to `known`, or to `within` bytes that contain it; one that leads nowhere does not."""

        def leads(content: bytes) -> bool:
            address, size = int.from_bytes(content, self._order), within or len(known)
            inside = data_module.ask(self.guest, [Question(address, size)])[0].content
            return known in inside and known in self.guest.memory.read(address, size)

        return leads

    def prove(self, datum: Datum, known: bytes | Holds) -> None:
        """Everyone finds the datum at one address, and read inside and outside it is what is known of it.

        Raises Missed with the witness table.
        """
        holds = known if callable(known) else partial(operator.eq, known)
        landing = Landing(
            site=Site(datum.symbol, datum.offset, module=datum.module),
            statements=self._statements(datum, holds),
            hits=0,
            meaning=self.layout.meaning,
        )
        if landing.complaint:
            raise Missed(f"{datum}: {landing.complaint}\n\n{landing.table()}")

    def _statements(self, datum: Datum, holds: Holds) -> Sequence[Statement]:
        address = (self.mutant.places or data.by_elf)(self.layout, datum)
        place = address + datum.size if self.mutant.reads_beyond else address
        named, read = data_module.ask(self.guest, [Question(address), Question(place, datum.size, datum.cpu)])
        outside = self._outside(self._copy(datum, place, read), datum.size)
        return (
            Statement("elf", address),
            data.by_kallsyms(self.layout, datum),
            data.by_closest(self.layout, datum, address, named.symbol),
            data.by_module(self.layout, datum),
            _by_value("inside", address, read.content, holds),
            _by_value("outside", address, outside, holds),
        )

    def _outside(self, address: int, size: int) -> bytes:
        """Guest memory; nothing where no CPU has an address for it, as behind a module's text since 6.4."""
        try:
            return self.guest.memory.read(address, size)
        except UnmappedError:
            return b""

    def _copy(self, datum: Datum, place: int, read: Answer) -> int:
        """Address of a CPU's copy, from the kernel's table as QEMU sees it; without a table, the kernel's answer."""
        table = self.layout.kernel.named("__per_cpu_offset")
        if datum.cpu is None or not table:
            return read.address
        entry = table[0].address + self.layout.slide + datum.cpu * self.word_bytes
        offset = int.from_bytes(self.guest.memory.read(entry, self.word_bytes), self._order)
        return (place + offset) % (1 << 8 * self.word_bytes)


def _by_value(side: str, address: int, content: bytes, holds: Holds) -> Statement:
    """A read that finds the expected value also confirms the address."""
    if holds(content):
        return Statement(side, address, code=content)
    return Statement(side, None, f"no such value there: {content.hex()}", contradicts=True)
