"""One loader on stage: its steps, each through a gate of its own or of the initializer that it is in."""

from __future__ import annotations

from harness.core.errors import GuestError
from harness.guest.guest import Guest
from harness.pinning.loader import PROBE, Loader, Status
from harness.pinning.protocol.model import KILLED, OK, WAITS
from harness.pinning.protocol.steps import INITIALIZER, Verb

GATES = ("open", "read", "look", "load", "reread", "close")
INITIALIZER_GATES = ("entered", "validated", "registered")
_OPEN_GATE = f"/sys/module/{PROBE}/parameters/open_gate"
# Looks at a loader until the kernel has it where it stays: waiting idly at an initializer's gate (wait_event_idle(), as
# nothing else in a load does), waiting interruptibly for another load (add_unformed_module(), part of load_module();
# of the same file, idempotent_init_module(), part of finit_module(2), 6.12) both before and after its stack was looked
# at, or gone. It is given up after so many looks. A task that was woken is idle for a moment once more, while it looks
# why (___wait_event()), and on another virtual CPU that moment may last: what it sleeps in, 0 of a task that is to run
# (get_wchan()), distinguishes it from one that sleeps.
_SETTLED = """
n=0 where=
while [ ! "$where" ]; do
    [ $((n += 1)) -lt 20000 ] || where=moving
    read -r _ _ state _ 2>/dev/null </proc/{pid}/stat || state=Z
    case $state in
    I) read -r asleep 2>/dev/null </proc/{pid}/wchan
       read -r _ _ state _ 2>/dev/null </proc/{pid}/stat && [ "$asleep" != 0 ] && [ "$state" = I ] && where=gate;;
    Z) where=ended;;
    S) if grep -q -e load_module -e finit_module /proc/{pid}/stack 2>/dev/null; then
           read -r _ _ state _ 2>/dev/null </proc/{pid}/stat && [ "$state" = S ] && where=waits
       fi;;
    esac
done
echo $where
"""
# Until a loader that was hung up on has ended; an initializer's gates are opened as it comes to them.
_LET_GO = f"""
n=0
while [ -d /proc/{{pid}} ]; do
    [ $((n += 1)) -lt 20000 ] || exit 1
    [ -e {_OPEN_GATE} ] && echo 2>/dev/null >{_OPEN_GATE}
done
exit 0
"""


def settled(guest: Guest, pid: int, first: str = "true") -> str:
    """Where a loader that is inside of init_module(2) comes to stay: gate, waits (for another load) or ended.

    `first` is a shell command to begin with. Raises GuestError when it comes to no rest.
    """
    script = f"{first} && {{ {_SETTLED.format(pid=pid)} }}"
    looked = guest.script(script, in_place=True).check().stdout.strip()
    if looked == "moving":
        raise GuestError(f"the loader {pid} comes to no rest", where=guest.name)
    return looked


class Actor:
    """One loader. It is started at its first step, and stands at a gate or in the kernel between steps."""

    def __init__(self, guest: Guest, loader: Loader) -> None:
        """`loader` is running; its order has GATES, its probe's parameters have INITIALIZER_GATES."""
        self._guest = guest
        self._loader = loader
        self._pid = self._loader.pid
        self._at = self._next_gate()
        self.inside = self._ended = False

    def take(self, verb: Verb) -> str:
        """Take the next step of its life; returns its outcome: ok, waits, killed or the errno's name."""
        if verb is Verb.LOAD:
            self._loader.go()
            return self._settle()
        if verb in INITIALIZER:
            return self._on(verb)
        if self._at != verb.value:
            # It passed over the step: it had nothing to do.
            return OK
        while self._at == verb.value:
            self._loader.go()
            self._at = self._next_gate()
        # Its end is waited for behind the last gate too: a child that ends while a channel is opened makes dropbear
        # close that channel, and then hang up on us (docs/pinning.md).
        return OK if self._at else self.end()

    def _on(self, verb: Verb) -> str:
        """Open the gate that the initializer stands at; the last one lets it return."""
        opened = f"echo >{_OPEN_GATE}"
        if verb is not Verb.RETURN:
            return self._settle(opened)
        self._guest.script(opened, in_place=True).check()
        self.inside = False
        self._at = self._next_gate()
        return OK if self._at else self.end()

    def kill(self) -> str:
        """SIGKILL; `waits` when the kernel keeps it until its initializer has returned."""
        where = settled(self._guest, self._pid, f"kill -KILL {self._pid}")
        return WAITS if where == "gate" else self.end()

    def _settle(self, first: str = "true") -> str:
        """What became of a loader that is inside of init_module(2)."""
        where = settled(self._guest, self._pid, first)
        self.inside = where == "gate"
        return {"gate": OK, "waits": WAITS}.get(where) or self.end()

    def _next_gate(self) -> str:
        """The gate it comes to, empty when it ends instead."""
        while said := self._loader.next_line():
            if said.word == "at":
                return said.step
        return ""

    def waited(self) -> str:
        """What came of a load that waited for another one's, once that is over."""
        self._at = self._next_gate()
        return OK if self._at else self.end()

    def end(self) -> str:
        """How it ended."""
        self.inside = False
        self._at = ""
        while self._loader.next_line():
            pass
        ended = self._loader.ended()
        self._ended = True
        if ended.status is Status.KILLED:
            return KILLED
        # An undo comes only after a token that could not be read again.
        return f"ENODEV, undo {ended.errno}" if ended.status is Status.UNDO else ended.errno or OK

    def await_end(self) -> None:
        """Once it was hung up on: let an initializer that it is in go through its gates until the loader has ended."""
        if self._ended:
            return
        self._guest.script(_LET_GO.format(pid=self._pid)).check()
