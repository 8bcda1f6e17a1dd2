"""The packages that Pinpoint needs on its host, from host-packages.txt.

`doctor` reads them before anything is installed, so only Python's standard library is imported here.
"""

from __future__ import annotations

import platform
import shutil
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from harness.core import paths

PACKAGES = paths.PROJECT / "host-packages.txt"
# Stands for the guests whose kernel is built from source.
SOURCE = "source"


@dataclass(frozen=True)
class Requirement:
    """One line of host-packages.txt: a Debian package, a program or pattern of files in it, and why it is needed.

    `guest_architectures` are the architectures of the guests that need it; it is empty for a package that every guest
    needs.
    """

    package: str
    program_or_file: str
    purpose: str
    guest_architectures: frozenset[str] = frozenset()

    @property
    def found_path(self) -> str:
        """The path of the program or file that the package provides; empty if it is absent."""
        if self.program_or_file.startswith("/"):
            return next((str(path) for path in Path("/").glob(self.program_or_file[1:])), "")
        return shutil.which(self.program_or_file) or ""


def parse_requirements(text: str, machine: str) -> Iterator[Requirement]:
    """Parse host-packages.txt; yield the requirements of a host whose `uname -m` is `machine`."""
    for line in text.splitlines():
        words = line.split(None, 3)
        if not words or words[0].startswith("#"):
            continue
        package, hosts, provides, purpose = words
        hosts, _, guests = hosts.partition("/")
        if hosts in ("any", machine) or (hosts.startswith("!") and hosts != f"!{machine}"):
            yield Requirement(package, provides, purpose, frozenset(guests.split(",")) - {""})


def parse_optional_requirements(text: str, kind: str = "optional") -> Iterator[Requirement]:
    """What one command wants, or only the unit tests (`kind` is `tests`), from the text of host-packages.txt."""
    for line in text.splitlines():
        match line.split(None, 3):
            case [package, hosts, provides, purpose] if hosts == kind and not package.startswith("#"):
                yield Requirement(package, provides, purpose)


# The beginning of the names of packages that run guests, and build nothing.
_EMULATOR = "qemu-system-"


def missing_build_packages(guests: Collection[str]) -> list[str]:
    """Return the packages that this host lacks to build images for these guests."""
    return [package for package in missing_packages(guests) if not package.startswith(_EMULATOR)]


def missing_packages(guests: Collection[str]) -> list[str]:
    """Return the packages that this host lacks for these guests: architectures, and `source`."""
    needed = parse_requirements(PACKAGES.read_text(), platform.machine())
    wanted = [each for each in needed if not each.guest_architectures or each.guest_architectures & set(guests)]
    return [each.package for each in wanted if not each.found_path]
