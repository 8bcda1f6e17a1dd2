"""A file whose code is probed in user space: its symbols, and where in the file each of them is.

A uprobe is registered by inode and offset into the file, so that an address of the ELF file is converted by the segment
that holds it: file offset = address - segment's address + segment's offset.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from harness.core.architecture import Decoder
from harness.core.elf import Elf, Symbol
from harness.core.errors import GuestError, PinpointError
from harness.core.files import sha256
from harness.guest.guest import Guest
from harness.guest.identity import build_id
from harness.landing.code.instruction import Flow
from harness.landing.code.instructions import boundaries, decoded_first, inside, straight
from harness.landing.site import Site
from harness.userspace.debug_files import symbols_of

DIRECTORY = "user"


@dataclass(frozen=True)
class UserFile:
    """One file in a guest: `name` is the program's or the DSO's, `path` where the guest has it, `local` our copy."""

    guest: Guest
    name: str
    path: str
    local: Path

    @classmethod
    def built(cls, guest: Guest, variant: str, name: str) -> UserFile:
        """A target file in one of its builds (harness/images/user_targets.py), put into the guest if need be."""
        program = f"{DIRECTORY}/{variant}/{name}"
        if program not in guest.image.programs:
            raise GuestError(
                f"its image has no {program}", where=guest.name, mend="the recipe's trait uprobes builds it"
            )
        return cls(guest, name, guest.program(program), guest.image.programs[program])

    @cached_property
    def elf(self) -> Elf:
        """The file itself."""
        return Elf.kept(self.local)

    @cached_property
    def table(self) -> Elf:
        """The file with the symbols: itself, or where it was stripped its separate one."""
        return symbols_of(self.local)

    @cached_property
    def content(self) -> bytes:
        """All its bytes."""
        return self.local.read_bytes()

    @cached_property
    def digest(self) -> str:
        """SHA-256 of all its bytes, in hex."""
        return sha256(self.local)

    def moved_to(self, path: str) -> UserFile:
        """The same file at another path of the guest."""
        return replace(self, path=path)

    def build_id_in_guest(self) -> str:
        """The build-id of the file that has the path in the guest now, in hex, "" where our build has its note."""
        note = self.elf.sections[".note.gnu.build-id"]
        words = ("dd", f"if={self.path}", "bs=1", f"skip={note.offset}", f"count={note.size}")
        return build_id(self.guest.run(*words).check().out)

    @property
    def decoder(self) -> Decoder:
        """How instruction boundaries are found."""
        return self.guest.architecture.kprobes.decoder

    def site(self, symbol: str, offset: int = 0) -> Site:
        """A site in one of its functions."""
        return Site(symbol, offset, module=self.name)

    def symbol(self, site: Site) -> Symbol:
        """The function that a site names. Raises PinpointError when there is none, or several at several addresses."""
        named = self.table.named(site.symbol)
        if any(each.kind == "ifunc" for each in named):
            mend = "name the implementation that its resolver chooses"
            raise PinpointError(
                f"{site.symbol!r} is an IFUNC: its address is its resolver's", where=self.name, mend=mend
            )
        found = [each for each in named if each.kind == "func"]
        if len({each.address for each in found}) != 1:
            raise PinpointError(f"{len(found)} functions are named {site.symbol!r}", where=str(self.local))
        return found[0]

    @cached_property
    def functions(self) -> list[Symbol]:
        """The functions that the target's source has, each name once, in the order of their addresses."""
        found = {each.name: each for each in self.table.symbols if each.kind == "func" and each.section}
        ours = (each for each in found.values() if each.name.startswith("pinpoint_") and "@" not in each.name)
        return sorted(ours, key=lambda symbol: symbol.address)

    def offset(self, site: Site) -> int:
        """Where in the file a site is, by the symbol table and the segments."""
        return self.elf.file_offset(self.symbol(site).address + site.offset)

    def straight(self, site: Site, count: int | None = None) -> list[Site]:
        """The site's function at its entry and at inner boundaries that run exactly once a call."""
        offsets = straight(self._coded, self.symbol(site), self.decoder)[:count]
        if len(offsets) < (count or 1):
            raise GuestError(f"{site} has only {len(offsets)} boundaries in a straight line", where=self.guest.name)
        return [site.at(offset) for offset in offsets]

    def following(self, site: Site) -> Site:
        """The site one instruction on; behind the function's last one, its end."""
        symbol = self.symbol(site)
        later = (offset for offset in boundaries(self._coded, symbol, self.decoder) if offset > site.offset)
        return site.at(next(later, symbol.size))

    def mid_instruction(self, site: Site) -> list[Site]:
        """The site's function at every offset that is inside an instruction."""
        return [site.at(offset) for offset in inside(self._coded, self.symbol(site), self.decoder)]

    def decodable_inside(self, symbol: str) -> Site:
        """A place inside an instruction of a function at which some instruction can be decoded, if there is any.

        The kernel refuses bytes that mean no instruction, or one that it cannot step, whatever the boundaries are.
        """
        sites = self.mid_instruction(self.site(symbol))
        code = self.elf.code(self.symbol(sites[0]))
        plain = (site for site in sites if _plain(code[site.offset :], self.decoder))
        return next(plain, sites[0])

    @property
    def _coded(self) -> Elf:
        """A file whose sections have both the symbols' numbers and the code; a separate symbol table has no code."""
        return self.elf

    def meaning(self, offset: int) -> str:
        """The function that an offset into the file is in, as `symbol+0xoff`; the offset where there is none."""
        for symbol in self.functions:
            start = self.elf.file_offset(symbol.address)
            if start <= offset < start + symbol.size:
                return f"{symbol.name}+{offset - start:#x}"
        return f"file offset {offset:#x}"

    @property
    def executable_pages(self) -> list[int]:
        """The offsets of the pages, of 4096 bytes, that executable segments have in the file."""
        return [page for start, size in self.elf.executable_spans for page in range(start & -4096, start + size, 4096)]


def _plain(code: bytes, decoder: Decoder) -> bool:
    first = decoded_first(code, decoder)
    return first is not None and first.flow is Flow.PLAIN
