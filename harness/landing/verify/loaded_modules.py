"""The modules that are loaded in a guest, each with its ELF file where one is at hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from harness.core.elf import Elf
from harness.core.errors import GuestError, PinpointError
from harness.guest.guest import Guest
from harness.landing.code import arm64_module_plt

_PAGE = 4096
_NOT_CODE = (".init", ".exit.text")


class _Listed(NamedTuple):
    """A line of /proc/modules."""

    name: str
    base: int
    size: int


@dataclass(frozen=True)
class LoadedModule:
    """One loaded module.

    `base` and `size` are what /proc/modules shows; `sections` are loaded addresses by section name, empty where sysfs
    has none; `missing_reason` says in one line why the module's probes cannot be compared with a file, empty where they
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

    def code_sections(self) -> list[tuple[str, int, int]]:
        """Name, loaded address and size of each section of code that stays after initialization."""
        if self.elf is None:
            return []
        own = self.elf.sections
        return [
            (name, start, self._size(name, start))
            for name, start in self.sections.items()
            if name in own and own[name].executable and own[name].size and not name.startswith(_NOT_CODE)
        ]

    def _size(self, name: str, start: int) -> int:
        """Return a section's size in memory: of one that the loader fills all that it may be, up to the next one."""
        assert self.elf is not None
        if name not in arm64_module_plt.loader_filled_sections(self.elf):
            return self.elf.sections[name].size
        end = min((other for other in self.sections.values() if other > start), default=start + _PAGE)
        return min(arm64_module_plt.largest_section_size(self.elf, name), end - start)


class LoadedModuleFinder:
    """Looks modules up in a guest; `files` are the ELF files at hand, by module name."""

    def __init__(self, guest: Guest, files: Mapping[str, Path]) -> None:
        self._guest = guest
        self.files = dict(files)
        self._known: dict[_Listed, LoadedModule] = {}

    def find_loaded_modules(self, listing: str) -> dict[str, LoadedModule]:
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
        steps = [
            f"echo :{name}; grep -sH '' {own}/sections/* {own}/sections/.[!.]*;"
            f" echo :; [ ! -e {own}/notes/.note.gnu.build-id ] || od -An -v -tx1 {own}/notes/.note.gnu.build-id"
            for name, own in ((name, f"/sys/module/{name}") for name in names)
        ]
        answers: dict[str, tuple[dict[str, int], str]] = {}
        name, notes = "", False
        for line in self._guest.run_script("\n".join([*steps, "true"])).stdout.splitlines():
            if line == ":":
                notes = True
            elif line.startswith(":"):
                name, notes = line[1:], False
                answers[name] = ({}, "")
            elif notes:
                answers[name] = (answers[name][0], answers[name][1] + "".join(line.split()))
            elif name:
                path, _, address = line.rpartition(":")
                answers[name][0][path.rpartition("/")[2]] = _address(address, path)
        # An ELF note: three words of header, the owner GNU and its zero, then the build-id.
        return {name: (sections, note[32:]) for name, (sections, note) in answers.items()}

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
