"""The modules that are loaded in a guest, each with its ELF file where one is at hand."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple

from harness.core.elf import Elf
from harness.core.errors import GuestError, PinpointError
from harness.guest.guest import Guest
from harness.landing.code import module_plt

_PAGE = 4096
_CUT = "--pinpoint-cut--"
# An ELF note begins with three words: the sizes of its name and its content, and its type. The name is GNU and a zero.
_NOTE_HEADER, _WORD, _GNU = 12, 4, b"GNU\0"
# The sections that are freed after initialization; sysfs still lists them. The code to leave stays, because all kernels
# here have CONFIG_MODULE_UNLOAD (module_exit_section(), kernel/module/main.c, 6.1).
_FREED = ".init"


class _Listed(NamedTuple):
    """A line of /proc/modules."""

    name: str
    base: int
    size: int


@dataclass(frozen=True)
class LoadedModule:
    """One loaded module.

    `base` and `size` are what /proc/modules shows; `sections` are loaded addresses by section name, empty where sysfs
    has none; `missing_reason` is one line on why the module's probes cannot be compared with a file, empty where they
    can.
    """

    module: str
    base: int
    size: int = 0
    elf: Elf | None = None
    sections: Mapping[str, int] = field(default_factory=dict)
    missing_reason: str = ""

    def contains(self, address: int) -> bool:
        """Is this an address of the module? Since 6.4 its parts stand apart: then only those behind its text do."""
        return self.base <= address < self.base + self.size

    def section_at(self, address: int) -> str:
        """The section of code that an address is in, empty when it is in none of this module's."""
        for name, start, size in self.code_sections():
            if start <= address < start + size:
                return name
        return ""

    def has_data_at(self, address: int) -> bool:
        """Is this an address in a section that stays after initialization? Without a file: in the whole module."""
        if self.elf is None:
            return self.contains(address)
        own = {each.name: each.size for each in self.elf.allocated_sections if not each.name.startswith(_FREED)}
        return any(start <= address < start + own.get(name, 0) for name, start in self.sections.items())

    def code_sections(self) -> list[tuple[str, int, int]]:
        """Name, loaded address and size of each section of code that stays after initialization."""
        if self.elf is None:
            return []
        own = self.elf.sections_by_name
        return [
            (name, start, self._size(name, start))
            for name, start in self.sections.items()
            if name in own and own[name].executable and own[name].size and not name.startswith(_FREED)
        ]

    def _size(self, name: str, start: int) -> int:
        """Return a section's size in memory: of one that the loader fills all that it may be, up to the next one."""
        assert self.elf is not None
        if name not in module_plt.loader_filled_sections(self.elf):
            return self.elf.sections_by_name[name].size
        end = min((other for other in self.sections.values() if other > start), default=start + _PAGE)
        return min(module_plt.largest_section_size(self.elf, name), end - start)


def module_with_code(modules: Iterable[LoadedModule], address: int) -> str:
    """The module that has a function, or on parisc its descriptor, at an address; empty if none has.

    A descriptor is behind the sections of the file. The extent of a module may cover another one's code since 6.4, so
    sections are looked at first.
    """
    several = list(modules)
    exact = (each.module for each in several if each.section_at(address))
    return next(exact, "") or next((each.module for each in several if each.contains(address)), "")


def module_with_data(modules: Iterable[LoadedModule], address: int) -> str:
    """The module that has data at an address; empty if none has."""
    return next((each.module for each in modules if each.has_data_at(address)), "")


