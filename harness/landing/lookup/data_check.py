"""Reads data inside and outside the guest, and compares its value, and its address by all witnesses."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from functools import partial

from harness.core.errors import UnmappedError
from harness.landing.five_address_witnesses import Statement
from harness.landing.landing_judgment import Landing, Missed
from harness.landing.layout import Layout
from harness.landing.lookup import data_module, data_symbol_address
from harness.landing.lookup.data_module import AddressReadRequest, ReadResult
from harness.landing.lookup.data_symbol_address import Datum
from harness.landing.mutants import HONEST, Mutant
from harness.landing.site import Site

ContentTest = Callable[[bytes], bool]
"""A function that returns True if these bytes are the expected value of a datum."""

# The witnesses whose address is the ELF file's.
_OF_ELF_ADDRESS = {"elf", "inside", "outside"}


class DataReader:
    """Reads data of one guest: the fixture that cases use."""

    def __init__(self, layout: Layout, mutant: Mutant = HONEST) -> None:
        self.layout = layout
        self.guest = layout.guest
        self.mutant = mutant
        self.word_bytes = layout.kernel.word_bytes
        self._order = layout.kernel.byte_order

    def encode_number(self, value: int, size: int) -> bytes:
        """The bytes of a number in the guest's byte order."""
        return value.to_bytes(size, self._order)

    def make_pointer_test(self, known: bytes, within: int = 0) -> ContentTest:
        """A test for a pointer: it must point to `known`, or to `within` bytes that contain it.

        It fails for a pointer to memory that cannot be read.
        """

        def leads(content: bytes) -> bool:
            address, size = int.from_bytes(content, self._order), within or len(known)
            inside = data_module.read_data(self.guest, [AddressReadRequest(address, size)])[0].content
            return known in inside and known in self.guest.memory.read(address, size)

        return leads

    def prove_datum(self, datum: Datum, known: bytes | ContentTest) -> None:
        """Check that all witnesses find the datum at one address, with the known value inside and outside.

        `inside` and `outside` read at the ELF file's address, so they confirm the value and not the address: a witness
        other than these three must find the datum. Raises Missed with the witness table.
        """
        self._prove(datum, self._statements(datum, known if callable(known) else partial(operator.eq, known)))

    def prove_datum_of_code(self, datum: Datum, known: bytes) -> None:
        """As `prove_datum`, for a module's datum, without a module that reads it: the module's code writes the datum.

        A kernel that relocates modules wrongly breaks the module that reads, too.
        """
        address = self._address(datum)
        outside = self._outside(address + datum.size if self.mutant.reads_after_datum else address, datum.size)
        statements = (
            Statement("elf", address),
            data_symbol_address.kallsyms_statement(self.layout, datum),
            data_symbol_address.target_parameter_statement(self.layout, datum),
            _by_value("outside", address, outside, partial(operator.eq, known)),
        )
        self._prove(datum, statements)

    def _prove(self, datum: Datum, statements: Sequence[Statement]) -> None:
        landing = Landing(
            site=Site(datum.symbol, datum.offset, module=datum.module),
            statements=statements,
            hits=0,
            describe_address=self.layout.describe_address,
        )
        found = {statement.witness for statement in landing.statements_with_address}
        alone = "" if found - _OF_ELF_ADDRESS else "no witness has an address that is not the ELF file's"
        if complaint := landing.complaint or alone:
            raise Missed(f"{datum}: {complaint}\n\n{landing.format_witness_table()}")

    def _address(self, datum: Datum) -> int:
        """The datum's address by the ELF file, or where the mutant has it."""
        return (self.mutant.compute_datum_address or data_symbol_address.address_by_elf)(self.layout, datum)

    def _statements(self, datum: Datum, holds: ContentTest) -> Sequence[Statement]:
        address = self._address(datum)
        place = address + datum.size if self.mutant.reads_after_datum else address
        named, read = data_module.read_data(
            self.guest, [AddressReadRequest(address), AddressReadRequest(place, datum.size, datum.cpu)]
        )
        outside = self._outside(self._copy(datum, place, read), datum.size)
        return (
            Statement("elf", address),
            data_symbol_address.kallsyms_statement(self.layout, datum),
            data_symbol_address.closest_symbol_statement(self.layout, datum, address, named.symbol),
            data_symbol_address.target_parameter_statement(self.layout, datum),
            self._resolved(datum),
            _by_value("inside", address, read.content, holds),
            _by_value("outside", address, outside, holds),
        )

    def _resolved(self, datum: Datum) -> Statement:
        """The address at which a probe inside the kernel finds the datum by its name alone."""
        if not self.guest.traits.data_symbols:
            return Statement("resolved", None, "the kernel's kallsyms have no data")
        name = f"{datum.module}:{datum.symbol}" if datum.module else datum.symbol
        found = data_module.resolve_symbol(self.guest, name)
        if not found:
            return Statement("resolved", None, f"the kernel does not know {name}", contradicts=True)
        return Statement("resolved", found + datum.offset)

    def _outside(self, address: int, size: int) -> bytes:
        """Guest memory; empty where nothing is mapped, as after a module's text since 6.4."""
        try:
            return self.guest.memory.read(address, size)
        except UnmappedError:
            return b""

    def _copy(self, datum: Datum, place: int, read: ReadResult) -> int:
        """The address of a CPU's copy: from the kernel's table, read through QEMU, or else from the module's answer."""
        table = self.layout.kernel.symbols_named("__per_cpu_offset")
        if datum.cpu is None or not table:
            return read.address
        entry = table[0].address + self.layout.slide + datum.cpu * self.word_bytes
        offset = int.from_bytes(self.guest.memory.read(entry, self.word_bytes), self._order)
        return (place + offset) % (1 << 8 * self.word_bytes)


def _by_value(side: str, address: int, content: bytes, holds: ContentTest) -> Statement:
    """State the address if the expected value was read there, else contradict."""
    if holds(content):
        return Statement(side, address, code=content)
    return Statement(side, None, f"unexpected value there: {content.hex() or '(unreadable)'}", contradicts=True)
