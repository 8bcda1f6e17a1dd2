"""What is broken on purpose in a mutant's cell of a case that runs the kernel's own tests."""

from __future__ import annotations

from harness.core.errors import GuestError
from harness.guest.guest import Guest

_TRACING = "/sys/kernel/tracing"
_ENABLED = "/sys/kernel/debug/kprobes/enabled"

# tracefs is mounted read-only: no event can be defined, so no test of events can pass.
READ_ONLY_TRACEFS = "read-only-tracefs"
# All kprobes are disarmed: they register, and no handler runs.
KPROBES_DISARMED = "kprobes-disarmed"

_SCRIPTS = {
    READ_ONLY_TRACEFS: f"mount -o remount,ro {_TRACING} && grep ' {_TRACING} tracefs ro' /proc/mounts",
    KPROBES_DISARMED: f"echo 0 >{_ENABLED} && grep '^0$' {_ENABLED}",
}
MUTANTS = frozenset(_SCRIPTS)


def put_in_force(guest: Guest, mutant: str) -> None:
    """Break the guest as the mutant's name states, and read back that it is broken. An empty name does nothing."""
    if mutant and not guest.run_script(_SCRIPTS[mutant]).ok:
        raise GuestError(f"the mutant {mutant} is not in force", where=guest.name)
