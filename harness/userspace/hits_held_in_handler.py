"""Holds hits in the handler of a uprobe, so that a case can do something to their process meanwhile."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from harness.core.errors import GuestError
from harness.landing.landing_judgment import Missed
from harness.userspace.uprobes_fixture import Uprobes
from harness.userspace.user_file import UserFile

_GATE = "/sys/module/pinpoint_uprobe/parameters/gate"
# Reads of the gate before giving up; they are 20 ms apart. A mutant whose gate is open has no hit to wait for.
_READINGS, _FEW = 60, 10
_AWAIT = f"""
n=0
until read waiting <{_GATE} && [ $waiting = {{count}} ]
do n=$((n + 1)); [ $n -lt {{readings}} ] || exit 1; sleep 0.02; done
"""


class UprobeGate:
    """pinpoint_uprobe on one function of a file, with its gate closed, so that a hit stays in the handler.

    `prove_removal_waits` runs rmmod, which must wait for the hits, and opens the gate. If it was not called, leaving
    the block opens the gate and removes the module.
    """

    def __init__(self, uprobes: Uprobes, file: UserFile, symbol: str) -> None:
        self._uprobes = uprobes
        self._guest = uprobes.guest
        self._file = file
        self._site = file.site(symbol)
        self._run = uprobes.on(file, [self._site], "module")
        self._removing = False

    def __enter__(self) -> Self:
        self._run.__enter__()
        if not self._uprobes.mutant.leaves_gate_open:
            self._guest.run_script(f"echo 1 >{_GATE}", in_place=True).check()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._removing:
            self._guest.run_script(f"echo 0 >{_GATE}", in_place=True).check()
            self._run.__exit__(kind, error, trace)

    def await_hit(self, count: int = 1) -> None:
        """Wait until `count` hits are in the handler. Raises Missed when they do not come."""
        readings = _FEW if self._uprobes.mutant.leaves_gate_open else _READINGS
        if not self._guest.run_script(_AWAIT.format(count=count, readings=readings)).ok:
            raise Missed(f"{self._site}: no hit is waiting in the handler")

    def prove_removal_waits(self) -> None:
        """Check that rmmod waits while a hit is in the handler, and ends once the gate is open. Raises Missed."""
        self._removing = True
        steps = f"""
rmmod pinpoint_uprobe & removing=$!
n=0
until [ ! -d /proc/$removing ] || grep -q uprobe /proc/$removing/stack /proc/$removing/wchan
do n=$((n + 1)); [ $n -lt {_READINGS} ] || break; sleep 0.02; done
sleep 0.1
kill -0 $removing 2>/dev/null && echo waits
echo 0 >{_GATE}
wait $removing
echo ended $?
"""
        printed = self._guest.run_script(steps).check().stdout.split()
        if printed != ["waits", "ended", "0"]:
            raise Missed(f"{self._site}: rmmod during a hit: {' '.join(printed)}")

    def kill_process(self, pid: int) -> None:
        """Kill a process and wait until it is gone. Raises GuestError when it does not end."""
        gone = f"n=0; while [ -d /proc/{pid}/fd ] && kill -0 {pid} 2>/dev/null; do n=$((n + 1)); "
        gone += f"[ $n -lt {_READINGS} ] || exit 1; sleep 0.02; done"
        if not self._guest.run_script(f"kill -9 {pid}; {gone}").ok:
            raise GuestError(f"process {pid} does not end", where=self._guest.name)
