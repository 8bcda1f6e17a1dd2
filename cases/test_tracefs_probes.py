"""tracefs accepts and refuses the expected names for kprobes (kernel/trace/trace_kprobe.c, 6.1)."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from harness.guest.guest import Guest
from harness.landing.landing_judgment import Missed
from harness.landing.layout import Layout
from harness.landing.lookup.kallsyms_ambiguous_and_freed_names import sample_ambiguous_names
from harness.landing.mutants import mutant_or_honest
from harness.landing.target import Target

EVENTS = "/sys/kernel/tracing/kprobe_events"
ERROR_LOG = "/sys/kernel/tracing/error_log"
EVENT = "pinpoint/event"
ENABLE = f"/sys/kernel/tracing/events/{EVENT}/enable"
# For each event its name, hits and missed hits.
PROFILE = "/sys/kernel/tracing/kprobe_profile"
# How many of the names that the kernel has more than once are tried.
SAMPLE = 8
# A call of pinpoint_recursive() runs it so many times (PINPOINT_DEPTH + 1, probes/target/shapes.c).
LEVELS = 4
CALLS = 3

pytestmark = pytest.mark.requires("kprobes")


@pytest.fixture(autouse=True)
def _offered(guest: Guest) -> None:
    """Skip on a kernel without CONFIG_KPROBE_EVENTS."""
    if not guest.run_script(f"[ -e {EVENTS} ]").ok:
        pytest.skip(f"{guest.name} has no kprobes by tracefs")


@contextmanager
def defined(guest: Guest, kind: str, place: str) -> Iterator[str]:
    """Define one event while the block runs; yield the error of the kernel, empty if it accepted the event."""
    answer = guest.run_script(f"echo '{kind}:{EVENT} {place}' >>{EVENTS}")
    try:
        yield answer.stderr.strip() if answer.rc else ""
    finally:
        guest.run_script(f"grep -q '{EVENT}' {EVENTS} && echo '-:{EVENT}' >>{EVENTS}")


def expect_taken(guest: Guest, kind: str, place: str) -> None:
    """Raise Missed unless tracefs accepts the event and lists it."""
    with defined(guest, kind, place) as refusal:
        listed = guest.read_text(EVENTS)
    if refusal or f"{kind}:{EVENT}" not in listed.replace("r32:", "r:"):
        raise Missed(f"{place}: {refusal or f'listed as {listed!r}'}")


def _is_logged_as_ambiguous(guest: Guest, name: str) -> bool:
    """True if the kernel logged that the name in the last command is not unique."""
    entry = guest.read_text(ERROR_LOG).rpartition("trace_kprobe: error: ")[2]
    message, _, command = entry.partition("\n")
    return message == "The symbol is not unique" and command.split()[:3:2] == ["Command:", name]


@pytest.mark.mutants("registers-anyway")
def test_ambiguous_name(guest: Guest, layout: Layout, mutant: str) -> None:
    """A name that several kernel functions share is refused, because it could mean any of them.

    EADDRNOTAVAIL; in 6.12 EINVAL, and the reason is in error_log (trace_kprobe_create(), kernel/trace/trace_kprobe.c).
    """
    names = [mutant_or_honest(mutant).replace_refused_spec(name) for name in sample_ambiguous_names(layout, SAMPLE)]
    assert names, "no name is used twice"
    for name in names:
        with defined(guest, "p", name) as refusal:
            logged = os.strerror(errno.EINVAL) in refusal and _is_logged_as_ambiguous(guest, name)
            if os.strerror(errno.EADDRNOTAVAIL) not in refusal and not logged:
                raise Missed(f"{name}: {refusal or 'accepted'}, not {os.strerror(errno.EADDRNOTAVAIL)}")


@pytest.mark.mutants("unknown-name")
def test_name_of_a_module(guest: Guest, layout: Layout, target: Target, mutant: str) -> None:
    """A module's function is accepted by its name alone if no other function has the name."""
    entry = layout.entry_site(target.shape_site("leaf", plain=True))
    expect_taken(guest, "p", mutant_or_honest(mutant).replace_refused_spec(entry.spec))


@pytest.mark.mutants("unknown-name")
def test_return_in_advance(guest: Guest, mutant: str) -> None:
    """A return probe on a module that is not loaded yet is accepted."""
    expect_taken(guest, "r", mutant_or_honest(mutant).replace_refused_spec("pinpoint_second:pinpoint_second_only"))


@pytest.mark.requires("ftrace_kprobes", "cold_halves")
@pytest.mark.mutants("unknown-name")
def test_cold_half(guest: Guest, target: Target, mutant: str) -> None:
    """The cold part of a traced function is accepted, though ftrace has no site in it."""
    expect_taken(guest, "p", mutant_or_honest(mutant).replace_refused_spec(target.shape_site("cold_part.cold").spec))


@pytest.mark.requires("traced_entry_kprobes")
@pytest.mark.mutants("instance-per-level")
def test_missed_returns(guest: Guest, target: Target, mutant: str) -> None:
    """A return probe with one instance sees one return of a recursion, and each other level counts as missed.

    pre_handler_kretprobe() counts them in nmissed (kernel/kprobes.c, 6.1), and kprobe_profile shows the sum.
    """
    kind = f"r{LEVELS if mutant_or_honest(mutant).has_instance_per_level else 1}"
    place = target.shape_site("recursive", plain=True).spec
    with defined(guest, kind, place) as refusal:
        if refusal:
            raise Missed(f"{place}: {refusal}")
        guest.run_script(f"echo 1 >{ENABLE}").check()
        try:
            target.call_for_checksum("recursive", CALLS)
            counted = guest.read_text(PROFILE).split()
        finally:
            guest.run_script(f"echo 0 >{ENABLE}")
    wanted = [str(CALLS), str(CALLS * (LEVELS - 1))]
    if counted[1:] != wanted:
        raise Missed(f"{place}: hits and missed are {counted[1:]}, not {wanted}")
