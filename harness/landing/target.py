"""A target module in a guest: loads it, reads its sections, calls its functions a known number of times, unloads it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Self
from weakref import WeakKeyDictionary

from harness.core.deadline import Deadline
from harness.core.elf import Elf, Symbol
from harness.core.errors import GuestError
from harness.guest.booted_kernel_check import build_id
from harness.guest.guest import Guest
from harness.guest.result import parsing_guest_text
from harness.landing.code.function_selection import filter_functions
from harness.landing.freed_module_addresses import free_addresses_of_removed_modules
from harness.landing.site import Site

_loaded: WeakKeyDictionary[Guest, dict[str, Target]] = WeakKeyDictionary()

# The section of struct module: its address is the module's handle, and its file in sysfs is what a loader opens.
HANDLE_SECTION = ".gnu.linkonce.this_module"
# The functions that the kernel exports, `call_for_checksum` calls, and an idle guest does not call.
KERNEL_FUNCTIONS = ("clock_t_to_jiffies", "hex_to_bin")


def loaded_targets(guest: Guest) -> list[Target]:
    """The targets that the harness has loaded in a guest; the guest is not queried."""
    return list(_loaded.get(guest, {}).values())


class Target:
    """One target module.

    `build` is the name of its file in the image or in the own tree; the other build of `pinpoint_target` is
    `rebuilt/pinpoint_target`. `file` is the module's file if neither has it. `sections` holds the load addresses of its
    sections, by name. `previous` holds those of the previous instance, and is empty in the first. `build_id` is in hex,
    read from the loaded module.
    """

    sections: Mapping[str, int]
    build_id: str

    def __init__(self, guest: Guest, build: str, file: Path | None = None) -> None:
        self.guest = guest
        self.build = build
        self.module = build.rpartition("/")[2]
        self._file = file
        self.elf = Elf.read_cached(file or guest.image.module(build))
        self.previous: Mapping[str, int] = {}

    def __enter__(self) -> Self:
        self.load()
        return self

    def __exit__(self, *_: object) -> None:
        self.unload()

    def load(self) -> None:
        """Load the module and read its build-id and section addresses, in one round trip.

        Raises GuestError if the kernel refuses to load it.
        """
        free_addresses_of_removed_modules(self.guest)
        path = self._copy_to_guest()
        # The shell's `read` cannot be used: it reads one byte at a time, and the file returns EINVAL for the second.
        own = f"/sys/module/{self.module}"
        listing = f"grep -sH '' {own}/sections/* {own}/sections/.[!.]*"
        steps = f"insmod {path} && {{ {listing}; echo; cat {own}/notes/.note.gnu.build-id; }}"
        listing_out, _, notes = self.guest.run_script(steps, in_place=True).check().out.partition(b"\n\n")
        self.previous = getattr(self, "sections", {})
        self.sections = self._parsed(listing_out.decode(errors="replace"))
        self.build_id = build_id(notes)
        _loaded.setdefault(self.guest, {})[self.module] = self

    def _copy_to_guest(self) -> str:
        """Copy the module's file into the guest, unless it is there; return its path there."""
        if self._file is None:
            return self.guest.copy_module(self.build)
        path = f"/tmp/{self.module}.ko"
        self.guest.put(self._file, path)
        return path

    def unload(self) -> None:
        """Unload the module. Raises GuestError if the kernel refuses."""
        self.guest.run("rmmod", self.module).check()
        _loaded.get(self.guest, {}).pop(self.module, None)

    @parsing_guest_text("the list of a module's sections")
    def _parsed(self, listing: str) -> Mapping[str, int]:
        """Map section names to load addresses, from lines `NAME:0xADDRESS` where NAME may have a path.

        The kernel lists no empty sections. With `kptr_restrict` it shows 0 instead of an address (module_sect_read(),
        kernel/module/sysfs.c, 6.1); this raises GuestError.
        """
        found = {}
        for line in listing.splitlines():
            path, _, address = line.rpartition(":")
            name = path.rpartition("/")[2]
            if int(address, 16) == 0:
                raise GuestError(f"section {name} of {self.module} shows as 0", mend="kptr_restrict must be 0")
            found[name] = int(address, 16)
        return found

    @property
    def struct_module_address(self) -> int:
        """The address of its struct module."""
        return self.sections[HANDLE_SECTION]

    @property
    def lasting_sections(self) -> set[str]:
        """The sections that stay loaded; sysfs still lists those of the initializer after they are freed."""
        return {name for name in self.sections if not name.startswith(".init")}

    @property
    def lasting_text_sections(self) -> set[str]:
        """The executable sections among the lasting ones."""
        sections = self.elf.sections_by_name
        return {name for name in self.lasting_sections if name in sections and sections[name].executable}

    def functions(
        self,
        sections: Collection[str] | None = None,
        *,
        unique: bool = False,
        preambles: bool = True,
        empty: bool = True,
    ) -> list[Symbol]:
        """Return the module's functions; `filter_functions` describes the filters.

        `sections` is None for every section of the file, or `lasting` or `lasting_text` for those that stay loaded.
        """
        return filter_functions(self.elf, sections, unique=unique, preambles=preambles, empty=empty)

    @property
    def functions_named_once(self) -> list[Symbol]:
        """The functions, in any section, that symbol + offset names unambiguously."""
        return self.functions(unique=True, preambles=False)

    def shape_site(self, shape: str, offset: int = 0, *, plain: bool = False) -> Site:
        """A site in the module's function `pinpoint_<shape>`."""
        return Site(f"pinpoint_{shape}", offset, module=self.module, omits_module=plain)

    def function_site(self, function: str, offset: int = 0) -> Site:
        """A site in a function of the module, by its whole name."""
        return Site(function, offset, module=self.module)

    def call_for_checksum(self, shape: str, times: int = 1, deadline: Deadline | None = None) -> str:
        """Call a function of the module exactly `times` times; returns the checksum of its results."""
        script = f"echo {shape} {times} >{self._directory}/call && {self._print_result}"
        return self.guest.run_script(script, deadline, in_place=True).check().stdout.strip()

    def call_all_for_checksums(self, times: int = 1) -> list[str]:
        """Call every shape of the module `times` times; returns the checksum of each, with its name. One round trip."""
        own = self._directory
        names = f"$(sed 's/name=//; s/ .*//' {own}/shapes)"
        call = f"echo $shape {times} >{own}/call && {self._print_result}"
        script = f"wrong=; for shape in {names}; do {call} || {{ wrong=1; break; }}; done; [ ! $wrong ]"
        return self.guest.run_script(script, in_place=True).check().stdout.splitlines()

    @property
    def _print_result(self) -> str:
        """The shell prints the one line itself: to start `cat` takes 8 ms of an emulated CPU."""
        return f'read -r line <{self._directory}/result && echo "$line"'

    @property
    def _directory(self) -> str:
        return f"/sys/kernel/debug/{self.module}"
