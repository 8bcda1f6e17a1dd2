"""Check the host for requirements. Only Python's standard library is used, so it runs before anything is installed."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from harness.core import child_privilege_drop, paths
from harness.core.host_packages import PACKAGES, Requirement, parse_optional_requirements, parse_requirements

# The variable with the directory of the Python environment. The launcher sets it; the stamp file marks a complete one.
_ENVIRONMENT = "PINPOINT_ENVIRONMENT"
_STAMP = "complete"
# The architectures of the guests that the command names, or of the core VMs. The launcher sets it.
_GUESTS = "PINPOINT_GUESTS"
_GIB = 1 << 30
_ALL_THERE, _SOMETHING_MISSING = 0, 3


def main() -> int:
    """Print the host and every requirement, found or missing. Return 3 when something is missing, else 0."""
    named = os.environ.get(_GUESTS)
    listed = list(parse_requirements(PACKAGES.read_text(), platform.machine()))
    # Without the launcher no guests are known, and every package counts as needed.
    needed = [
        each
        for each in listed
        if named is None or not each.guest_architectures or each.guest_architectures & set(named.split())
    ]
    wanted = [*(each for each in listed if each not in needed), *parse_optional_requirements(PACKAGES.read_text())]
    tests = [] if paths.INSTALLED else list(parse_optional_requirements(PACKAGES.read_text(), "tests"))
    versions = _debian_versions([each.package for each in (*needed, *wanted, *tests)])
    print(_host())
    for line in _facts():
        print(f"  {line}")
    print()
    for each in needed:
        print(_line(each, versions, "MISSING", "not found"))
    for each in wanted:
        print(_line(each, versions, "absent", "optional"))
    for each in tests:
        print(_line(each, versions, "absent", f"{paths.PROGRAM} test installs it"))
    missing = [each.package for each in needed if not each.found_path]
    print()
    if wrong := _cache_defect():
        print(f"The cache cannot be used: {wrong}; check its owner, or set PINPOINT_CACHE to another directory")
    if not missing:
        if wrong:
            return _SOMETHING_MISSING
        print("Everything Pinpoint needs of this host is there.")
        return _ALL_THERE
    print(f"Missing, by Debian's names: {' '.join(missing)}")
    print(f"{paths.PROGRAM} run installs them where it may; by hand, as root: apt-get install {' '.join(missing)}")
    return _SOMETHING_MISSING


def _line(each: Requirement, versions: Mapping[str, str], mark: str, state: str) -> str:
    """Return the line of a package: its version if it is installed, otherwise `mark` and `state`."""
    if each.found_path:
        mark, state = "ok", versions.get(each.package) or each.found_path
    return f"  {mark:<7}  {each.package:<23} {state:<32} {each.purpose}".rstrip()


def _host() -> str:
    try:
        name = platform.freedesktop_os_release().get("PRETTY_NAME", "Linux")
    except OSError:
        name = platform.system()
    cores = len(os.sched_getaffinity(0))
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / _GIB
    return f"{name}, {platform.machine()}, {cores} cores, {memory:.1f} GiB of memory"


def _facts() -> Iterator[str]:
    """Facts of the host that no package changes."""
    yield f"Python {platform.python_version()} ({sys.executable})"
    environment = os.environ.get(_ENVIRONMENT)
    if environment:
        made = "made" if Path(environment, _STAMP).exists() else "not made yet; the next start makes it"
        yield f"Python environment: {made} ({environment})"
        home = _existing(Path(environment).parent)
        yield f"cache: {shutil.disk_usage(home).free / _GIB:.1f} GiB free ({home})"
    yield f"/dev/kvm: {_kvm()}"
    yield f"rights of QEMU, gdb and builds of foreign modules: {child_privilege_drop.describe_child_rights()}"
    yield from _newer_qemus()


def _newer_qemus() -> Iterator[str]:
    """For each emulator and version that recipes need or prefer, which QEMU runs their guests."""
    vms: dict[tuple[str, str], list[str]] = {}
    for path in sorted(paths.RECIPES.glob("*.toml")):
        try:
            recipe = tomllib.loads(path.read_text())
            machine = recipe.get("machine", {})
            version = f"{machine.get('preferred_qemu') or machine.get('qemu') or ''}"
        except (OSError, ValueError, AttributeError):
            continue  # a command that selects the VM reports what is wrong
        if version:
            vms.setdefault((f"{recipe.get('arch')}", version), []).append(path.stem)
    if not vms:
        return
    # Of no use, and not there, where no recipe names a version.
    from harness.core import program_versions
    from harness.core.architecture_table import ARCHITECTURES
    from harness.core.errors import HostError

    for (arch, version), names in vms.items():
        if arch not in ARCHITECTURES:
            continue
        program = ARCHITECTURES[arch].qemu_machine.qemu
        try:
            here = program_versions.first_version_line(program)
        except HostError:
            here = ""
        found = program_versions.parse_major_minor(here)
        wanted = program_versions.parse_major_minor(f"version {version.removeprefix('>=').strip()}.0")
        new = bool(found and wanted and found >= wanted)
        which = "the host's" if new else "that of a newer Debian suite, fetched at first use"
        of_host = f" (the host has {here.split()[3]})" if found else ""
        yield f"{program} {version} for {', '.join(names)}: {which}{of_host}"


def _kvm() -> str:
    if not Path("/dev/kvm").exists():
        return "absent; guests are emulated"
    if not child_privilege_drop.qemu_may_open(Path("/dev/kvm")):
        return "no access; guests are emulated (give a group access, such as kvm, and join it unless you are root)"
    return "can be opened; each run tries whether guests run under it"


def _cache_defect() -> str:
    """Return why nothing can be written to the cache; empty if it can, or if no launcher named the environment."""
    environment = os.environ.get(_ENVIRONMENT)
    if not environment:
        return ""
    cache = Path(environment).parent
    # A link that leads nowhere, or in a loop, is there but does not exist.
    there = next(each for each in (cache, *cache.parents) if os.path.lexists(each))
    if not there.is_dir():
        return f"{there} is no directory" if there.exists() else f"{there} is a link to nothing"
    return "" if os.access(there, os.W_OK | os.X_OK) else f"{there} cannot be written"


def _existing(path: Path) -> Path:
    """Return the path, or its closest parent directory that exists."""
    return next(each for each in (path, *path.parents) if each.exists())


def _debian_versions(packages: Sequence[str]) -> dict[str, str]:
    """Installed versions by package; empty on a host without dpkg."""
    if not shutil.which("dpkg-query"):
        return {}
    listed = subprocess.run(
        ["dpkg-query", "--show", "--showformat=${Package} ${Version}\\n", *packages],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    pairs = (line.split() for line in listed.stdout.splitlines())
    return {words[0]: words[1] for words in pairs if len(words) == 2}


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        sys.exit(print(f"pinpoint: the host cannot be examined: {error}", file=sys.stderr) or _SOMETHING_MISSING)