class LoadedModuleFinder:
    """Looks modules up in a guest; `files` are the ELF files at hand, by module name."""

    def __init__(self, guest: Guest, files: Mapping[str, Path]) -> None:
        self._guest = guest
        self.files = dict(files)
        self._known: dict[_Listed, LoadedModule] = {}

    def find_modules_in_listing(self, listing: str) -> dict[str, LoadedModule]:
        """The modules of a /proc/modules listing, by name; one round trip when some of them are new."""
        standing = [_listed(line) for line in listing.splitlines()]
        new = [each for each in standing if each not in self._known]
        if new:
            answers = self._ask([each.name for each in new])
            for each in new:
                sections, build_id = answers.get(each.name, ({}, ""))
                self._known[each] = self._compared(each, sections, build_id)
        return {each.name: self._known[each] for each in standing}

    def _ask(self, names: Sequence[str]) -> dict[str, tuple[dict[str, int], str]]:
        """Sections and build-id of each module, as sysfs has them."""
        parts = self._guest.run_script(_question(names)).stdout.split(f"{_CUT}\n")
        if len(parts) != 3:
            raise GuestError("the sections of its modules cannot be read", where=self._guest.name)
        sections: dict[str, dict[str, int]] = {name: {} for name in names}
        for line in parts[0].splitlines():
            path, _, address = line.rpartition(":")
            _, _, _, name, _, section = path.split("/", 5)
            sections[name][section] = _address(address, path)
        build_ids = _build_ids(parts[1].split(), bytes.fromhex("".join(parts[2].split())))
        if build_ids is None:
            # A module was removed since it was listed: each one alone shows which.
            alone = [self._ask([name]) for name in names] if len(names) > 1 else [{names[0]: (sections[names[0]], "")}]
            return {name: answer for each in alone for name, answer in each.items()}
        return {name: (found, build_ids.get(name, "")) for name, found in sections.items()}

    def _compared(self, each: _Listed, sections: Mapping[str, int], build_id: str) -> LoadedModule:
        name, base, size = each
        file = self.files.get(name)
        if file is None:
            return LoadedModule(name, base, size, None, sections, f"no ELF file of the module {name} is at hand")
        try:
            elf = Elf.read_cached(file)
        except PinpointError as error:
            return LoadedModule(name, base, size, None, sections, str(error))
        if not sections:
            twice = ", ".join(sorted(elf.duplicated_section_names))
            why = f"two of its sections are named {twice}" if twice else "the kernel shows none"
            return LoadedModule(name, base, size, elf, {}, f"{name} has no sections/ in sysfs: {why}")
        if build_id and elf.build_id and build_id != elf.build_id:
            return LoadedModule(
                name,
                base,
                size,
                None,
                sections,
                f"the file {file.name} is of another build than the loaded module {name}",
            )
        return LoadedModule(name, base, size, elf, sections)


def _question(names: Sequence[str]) -> str:
    """A script for all modules together, because each program that it starts costs an emulated guest 20 ms."""
    sections = " ".join(f"/sys/module/{name}/sections/{pattern}" for name in names for pattern in ("*", ".[!.]*"))
    note = "/sys/module/$name/notes/.note.gnu.build-id"
    having = f'for name in {" ".join(names)}; do [ ! -e {note} ] || {{ notes="$notes {note}"; echo $name; }}; done'
    content = '[ -z "$notes" ] || cat $notes | od -An -v -tx1'
    return "\n".join([f"grep -sH '' {sections}", f"echo {_CUT}; notes=", having, f"echo {_CUT}", content, "true"])


def _build_ids(names: Sequence[str], notes: bytes) -> dict[str, str] | None:
    """The build-ids in notes that follow each other, by module; None if there are not as many notes as names."""
    found: list[str] = []
    while len(notes) >= _NOTE_HEADER + len(_GNU):
        order: Literal["little", "big"] = "little" if notes[0] else "big"
        size = int.from_bytes(notes[_WORD : 2 * _WORD], order)
        start = _NOTE_HEADER + len(_GNU)
        found.append(notes[start : start + size].hex())
        notes = notes[start + -(-size // _WORD) * _WORD :]
    return None if notes or len(found) != len(names) else dict(zip(names, found, strict=True))


def _listed(line: str) -> _Listed:
    words = line.split()
    try:
        return _Listed(words[0], int(words[5], 16), int(words[1]))
    except (IndexError, ValueError):
        raise GuestError(f"not a line of /proc/modules: {line[:80]!r}") from None


def _address(word: str, path: str) -> int:
    try:
        address = int(word, 16)
    except ValueError:
        raise GuestError(f"{path} has {word[:40]!r}, no address") from None
    if not address:
        raise GuestError(f"{path} shows 0", mend="kptr_restrict must be 0")
    return address
