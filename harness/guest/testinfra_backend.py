"""testinfra over the harness's own connection: properties of a guest, such as `guest.host.file("/x").exists`."""

from __future__ import annotations

from collections.abc import Callable

import testinfra.host
from testinfra.backend.base import BaseBackend, CommandResult
from testinfra.modules.process import Process, int_or_float

from harness.guest.result import Result

# The useful columns of `ps -o` in Debian's busybox; `args` is last because it may contain blanks.
_COLUMNS = ("pid", "ppid", "user", "stat", "vsz", "rss", "comm", "args")


class GuestBackend(BaseBackend):  # type: ignore[misc]
    """Run each command of testinfra as one line of the guest's shell."""

    NAME = "pinpoint"

    def __init__(self, name: str, script: Callable[[str], Result]) -> None:
        super().__init__(name)
        self._script = script
        # testinfra would otherwise run python in the guest to determine the encoding.
        self._encoding = "utf-8"

    def run(self, command: str, *args: str, **_kwargs: object) -> CommandResult:
        """Run a command with each `%s` replaced by a quoted argument."""
        line = self.get_command(command, *args)
        result = self._script(line)
        return self.result(result.rc, line.encode(), result.out, result.err)


class GuestProcess(Process):  # type: ignore[misc]
    """testinfra's process module for Debian's busybox.

    testinfra's own busybox variant needs a column that `ps` of Debian's busybox lacks.
    """

    @classmethod
    def get_module_class(cls, _host: testinfra.host.Host) -> type[GuestProcess]:
        """Return this class: every guest has busybox."""
        return cls

    def _get_processes(self, **_filters: object) -> list[dict[str, object]]:
        listing = self.check_output("ps -A -o %s", ",".join(_COLUMNS))
        rows = (line.split(None, len(_COLUMNS) - 1) for line in listing.splitlines()[1:])
        return [dict(zip(_COLUMNS, map(int_or_float, row), strict=False)) | {"lstart": row[0]} for row in rows]

    def _get_process_attribute_by_pid(self, pid: int, name: str) -> dict[str, object]:
        raise AttributeError(f"process {pid}: busybox's ps has no column {name}, only {', '.join(_COLUMNS)}")


def make_host_from_script_runner(name: str, script: Callable[[str], Result]) -> testinfra.host.Host:
    """Return a testinfra host that runs its commands with `script`, which runs a shell script in a guest."""
    backend = GuestBackend(name, script)
    made = testinfra.host.Host(backend)
    backend.set_host(made)
    made.process = GuestProcess.get_module(made)
    return made
