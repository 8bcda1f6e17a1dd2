"""Proves traits of a kernel by running programs in the booted guest: loaders, and programs with a uprobe."""

from __future__ import annotations

from harness.core.elf import Elf
from harness.guest.guest import Guest
from harness.images.user_targets import COMPAT, FIRST_LIBRARY, KIND, RUNNER, SECOND_LIBRARY, STATIC

# Two loaders of one file. The first stops in the initializer until the second waits for it; then both continue. From
# 6.5 to 6.10 the second waits uninterruptibly (idempotent_init_module(), kernel/module/main.c).
_TWO_LOADERS = """
open=/sys/module/pinpoint_pinned/parameters/open_gate
{load} gates=entered >/dev/null & first=$!
until [ -e $open ]; do [ -d /proc/$first ] || exit 1; done
{load} gates=entered >/dev/null & second=$!
until read -r _ _ state _ </proc/$second/stat && case $state in
    S) grep -q -e load_module -e finit_module /proc/$second/stack /proc/$second/wchan;;
    D) grep -q -e idempotent_init_module -e finit_module /proc/$second/wchan;;
    *) false;;
    esac
do [ -d /proc/$second ] || exit 2; done
echo >$open
wait $first || exit 3
wait $second
echo $?
rmmod pinpoint_pinned
"""


def shared_loads(guest: Guest) -> bool:
    """True if a second load of a file waits for the first and has its result, as since 6.5, instead of EEXIST."""
    load = f"{guest.copy_program('pinpoint_loader')} {guest.copy_module('pinpoint_pinned')}"
    return guest.run_script(_TWO_LOADERS.format(load=load)).check().stdout.strip() == "0"


_OWN_PROGRAM = f"{KIND}/{STATIC}/{RUNNER}"
# Put a uprobe on the entry of one of our programs, run the program, and print the number of hits that the kernel
# counted.
_ONE_UPROBE = """
cd /sys/kernel/tracing 2>/dev/null && [ -e uprobe_events ] || {{ echo 0; exit; }}
echo 'p:pinpoint_trait/entry {program}:{offset:#x}' >>uprobe_events && echo 1 >events/pinpoint_trait/enable
{program} </dev/null >/dev/null 2>&1
sed -n 's/.* entry  *//p' uprobe_profile
echo 0 >events/pinpoint_trait/enable
echo '-:pinpoint_trait/entry' >>uprobe_events
"""


def uprobes(guest: Guest) -> bool:
    """True if the kernel puts a uprobe on the entry of a program, and counts its hit."""
    programs, name = guest.image.programs, "pinpoint_loader"
    elf = Elf.read_cached(programs[name])
    place = elf.entry
    if place % guest.architecture.kprobe_traits.instruction_alignment and _OWN_PROGRAM in programs:
        # The C library's entry is Thumb code, on which ARM takes no uprobe.
        name, elf = _OWN_PROGRAM, Elf.read_cached(programs[_OWN_PROGRAM])
        place = elf.function("main").address
        guest.run("mkdir", "-p", f"/tmp/{KIND}/{STATIC}").check()
    text = _ONE_UPROBE.format(program=guest.copy_program(name), offset=elf.file_offset(place))
    return guest.run_script(text).stdout.split()[:1] == ["1"]


def programs_32bit(guest: Guest) -> bool:
    """Whether the kernel runs a 32-bit program of its architecture; images without uprobes have none to try."""
    programs = guest.image.programs
    wanted = [f"{KIND}/{COMPAT}/{name}" for name in (RUNNER, FIRST_LIBRARY, SECOND_LIBRARY)]
    narrow = guest.image.recipe.architecture.compat_programs
    if narrow is None or wanted[0] not in programs:
        return False
    guest.run("mkdir", "-p", f"/tmp/{KIND}/{COMPAT}").check()
    paths = [guest.copy_program(name) for name in (*wanted, f"{KIND}/{COMPAT}/{narrow.dynamic_linker}")]
    guest.copy_program(f"{KIND}/{COMPAT}/libc.so.6")
    return "begin pid=" in guest.run_script(f"{paths[0]} </dev/null").stdout
