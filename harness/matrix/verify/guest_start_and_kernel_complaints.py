"""A guest for foreign probes: thawed like a row's guest; backtraces that modules print on purpose are no complaints."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from harness.core.errors import GuestError, PinpointError
from harness.core.files import code_sha256
from harness.guest import start
from harness.guest.accelerator import choose
from harness.guest.guest import Guest
from harness.guest.keys import RunKeys
from harness.guest.start import StartOptions
from harness.images.build_context import BuildContext
from harness.images.guest_packages_as_archive_or_disk import PackedTools, image_with_tool_disk
from harness.images.image import Image
from harness.matrix.guests import guest_state
from harness.matrix.guests.freezer import Freezer
from harness.matrix.guests.guest_state import GuestState
from harness.matrix.verify import guest_chroot_of_debian_packages
from harness.verdict import deliberate_dump_stack, pr_warn_lines_of_modules
from harness.verdict.complaints import Complaint, confirmed_by_dmesg, read_complaints, sort_by_recipe_boot_noise

_FENCE_SECONDS = 60.0
_LOG_SECONDS = 30.0


def start_guest(image: Image, build_context: BuildContext, log: Path, tools: PackedTools | None = None) -> Guest:
    """A guest that answers, with these tools in it: thawed from the image's frozen one, which is made now if need be.

    Raises what booting raises, and UsageError for a kernel that cannot mount large tools.
    """
    if tools and tools.disk:
        image = image_with_tool_disk(image, tools, build_context)
        image = replace(image, key=f"{image.key} {code_sha256(Path(guest_chroot_of_debian_packages.__file__))}")
    accelerator = choose(image.recipe.architecture, None)

    def beginning(keys: RunKeys) -> StartOptions:
        return StartOptions(log, keys, accelerator, build_context.bus, image.recipe.machine.boot_seconds)

    def boot(keys: RunKeys) -> Guest:
        return _prepared(
            start.boot(image, beginning(keys)),
            guest_chroot_of_debian_packages.mount_tools_disk_in_guest if image.disk else None,
        )

    freezer = Freezer(build_context, build_context.bus, None)
    return _prepared(
        freezer.start_guest(image, boot, beginning(RunKeys.make())),
        partial(guest_chroot_of_debian_packages.unpack_tools_in_guest, tools=tools)
        if tools and tools.archive
        else None,
    )


def _prepared(guest: Guest, prepare: Callable[[Guest], None] | None) -> Guest:
    """The guest once it has its tools; one that cannot get them is stopped."""
    try:
        if prepare:
            prepare(guest)
    except BaseException:
        guest.stop()
        raise
    return guest


class KernelComplaintsAndState:
    """The complaints and the state of a guest's kernel, read repeatedly.

    `modules` may print backtraces on purpose, and lines that begin with one of `texts`.
    """

    def __init__(self, guest: Guest, modules: Collection[str], texts: Collection[str] = ()) -> None:
        self._guest = guest
        self._modules = frozenset(modules)
        self._texts = frozenset(texts)
        self.intended_backtrace_count = 0
        self.module_lines: list[str] = []
        self.complaints: list[Complaint] = []
        self._allowed_complaint_count = 0
        self.initial_state = self.take_complaints_and_read_state()
        self.complaints = []
        self._allowed_complaint_count = 0

    def take_complaints_and_read_state(self) -> GuestState:
        """Read what was printed since the last look; return the guest's present state. Raises GuestLost."""
        guest = self._guest
        result, printed = guest.run_fenced_script(guest_state.READ_STATE_COMMAND, guest.scaled_deadline(_FENCE_SECONDS))
        self._take(printed)
        try:
            return GuestState.parse_listing(result.stdout)
        except ValueError as error:
            raise GuestError(f"its state cannot be read: {error}", where=guest.name) from None

    def read_last_complaints(self) -> list[Complaint]:
        """Return the complaints of a guest that does not answer any more."""
        self._take(self._guest.console.text(self._guest.fence_position))
        return self.complaints

    def crashes_without_complaint(self, after: GuestState) -> str:
        """Return the new taint, warnings and oopses of the kernel that no complaint explains; empty for none."""
        return "" if self.complaints else self.initial_state.unexplained_crashes(after, self._allowed_complaint_count)

    def log_tail(self, lines: int) -> list[str]:
        """Return the last lines of the kernel's own log."""
        log = self._guest.run_script(f"dmesg | tail -n {lines}", self._guest.scaled_deadline(_LOG_SECONDS)).stdout
        return log.splitlines()

    def _take(self, printed: str | Iterable[str]) -> None:
        found = sort_by_recipe_boot_noise(read_complaints(printed, timed=True), self._guest.image.recipe.boot_noise)
        self._allowed_complaint_count += len(found.allowed)
        for complaint in self._confirmed(found.alarming) if found.alarming else ():
            if deliberate_dump_stack.complaint_is_intended_backtraces(complaint, self._modules):
                self.intended_backtrace_count += 1
            elif pr_warn_lines_of_modules.is_warning_printed_by_module(complaint, self._texts, self._modules):
                self.module_lines.append(complaint.headline)
            else:
                self.complaints.append(complaint)

    def _confirmed(self, found: Sequence[Complaint]) -> Sequence[Complaint]:
        """Return the complaints that are also in the kernel's own log; all of them if the guest does not answer."""
        try:
            log = self._guest.run_script("dmesg -r", self._guest.scaled_deadline(_LOG_SECONDS))
        except PinpointError:
            return found
        return confirmed_by_dmesg(found, log.out) if log.ok else found
