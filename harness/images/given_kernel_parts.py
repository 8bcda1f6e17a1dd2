"""The parts of a kernel that a user gives: image, modules and headers, found in directories or packages."""

from __future__ import annotations

import gzip
import re
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import zstandard

from harness.core.errors import UsageError
from harness.core.files import sha256
from harness.images import deb, rpm
from harness.images.kernel_source_trees import listing_digest

_HEADERS = "include/generated/autoconf.h"
_RELEASE = "include/config/kernel.release"
_UTS_RELEASE = "include/generated/utsrelease.h"
_UTS = re.compile(r'^#define\s+UTS_RELEASE\s+"([^"\s/]+)"$', re.M)
_BUILD = (".config", "vmlinux", _RELEASE)
_PACKAGES = (".deb", ".rpm")
_MEND = "see docs/gate-a-kernel.md"
_NOT_AMONG = "no {} is among what --kernel names"
# The line of Debian's Makefile in the headers of a flavor.
_INCLUDED = re.compile(r"^include /usr/src/(linux-headers-[^/\s]+)/Makefile$", re.M)


@dataclass(frozen=True)
class KernelParts:
    """Where the parts of one kernel are.

    `image` is the file that a boot loader starts. `vmlinux` is None if the ELF must be recovered from the image.
    `modules` has the modules and `modules.builtin`; None if the kernel has all drivers built in. `source` and `objects`
    are the directories for module builds.
    """

    release: str
    image: Path
    vmlinux: Path | None
    config: Path
    modules: Path | None
    source: Path
    objects: Path


def is_build_directory(path: Path) -> bool:
    """True for a directory in which a kernel was built."""
    return all((path / name).exists() for name in _BUILD)


def is_package(path: Path) -> bool:
    """True for a .deb or an .rpm."""
    return path.suffix in _PACKAGES


def key_parts_of_files(given: Sequence[Path]) -> list[str]:
    """Return what identifies the given files, for store keys: contents of files, listings of directories."""
    return [sha256(path) if path.is_file() else f"{path} {listing_digest(path)}" for path in given]


def unpack(packages: Iterable[Path], into: Path) -> None:
    """Unpack .deb and .rpm files below one directory. Raises HostError or UsageError."""
    for package in packages:
        (rpm if package.suffix == ".rpm" else deb).unpack(package, into)


def find_parts_in_build(directory: Path, kernel_file: str) -> KernelParts:
    """Return the parts in a build directory. Raises UsageError if one is missing."""
    image = directory / kernel_file
    if not image.is_file():
        raise UsageError(f"has no {kernel_file}", where=str(directory), mend="build the kernel there first")
    link = directory / "source"
    source = link.resolve() if link.is_dir() else directory
    return KernelParts(
        release=_release(directory),
        image=image,
        vmlinux=directory / "vmlinux",
        config=directory / ".config",
        modules=directory,
        source=source,
        objects=directory,
    )


def find_parts_in_packages(root: Path, what: str) -> KernelParts:
    """Return the parts below a directory that packages were unpacked to. Raises UsageError if one is missing."""
    headers = _only(
        [path.parents[2] for path in root.glob(f"usr/src/**/{_HEADERS}") if _has_release(path.parents[2])],
        "kernel headers (linux-headers-*, kernel-devel)",
        what,
    )
    release = _release(headers)
    places = [root / top / "modules" / release for top in ("usr/lib", "lib")]
    kernels = [root / f"boot/{name}-{release}" for name in ("vmlinuz", "vmlinux")]
    kernels += [place / name for place in places for name in ("vmlinuz", "vmlinux")]
    image = _only(kernels[:], f"kernel image of {release}", what)
    configs = [root / f"boot/config-{release}", *(place / "config" for place in places), headers / ".config"]
    modules = next((place for place in places if (place / "modules.builtin").is_file()), None)
    common = next(iter((root / "usr/src").glob("linux-headers-*-common*")), None)
    _demand_linked_packages(headers, common, what)
    source = common or headers
    return KernelParts(
        release, image, None, _only(configs, f"configuration of {release}", what), modules, source, headers
    )


def find_parts_given_separately(given: Sequence[Path], what: str) -> KernelParts:
    """Return the parts that are given one by one: an image, a directory of modules, and one of headers."""
    image = _only([path for path in given if path.is_file()], "kernel image", what)
    directories = [path for path in given if path.is_dir()]
    headers = _only([path for path in directories if (path / _HEADERS).is_file()], "directory of headers", what)
    if not _has_release(headers):
        raise UsageError(f"has no {_RELEASE}", where=str(headers), mend=_MEND)
    release = _release(headers)
    candidates = [path / sub for path in directories for sub in (".", f"lib/modules/{release}", release)]
    modules = next((path for path in candidates if (path / "modules.builtin").is_file()), None)
    config = _only([headers / ".config", image.with_name(f"config-{release}")], "configuration", what)
    link = headers / "source"
    return KernelParts(release, image, None, config, modules, link.resolve() if link.is_dir() else headers, headers)


def stage_decompressed_modules(parts: KernelParts, scratch: Path) -> Path:
    """Return a directory with the modules as in `lib/modules/RELEASE`, where none is packed with zstd or gzip.

    In a build directory the modules are next to their objects, so links to them are made.
    """
    assert parts.modules is not None
    into = scratch / "kernel"
    into.mkdir()
    shutil.copyfile(parts.modules / "modules.builtin", scratch / "modules.builtin")
    for module in sorted(parts.modules.glob("**/*.ko*")):
        suffix = module.suffix
        if suffix == ".zst":
            content = zstandard.ZstdDecompressor().decompressobj().decompress(module.read_bytes())
            (into / module.stem).write_bytes(content)
        elif suffix == ".gz":
            (into / module.stem).write_bytes(gzip.decompress(module.read_bytes()))
        elif suffix in (".ko", ".xz"):
            (into / module.name).symlink_to(module.resolve())
    return scratch


def _demand_linked_packages(headers: Path, common: Path | None, what: str) -> None:
    """Raise UsageError with the package that is missing if the headers refer to one.

    Debian's refer to kbuild's programs by the link `scripts`, and include the Makefile of the common headers; Ubuntu's
    refer to the common headers by many links.
    """
    makefile = headers / "Makefile"
    included = _INCLUDED.search(makefile.read_text()) if makefile.is_file() else None
    if included and common is None:
        raise UsageError(_NOT_AMONG.format(included[1]), where=what, mend=f"add its package; {_MEND}")
    for link in (makefile, headers / "scripts"):
        if link.is_symlink() and not link.exists():
            package = next((part for part in link.readlink().parts if part.startswith("linux-")), str(link.readlink()))
            raise UsageError(_NOT_AMONG.format(package), where=what, mend=f"add its package; {_MEND}")


def _has_release(headers: Path) -> bool:
    return any((headers / name).is_file() for name in (_UTS_RELEASE, _RELEASE))


def _release(headers: Path) -> str:
    """Return the release that modules get (UTS_RELEASE, include/linux/vermagic.h).

    kernel.release of Debian's headers of 6.1 has only the version, such as 6.1.170: the release is set when they are
    used.
    """
    uts = headers / _UTS_RELEASE
    found = _UTS.search(uts.read_text()) if uts.is_file() else None
    return found[1] if found else (headers / _RELEASE).read_text().strip()


def _only(found: Sequence[Path], name: str, what: str) -> Path:
    """Return the first of these paths that exists. Raises UsageError with the name of the part if there is none."""
    for path in found:
        if path.exists():
            return path
    raise UsageError(_NOT_AMONG.format(name), where=what, mend=f"add it; {_MEND}")
