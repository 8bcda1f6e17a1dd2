"""What a case uses to probe user-space files in a guest: files, runners, and runs of uprobes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from harness.guest.guest import Guest
from harness.landing.landing_judgment import Missed
from harness.landing.precompiled_sites import OtherBuildError
from harness.landing.site import Site
from harness.userspace.debug_files import DebugFileLookup
from harness.userspace.mutants import HONEST, UserMutant
from harness.userspace.probe_run import UprobeRun
from harness.userspace.runner import Runner
from harness.userspace.user_file import UserFile

# So many processes are started at most for two different addresses.
_DRAWS = 12


class Uprobes:
    """Uprobes in one guest: the fixture that cases use."""

    def __init__(self, guest: Guest, struct_types: Path, mutant: UserMutant = HONEST) -> None:
        """`struct_types` is the file that describes the kernel's structs (obtain_struct_types())."""
        self.guest = guest
        self.struct_types = struct_types
        self.mutant = mutant
        self.lives: list[UprobeRun] = []

    def in_guest(self, guest: Guest) -> Uprobes:
        """The same in a guest that the case started: `uprobes.in_guest(other)`. The kernel must be the same."""
        return Uprobes(guest, self.struct_types, self.mutant)

    def target_file(
        self, name: str, variant: str = "plain", symbols_by: DebugFileLookup = DebugFileLookup.ANY
    ) -> UserFile:
        """A target file in one of its builds, copied into the guest."""
        return UserFile.copy_build_to_guest(self.guest, variant, name, symbols_by)

    def runner_of_build(self, variant: str = "plain", **environment: str) -> Runner:
        """The target program in one of its builds: `with uprobes.runner_of_build() as process`."""
        return Runner(self.guest, self.target_file("pinpoint_runner", variant).guest_path, environment, aslr=self._aslr)

    @contextmanager
    def runners_at_two_addresses(self, function: str) -> Iterator[tuple[Runner, Runner]]:
        """Two processes of the target program that have a function at different addresses, if addresses are random.

        A kernel may choose the same address twice, SPARC often (docs/findings.md). The second process is then started
        again.
        """
        with self.runner_of_build() as first:
            for left in reversed(range(_DRAWS)):
                with self.runner_of_build() as second:
                    if not left or first.function_address(function) != second.function_address(function):
                        yield first, second
                        return

    @property
    def _aslr(self) -> bool:
        return not self.mutant.disables_aslr

    def runner_at_guest_path(self, path: str) -> Runner:
        """The target program at a path of the guest."""
        return Runner(self.guest, path, aslr=self._aslr)

    def expect_other_build_refused(self, file: UserFile, sites: Sequence[Site]) -> str:
        """Check that sites are refused in a file of another build; returns the message. Raises Missed."""
        try:
            with self.on(file, sites):
                pass
        except OtherBuildError as refused:
            return str(refused)
        raise Missed(f"sites of build {file.elf.build_id[:12]} were registered in another build, {file.guest_path}")

    def on(
        self,
        file: UserFile,
        sites: Sequence[Site],
        way: str = "tracefs",
        *,
        returns: bool = False,
        aims: Sequence[int] | None = None,
    ) -> UprobeRun:
        """Uprobes on sites of a file; `aims` are offsets to register in place of the sites' own offsets."""
        run = UprobeRun(file, sites, way, self.mutant, self.struct_types, returns=returns, aims=aims)
        self.lives.append(run)
        return run
