"""One loader of a schedule: takes its steps one by one, each through a gate of the loader or of the initializer."""

from __future__ import annotations

from harness.core.errors import GuestError
from harness.guest.guest import Guest
from harness.pinning.loader import PROBE, Loader, LoaderExitStatus
from harness.pinning.protocol.model import KILLED, OK, WAITS
from harness.pinning.protocol.steps import INITIALIZER, Verb

GATES = ("open", "read", "look", "load", "reread", "close")
INITIALIZER_GATES = ("entered", "validated", "registered")
# The outcome of a step that the loader did not take; no model predicts it.
PASSED_OVER = "passed over"
_OPEN_GATE = f"/sys/module/{PROBE}/parameters/open_gate"
# Looks at a loader until it is at rest, and gives up after a number of looks. It is at rest in one of these states:
# - It waits idly at an initializer's gate (wait_event_idle(); nothing else in a load waits in this way).
# - It waits interruptibly for another load, both before and after its stack is read (add_unformed_module(), part of
#   load_module(); for the same file idempotent_init_module(), part of finit_module(2), 6.12). From 6.5 to 6.10 it waits
#   uninterruptibly for a load of the same file, and wchan names idempotent_init_module() or its caller.
# - It has ended.
# A task that was woken is idle again for a moment while it checks its condition (___wait_event()), and on another
# virtual CPU that moment can be long. /proc/PID/syscall distinguishes it: it is "running" unless the task stays off its
# CPU in one state (wait_task_inactive(), called by task_current_syscall(), lib/syscall.c, 5.10 to 7.3). wchan does not:
# on x86 it is always 0 before 5.16 if the kernel has no frame pointers (get_wchan(), arch/x86/kernel/process.c, 5.10).
# It only names the function if the file with the stack is empty, as on ARM, where a kernel for several processors reads
# no other task's stack (__save_stack_trace(), arch/arm/kernel/stacktrace.c, 6.1).
_SETTLED = """
n=0 where=
while [ ! "$where" ]; do
    [ $((n += 1)) -lt 20000 ] || where=moving
    read -r _ _ state _ 2>/dev/null </proc/{pid}/stat || state=Z
    case $state in
    I) call=running
       read -r call _ 2>/dev/null </proc/{pid}/syscall
       read -r _ _ state _ 2>/dev/null </proc/{pid}/stat && [ "$call" != running ] && [ "$state" = I ] && where=gate;;
    Z) where=ended;;
    S) if grep -q -e load_module -e finit_module /proc/{pid}/stack /proc/{pid}/wchan 2>/dev/null; then
           read -r _ _ state _ 2>/dev/null </proc/{pid}/stat && [ "$state" = S ] && where=waits
       fi;;
    D) if grep -q -e idempotent_init_module -e finit_module /proc/{pid}/wchan 2>/dev/null; then
           read -r _ _ state _ 2>/dev/null </proc/{pid}/stat && [ "$state" = D ] && where=waits
       fi;;
    esac
done
echo $where
"""
# Waits until a loader whose input was closed has ended; opens the gates that its initializer reaches.
_LET_GO = f"""
n=0
while [ -d /proc/{{pid}} ]; do
    [ $((n += 1)) -lt 20000 ] || exit 1
    [ -e {_OPEN_GATE} ] && echo 2>/dev/null >{_OPEN_GATE}
done
exit 0
"""


def await_loader_at_rest(guest: Guest, pid: int, first: str = "true") -> str:
    """Wait until a loader inside of init_module(2) is at rest; returns `gate`, `waits` (for another load) or `ended`.

    `first` is a shell command that is run first. Raises GuestError if the loader does not come to rest.
    """
    script = f"{first} && {{ {_SETTLED.format(pid=pid)} }}"
    looked = guest.run_script(script, in_place=True).check().stdout.strip()
    if looked == "moving":
        raise GuestError(f"the loader {pid} does not come to rest", where=guest.name)
    return looked


class LoaderActor:
    """One loader. Between steps it waits at a gate or in the kernel."""

    def __init__(self, guest: Guest, loader: Loader) -> None:
        """`loader` is running; its order has GATES, and its probe's parameters have INITIALIZER_GATES."""
        self._guest = guest
        self._loader = loader
        self._pid = self._loader.pid
        self._at = self._next_gate()
        self.inside = self._ended = False

    def take_step(self, verb: Verb) -> str:
        """Take the loader's next step. Returns the outcome: ok, waits, killed, PASSED_OVER or the errno's name."""
        if verb is Verb.LOAD:
            self._loader.continue_from_gate()
            return self._settle()
        if verb in INITIALIZER:
            return self._on(verb)
        if self._at != verb.value:
            # An honest loader stops at every gate of its order.
            return PASSED_OVER
        while self._at == verb.value:
            self._loader.continue_from_gate()
            self._at = self._next_gate()
        # Wait for its end after the last gate too. If a child ends while a channel is being opened, dropbear closes
        # that channel and then the connection (docs/pinning.md).
        return OK if self._at else self.await_outcome_at_end()

    def _on(self, verb: Verb) -> str:
        """Open the gate at which the initializer waits; after the last gate it returns."""
        opened = f"echo >{_OPEN_GATE}"
        if verb is not Verb.RETURN:
            return self._settle(opened)
        self._guest.run_script(opened, in_place=True).check()
        self.inside = False
        self._at = self._next_gate()
        return OK if self._at else self.await_outcome_at_end()

    def kill(self) -> str:
        """Send SIGKILL. Returns `waits` if the kernel delays the death until the initializer has returned."""
        where = await_loader_at_rest(self._guest, self._pid, f"kill -KILL {self._pid}")
        return WAITS if where == "gate" else self.await_outcome_at_end()

    def _settle(self, first: str = "true") -> str:
        """Wait until the loader inside of init_module(2) is at rest. Returns the outcome."""
        where = await_loader_at_rest(self._guest, self._pid, first)
        self.inside = where == "gate"
        return {"gate": OK, "waits": WAITS}.get(where) or self.await_outcome_at_end()

    def _next_gate(self) -> str:
        """The next gate that the loader reaches; empty if it ends first."""
        while line := self._loader.next_line_or_none():
            if line.word == "at":
                return line.step
        return ""

    def await_load_after_other_load(self) -> str:
        """The outcome of a load that waited for another load, after that one is over."""
        self._at = self._next_gate()
        return OK if self._at else self.await_outcome_at_end()

    def await_outcome_at_end(self) -> str:
        """Wait for the loader's end. Returns the outcome."""
        self.inside = False
        self._at = ""
        while self._loader.next_line_or_none():
            pass
        ended = self._loader.await_result()
        self._ended = True
        if ended.status is LoaderExitStatus.KILLED:
            return KILLED
        # The loader undoes its load only if a token could not be read again.
        return f"ENODEV, undo {ended.errno_name}" if ended.status is LoaderExitStatus.UNDO else ended.errno_name or OK

    def open_gates_until_end(self) -> None:
        """Wait for the loader's end after its input was closed; opens the gates of an initializer that it is in."""
        if self._ended:
            return
        self._guest.run_script(_LET_GO.format(pid=self._pid)).check()
