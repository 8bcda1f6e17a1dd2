"""A guest for foreign probes: thawed like a row's guest; backtraces that modules print on purpose are no complaints."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

from harness.core.deadline import Deadline
from harness.core.errors import GuestError, PinpointError
from harness.guest import start
from harness.guest.accelerator import choose
from harness.guest.guest import Guest
from harness.guest.keys import RunKeys
from harness.guest.start import StartOptions
from harness.images.build_context import BuildContext
from harness.images.image import Image
from harness.matrix.guests import guest_state
from harness.matrix.guests.freezer import Freezer
from harness.matrix.guests.guest_state import GuestState
from harness.verdict import intended_backtraces
from harness.verdict.complaints import Complaint, confirmed_by_dmesg, read_complaints, sort_by_boot_noise

_FENCE_SECONDS = 60.0
_LOG_SECONDS = 30.0
# The letters of taint that mean an error: bad page, died, warned, machine check, locked up.
_SERIOUS = frozenset("BDWML")


def start_guest(image: Image, build_context: BuildContext, log: Path, *, anew: bool = False) -> Guest:
    """Start a guest: thaw the image's frozen guest, which is made first if necessary, or boot one with `anew`.

    Raises what booting raises.
    """
    accelerator = choose(image.recipe.architecture, None)

    def beginning(keys: RunKeys) -> StartOptions:
        deadline = Deadline.after(image.recipe.machine.boot_seconds)
        return StartOptions(log, keys, accelerator, build_context.bus, deadline)

    def boot(keys: RunKeys) -> Guest:
        return start.boot(image, beginning(keys))

    if anew:
        return boot(RunKeys.make())
    freezer = Freezer(build_context, build_context.bus, None)
    return freezer.thaw(image, freezer.obtain_frozen(image, boot), beginning(RunKeys.make()))


class KernelObserver:
    """The complaints and the state of a guest's kernel, read repeatedly; `modules` may print backtraces on purpose."""

    def __init__(self, guest: Guest, modules: Collection[str]) -> None:
        self._guest = guest
        self._modules = frozenset(modules)
        self.traces = 0
        self.complaints: list[Complaint] = []
        self.clean = self.read_state()
        self.complaints = []

    def read_state(self) -> GuestState:
        """Read what was printed since the last look; return the guest's present state. Raises GuestLost."""
        guest = self._guest
        result, printed = guest.run_fenced_script(guest_state.ASK, guest.budget(_FENCE_SECONDS))
        self._take(printed)
        try:
            return GuestState.parsed(result.stdout)
        except ValueError as error:
            raise GuestError(f"its state cannot be read: {error}", where=guest.name) from None

    def read_last_complaints(self) -> list[Complaint]:
        """Return the complaints of a guest that does not answer any more."""
        self._take(self._guest.console.text(self._guest.fenced_to))
        return self.complaints

    def unexplained_taint(self, after: GuestState) -> str:
        """Return the letters of new serious taint that no complaint explains; empty for none."""
        new = after.taint - self.clean.taint
        return "" if self.complaints else "".join(sorted(new & _SERIOUS))

    def tail(self, lines: int) -> list[str]:
        """Return the last lines of the kernel's own log."""
        log = self._guest.script(f"dmesg | tail -n {lines}", self._guest.budget(_LOG_SECONDS)).stdout
        return log.splitlines()

    def _take(self, printed: str | Iterable[str]) -> None:
        found = sort_by_boot_noise(read_complaints(printed, timed=True), self._guest.image.recipe.boot_noise).alarming
        if found:
            found = tuple(self._confirmed(found))
        for complaint in found:
            if intended_backtraces.is_intended(complaint, self._modules):
                self.traces += 1
            else:
                self.complaints.append(complaint)

    def _confirmed(self, found: Sequence[Complaint]) -> Sequence[Complaint]:
        """Return the complaints that are also in the kernel's own log; all of them if the guest does not answer."""
        try:
            log = self._guest.script("dmesg -r", self._guest.budget(_LOG_SECONDS))
        except PinpointError:
            return found
        return confirmed_by_dmesg(found, log.out) if log.ok else found
