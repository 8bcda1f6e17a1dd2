"""A live patch in a guest: loads its module, waits until every task uses the new functions, and removes it."""

from __future__ import annotations

from harness.core.errors import GuestError
from harness.landing.target import Target

# A task switches to the new functions when it is outside of the old ones; the kernel retries every second
# (klp_try_complete_transition(), kernel/livepatch/transition.c, 6.1).
_TRANSITION_SECONDS = 60.0
_SYSFS = "/sys/kernel/livepatch"
_UNTIL_PATCHED = 'while [ "$(cat {directory}/transition)" = 1 ]; do sleep 0.1; done'
_UNTIL_REMOVED = "echo 0 >{directory}/enabled && while [ -e {directory} ]; do sleep 0.1; done"


class LivePatch(Target):
    """The module of one live patch. Between load and unload every call of an old function runs the new one."""

    def load(self) -> None:
        """Load the module and wait until its transition is complete. Raises GuestError."""
        super().load()
        self._wait(_UNTIL_PATCHED)

    def disable(self) -> None:
        """Let every call run the old function again; the module stays loaded. Raises GuestError."""
        self._wait(_UNTIL_REMOVED)

    def unload(self) -> None:
        """Disable the patch, if it is enabled, and unload the module. Raises GuestError if the kernel refuses."""
        if self.guest.run("test", "-e", self._patch_directory).ok:
            self.disable()
        super().unload()

    @property
    def _patch_directory(self) -> str:
        return f"{_SYSFS}/{self.module}"

    def _wait(self, script: str) -> None:
        deadline = self.guest.scaled_deadline(_TRANSITION_SECONDS)
        if not self.guest.run_script(script.format(directory=self._patch_directory), deadline).ok:
            raise GuestError(f"{self._patch_directory} is not as expected", where=self.guest.name)
