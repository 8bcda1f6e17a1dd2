"""A file whose code is probed in user space: its symbols, and the offset of each in the file.

A uprobe is registered by inode and offset into the file. An address of the ELF file is therefore converted by means of
the segment that holds it: file offset = address - segment's address + segment's offset.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from harness.core.architecture import DecoderKind
from harness.core.elf import Elf, Symbol
from harness.core.errors import GuestError, PinpointError
from harness.core.files import sha256
from harness.guest.booted_kernel_check import build_id
from harness.guest.guest import Guest
from harness.landing.code.instruction import Flow
from harness.landing.code.instructions import (
    decode_first_instruction,
    instruction_boundaries,
    offsets_inside_instructions,
    once_per_call_boundaries,
)
from harness.landing.site import Site
from harness.userspace.debug_files import DebugFileLookup, elf_with_code_and_symbols, find_elf_with_symbols

DIRECTORY = "user"


@dataclass(frozen=True)
class UserFile:
    """One file in a guest.

    `name` is the name of the program or DSO, `guest_path` its path in the guest, `host_path` the copy on the host.
    """

    guest: Guest
    name: str
    guest_path: str
    host_path: Path
    symbols_by: DebugFileLookup = DebugFileLookup.ANY

    @classmethod
    def copy_build_to_guest(
        cls, guest: Guest, variant: str, name: str, symbols_by: DebugFileLookup = DebugFileLookup.ANY
    ) -> UserFile:
        """A target file in one of its builds (harness/images/user_targets.py), copied into the guest if missing."""
        program = f"{DIRECTORY}/{variant}/{name}"
        if program not in guest.image.programs:
            raise GuestError(
                f"its image has no {program}", where=guest.name, mend="the recipe's trait uprobes builds it"
            )
        return cls(guest, name, guest.copy_program(program), guest.image.programs[program], symbols_by)

    @cached_property
    def elf(self) -> Elf:
        """The file itself."""
        return Elf.read_cached(self.host_path)

    @cached_property
    def symbol_file(self) -> Elf:
        """The file that has the symbols: the file itself, or its separate debug file if it was stripped."""
        return find_elf_with_symbols(self.host_path, self.symbols_by)

    @cached_property
    def content(self) -> bytes:
        """The whole content of the file."""
        return self.host_path.read_bytes()

    @cached_property
    def sha256(self) -> str:
        """SHA-256 of the whole file, in hex."""
        return sha256(self.host_path)

    def at_path(self, path: str) -> UserFile:
        """The same file at another path of the guest."""
        return replace(self, guest_path=path)

    def build_id_in_guest(self) -> str:
        """The build-id, in hex, of the file that is at the path in the guest now.

        It is read at the file offset where our build has its build-id note; "" if there is none.
        """
        note = self.elf.sections_by_name[".note.gnu.build-id"]
        words = ("dd", f"if={self.guest_path}", "bs=1", f"skip={note.offset}", f"count={note.size}")
        return build_id(self.guest.run(*words).check().out)

    @property
    def decoder(self) -> DecoderKind:
        """The decoder that finds instruction boundaries in the file. Raises GuestError when there is none."""
        architecture = self.guest.architecture
        narrow = architecture.compat_programs
        if narrow is None or self.elf.machine != narrow.elf_machine:
            return architecture.kprobe_traits.decoder
        if narrow.decoder is None:
            raise GuestError(f"nothing decodes the code of {narrow.elf_machine}", where=self.guest.name)
        return narrow.decoder

    def site(self, symbol: str, offset: int = 0) -> Site:
        """A site in one of the file's functions."""
        return Site(symbol, offset, module=self.name)

    def symbol_of_site(self, site: Site) -> Symbol:
        """The function that a site names.

        Raises PinpointError when there is no such function, when there are several at different addresses, and for an
        IFUNC.
        """
        named = self.symbol_file.symbols_named(site.symbol)
        if any(each.kind == "ifunc" for each in named):
            mend = "name the implementation that its resolver chooses"
            raise PinpointError(
                f"{site.symbol!r} is an IFUNC: its address is its resolver's", where=self.name, mend=mend
            )
        found = [each for each in named if each.kind == "func"]
        if len({each.address for each in found}) != 1:
            raise PinpointError(f"{len(found)} functions are named {site.symbol!r}", where=str(self.host_path))
        return found[0]

    @cached_property
    def functions_of_target_source(self) -> list[Symbol]:
        """The functions of the target's source, each name once, in the order of their addresses."""
        found = {each.name: each for each in self.symbol_file.symbols if each.kind == "func" and each.section}
        ours = (each for each in found.values() if each.name.startswith("pinpoint_") and "@" not in each.name)
        return sorted(ours, key=lambda symbol: symbol.address)

    def offset_of_site(self, site: Site) -> int:
        """The offset of a site in the file, by the symbol table and the segments."""
        return self.elf.file_offset(self.symbol_of_site(site).address + site.offset)

    def variable_offset(self, name: str) -> int:
        """Where in the file the one variable of that name is. Raises PinpointError."""
        found = self.symbol_file.symbols_named(name)
        if len(found) != 1:
            raise PinpointError(f"{len(found)} symbols are named {name!r}", where=str(self.host_path))
        return self.elf.file_offset(found[0].address)

    def once_per_call_sites(self, site: Site, count: int | None = None) -> list[Site]:
        """Sites at the entry of the site's function and at the inner boundaries that run exactly once a call."""
        offsets = once_per_call_boundaries(self._coded, self.symbol_of_site(site), self.decoder)[:count]
        if len(offsets) < (count or 1):
            raise GuestError(f"{site} has only {len(offsets)} boundaries in a straight line", where=self.guest.name)
        return [site.at_offset(offset) for offset in offsets]

    def next_instruction_site(self, site: Site) -> Site:
        """The site at the next instruction; after the function's last instruction, the site at its end."""
        symbol = self.symbol_of_site(site)
        later = (offset for offset in instruction_boundaries(self._coded, symbol, self.decoder) if offset > site.offset)
        return site.at_offset(next(later, symbol.size))

    def mid_instruction_sites(self, site: Site) -> list[Site]:
        """Sites at every offset of the site's function that is inside an instruction."""
        return [
            site.at_offset(offset)
            for offset in offsets_inside_instructions(self._coded, self.symbol_of_site(site), self.decoder)
        ]

    def decodable_site_inside_instruction(self, symbol: str) -> Site:
        """A site inside an instruction of a function whose bytes can be decoded as an instruction, if there is any.

        The kernel refuses an offset, on a boundary or not, if its bytes are no instruction or one that the kernel
        cannot step. If no offset can be decoded, the first offset inside an instruction is returned.
        """
        sites = self.mid_instruction_sites(self.site(symbol))
        code = self.elf.function_bytes(self.symbol_of_site(sites[0]))
        plain = (site for site in sites if _plain(code[site.offset :], self.decoder))
        return next(plain, sites[0])

    @cached_property
    def _coded(self) -> Elf:
        """The file with code and symbols. A stripped file has only the code, and its debug file only the symbols."""
        return elf_with_code_and_symbols(self.host_path, self.symbol_file)

    def describe_offset(self, offset: int) -> str:
        """The function at an offset into the file, as `symbol+0xoff`; `file offset 0xoff` if there is none."""
        for symbol in self.functions_of_target_source:
            start = self.elf.file_offset(symbol.address)
            if start <= offset < start + symbol.size:
                return f"{symbol.name}+{offset - start:#x}"
        return f"file offset {offset:#x}"

    @property
    def executable_page_offsets(self) -> list[int]:
        """The file offsets of the pages, 4096 bytes each, of the executable segments."""
        return [
            page
            for start, size in self.elf.executable_file_offsets_and_sizes
            for page in range(start & -4096, start + size, 4096)
        ]


def _plain(code: bytes, decoder: DecoderKind) -> bool:
    first = decode_first_instruction(code, decoder)
    return first is not None and first.flow is Flow.PLAIN
