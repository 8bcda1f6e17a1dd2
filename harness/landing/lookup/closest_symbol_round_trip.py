"""Converts an address to closest symbol + offset and back: by the ELF files, by the kernel, by real kprobes."""

from __future__ import annotations

import errno
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from harness.core.elf import Symbol
from harness.landing import probe_module
from harness.landing.code.closest_symbol import KernelSymbolOffset, SymbolOffset, parse_symbol_offset
from harness.landing.code.function_selection import evenly_spread
from harness.landing.landing_judgment import Missed
from harness.landing.layout import Layout
from harness.landing.lookup import data_module
from harness.landing.lookup.data_module import AddressReadRequest
from harness.landing.mutants import HONEST, Mutant
from harness.landing.probe_module import ProbeModuleRequest, SiteReport
from harness.landing.site import Site

# The kernel resolves the sites but writes no breakpoints, so that many sites cost no more than a few armed ones.
_ONLY_RESOLVE = ["disabled=1"]
# Each site is passed in two forms; this many sites fit into one argument of insmod (MAX_ARG_STRLEN).
_AT_ONCE = 800
_OF_A_MUTANT = 16
# The part of the functions of shared names that must take a probe. Of those of four kernels more than 95 % do.
FEWEST_PROBED = 0.8


RefusalCheck = Callable[[Site, int, SiteReport], bool]
"""A function that returns True if the report has the address, or a refusal that the kernel documents for it."""


def request_by_address(layout: Layout, sites: Sequence[Site]) -> ProbeModuleRequest:
    """Request probes by address only; such a kprobe has no symbol_name."""
    return ProbeModuleRequest([f"@{layout.address_to_request(site):#x}" for site in sites])


@dataclass(frozen=True)
class Conversion:
    """The result of converting one address.

    - `elf_symbol` and `kernel_symbol` are the closest symbol + offset by the ELF files and by the kernel
      (sprint_symbol()).
    - `report_by_address` reports a kprobe registered on the bare address, `report_by_symbol` one on the kernel's symbol
      + offset.
    - `listed_symbol` is the symbol + offset that kprobes/list has for the kprobe of `report_by_address`.
    - `probe_address` is the address where both kprobes must be by the ELF files: after the landing pad, if it is an
      entry.
    """

    address: int
    probe_address: int
    elf_symbol: SymbolOffset | None
    kernel_symbol: KernelSymbolOffset
    report_by_address: SiteReport
    report_by_symbol: SiteReport
    listed_symbol: KernelSymbolOffset | None

    @property
    def is_registered_by_address(self) -> bool:
        """True if the kernel accepted the kprobe on the bare address."""
        return not self.report_by_address.errno

    @property
    def complaint(self) -> str:
        """Why the conversion failed; empty if the way there and back leads to the same place."""
        if not self.kernel_symbol.is_same_place(self.elf_symbol):
            return "the ELF files and the kernel find different symbols"
        if self.report_by_address.errno != self.report_by_symbol.errno:
            return "by address and by symbol, the kernel returned different errnos"
        if not self.is_registered_by_address:
            return ""
        if {self.report_by_address.address, self.report_by_symbol.address} != {self.probe_address}:
            return "not registered at the requested place"
        moved = self.kernel_symbol._replace(offset=self.kernel_symbol.offset + self.probe_address - self.address)
        if self.listed_symbol != moved:
            return "kprobes/list has another symbol for it"
        return ""

    def __str__(self) -> str:
        rows = (
            f"address                    {self.address:#x}, a probe on it must be at {self.probe_address:#x}",
            f"closest in the ELF files   {self.elf_symbol}",
            f"closest in the kernel      {self.kernel_symbol}",
            f"requested by address       {_outcome(self.report_by_address)}",
            f"requested by symbol        {_outcome(self.report_by_symbol)}",
            f"listed as                  {self.listed_symbol}",
        )
        return "\n".join(rows)


def _outcome(report: SiteReport) -> str:
    where = errno.errorcode.get(report.errno, str(report.errno)) if report.errno else f"{report.address:#x}"
    return f"{where} for {report.spec}"


