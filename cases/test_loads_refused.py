"""The kernel refuses to load a module that is loaded already, one that is GOING, and one whose file is damaged.

load_module() (kernel/module/main.c, 6.1). insmod prints the error of the system call.
"""

import errno
import os

import pytest

from harness.core.elf import Elf
from harness.guest.guest import Guest
from harness.landing.landing_judgment import Missed
from harness.pinning import doctored_modules
from harness.pinning.hold_module_in_state import TARGET as GOING_TARGET
from harness.pinning.hold_module_in_state import module_being_removed
from harness.pinning.loader import LoaderExitStatus, LoaderOrder
from harness.pinning.loader_fixture import Loaders
from harness.pinning.mutants import mutant_or_honest
from harness.verdict.cell_verdict_enum import end_as_known_fail

NAME = "pinpoint_noexit"
FUNCTION = "pinpoint_noexit_stays"
# A load that waits is killed after so many looks, 20 ms apart at least, and then fails in another way.
LOOKS = 250


def expect_load(guest: Guest, path: str, wanted: int) -> None:
    """Raise Missed unless insmod fails with this errno."""
    # busybox's `timeout` leaves a process that ends up to a second later, and the check after the cell waits for it.
    # A process that has ended, and that nobody has waited for, has no `exe` (proc_exe_link(), fs/proc/base.c).
    ended = f"looks=0; while [ -e /proc/$load/exe ] && [ $((looks += 1)) -le {LOOKS} ]; do sleep 0.02; done"
    answer = guest.run_script(f"insmod {path} & load=$!; {ended}; kill $load; wait $load")
    if answer.rc == 0 or os.strerror(wanted) not in answer.stderr:
        raise Missed(f"{path}: {answer.stderr.strip() or f'status {answer.rc}'}, not {os.strerror(wanted)}")


def expect_unsound(loaders: Loaders, kind: str, content: bytes) -> None:
    """Raise Missed unless a module's changed file is ENOEXEC."""
    path = doctored_modules.copy_to_guest(loaders.guest, kind, content)
    try:
        loaders.expect_refusal(LoaderOrder(probe=path), LoaderExitStatus.LOAD, "ENOEXEC")
    finally:
        loaders.guest.run("rmmod", "-f", NAME)


def expect_loaded_without_function(loaders: Loaders, content: bytes) -> None:
    """Raise Missed unless the kernel loads a module and does not list the module's function."""
    path = doctored_modules.copy_to_guest(loaders.guest, "nowhere", content)
    try:
        result = loaders.run(LoaderOrder(probe=path))
        found = loaders.guest.run_script(f"ls -d /sys/module/{NAME}; grep -F ' {FUNCTION}' /proc/kallsyms").stdout
        if result.status is not LoaderExitStatus.DONE or found.split() != [f"/sys/module/{NAME}"]:
            raise Missed(f"documented defect absent; fixed? {result}, and the guest has {found!r}")
    finally:
        loaders.guest.run("rmmod", "-f", NAME)


@pytest.mark.mutants("loads-anyway")
def test_loaded_twice(guest: Guest, mutant: str) -> None:
    """Loading a module that is loaded already is EEXIST. The mutant loads another module."""
    name, other = "pinpoint_second", "pinpoint_sections"
    guest.run("insmod", guest.copy_module(name)).check()
    try:
        expect_load(
            guest, guest.copy_module(other if mutant_or_honest(mutant).replaces_every_order else name), errno.EEXIST
        )
    finally:
        guest.run_script(f"rmmod {name}; rmmod {other} 2>/dev/null || :").check()


@pytest.mark.mutants("loads-anyway")
def test_loaded_while_going(guest: Guest, mutant: str) -> None:
    """Loading a module that is GOING is EBUSY at once: the load does not wait for the removal (since 6.3)."""
    name = "pinpoint_second" if mutant_or_honest(mutant).replaces_every_order else GOING_TARGET
    with module_being_removed(guest):
        try:
            expect_load(guest, guest.copy_module(name), errno.EBUSY)
        finally:
            guest.run("rmmod", "pinpoint_second")


@pytest.mark.mutants("loads-anyway")
@pytest.mark.own_loader("the claim is about the kernel and its errno")
def test_writable_text(guest: Guest, probe_loaders: Loaders) -> None:
    """A module with a writable and executable section is ENOEXEC.

    module_enforce_rwx_sections(), kernel/module/strict_rwx.c.
    """
    if guest.image.config.get("CONFIG_STRICT_MODULE_RWX") != "y":
        pytest.skip(f"{guest.name} maps modules writable and executable")
    module = Elf.read_cached(guest.image.modules[NAME])
    expect_unsound(probe_loaders, "writable", doctored_modules.with_writable_text(module))


@pytest.mark.mutants("loads-anyway")
@pytest.mark.own_loader("the claim is about the kernel and its errno")
def test_symbol_of_no_section(guest: Guest, probe_loaders: Loaders) -> None:
    """A module with a symbol in a section that the file does not have is ENOEXEC (simplify_symbols()).

    A kernel whose recipe documents the defect loads it, and does not list that symbol.
    """
    module = Elf.read_cached(guest.image.modules[NAME])
    content = doctored_modules.with_a_symbol_of_no_section(module, FUNCTION)
    cause = guest.image.recipe.defects.symbol_sections_unchecked
    if cause:
        expect_loaded_without_function(probe_loaders, content)
        end_as_known_fail(cause)
    expect_unsound(probe_loaders, "nowhere", content)