class AddressConverter:
    """Conversions in one guest: the fixture that cases use."""

    def __init__(self, layout: Layout, mutant: Mutant = HONEST) -> None:
        self.layout = layout
        self.guest = layout.guest
        self.mutant = mutant

    def prove_round_trip(self, sites: Sequence[Site]) -> list[Conversion]:
        """Convert the address of every site to symbol + offset and back. Raises Missed with the first disagreement.

        A mutant is tried on a few of the sites; more would prove nothing more.
        """
        sites = sites if self.mutant is HONEST else evenly_spread(sites, _OF_A_MUTANT)
        starts = [self.layout.address_to_request(site) for site in sites]
        found = self._all(starts, [self.layout.probe_address(site) for site in sites])
        wrong = [conversion for conversion in found if conversion.complaint]
        if wrong:
            raise Missed(f"{len(wrong)} of {len(found)} addresses: {wrong[0].complaint}\n\n{wrong[0]}")
        return found

    def prove_no_way_back(self, symbols: Sequence[Symbol], is_explained: RefusalCheck) -> int:
        """Convert the entries of functions whose names other functions have. Raises Missed with the first disagreement.

        By its address each is probed at that address, and the kernel names it right. By that name the kernel finds
        another function; symbols whose entry is at another offset than that function's are left out. Either probe may
        be refused if `is_explained` returns True, but most are not. Returns how many are probed at their own address.
        """
        symbols = [symbol for symbol in symbols if self._entry(symbol) == self._entry_by_name(symbol)]
        symbols = symbols if self.mutant is HONEST else evenly_spread(symbols, _OF_A_MUTANT)
        pads = [self.layout.landing_pad_size_of(self.layout.kernel, symbol) for symbol in symbols]
        starts = [self.layout.symbol_address(symbol, "") + self._entry(symbol) for symbol in symbols]
        lands = [start + pad for start, pad in zip(starts, pads, strict=True)]
        probed = 0
        for symbol, found in zip(symbols, self._all(starts, lands), strict=True):
            site = Site(symbol.name, self._entry(symbol))
            first = self.layout.probe_address(site)
            by_address, by_name = found.report_by_address, found.report_by_symbol
            here = found.kernel_symbol.offset == site.offset and is_explained(site, found.probe_address, by_address)
            if not here or symbol.name not in (found.elf_symbol.names if found.elf_symbol else ()):
                raise Missed(f"{symbol.name}: not probed at its address\n\n{found}")
            if found.kernel_symbol.name == symbol.name and not is_explained(site, first, by_name):
                raise Missed(f"{symbol.name}: by name not probed at {first:#x}, the lowest\n\n{found}")
            probed += found.is_registered_by_address
        if probed < FEWEST_PROBED * len(symbols):
            raise Missed(f"only {probed} of {len(symbols)} functions are probed by address")
        return probed

    def _entry(self, symbol: Symbol) -> int:
        return self.layout.entry_offset(self.layout.kernel, symbol)

    def _entry_by_name(self, symbol: Symbol) -> int:
        return self.layout.entry_site(Site(symbol.name)).offset

    def convert_address(self, address: int) -> Conversion:
        """Convert any address except an entry with a landing pad."""
        return self._all([address], [address])[0]

    def _all(self, addresses: Sequence[int], landings: Sequence[int]) -> list[Conversion]:
        found: list[Conversion] = []
        for start in range(0, len(addresses), _AT_ONCE):
            batch = slice(start, start + _AT_ONCE)
            found += self._convert(addresses[batch], landings[batch])
        return found

    def _convert(self, addresses: Sequence[int], landings: Sequence[int]) -> list[Conversion]:
        answers = data_module.read_data(self.guest, [AddressReadRequest(address) for address in addresses])
        kernel = [self._known(address, answer.symbol) for address, answer in zip(addresses, answers, strict=True)]
        specs = [*(f"@{address:#x}" for address in addresses), *map(self._spec, kernel)]
        view = probe_module.load_probe_module(self.guest, specs, _ONLY_RESOLVE)
        probe_module.unload_probe_module(self.guest)
        places = ((each.address, parse_symbol_offset(each.symbol_offset)) for each in view.listed_probes)
        listed = {address: place.named_as_in(self.layout.kernel) for address, place in places if place}
        count = len(addresses)
        return [
            Conversion(
                address=address,
                probe_address=lands,
                elf_symbol=self.layout.closest_symbols.symbol_offset_at(address),
                kernel_symbol=symbol,
                report_by_address=unnamed,
                report_by_symbol=named,
                listed_symbol=listed.get(unnamed.address),
            )
            for address, lands, symbol, unnamed, named in zip(
                addresses, landings, kernel, view.reports[:count], view.reports[count:], strict=True
            )
        ]

    def _spec(self, symbol: KernelSymbolOffset) -> str:
        return Site(symbol.name, symbol.offset + self.mutant.converted_offset_error, module=symbol.module).spec

    def _known(self, address: int, symbol: KernelSymbolOffset | None) -> KernelSymbolOffset:
        if symbol is None:
            raise Missed(f"the kernel finds no symbol at or below {address:#x}")
        return symbol.named_as_in(self.layout.kernel)
