"""Bundles of failed cells. Evidence is read from the guest at the failure; the bundle is written at the cell's end."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Iterable
from functools import lru_cache
from pathlib import Path

import pytest

from harness.core import paths
from harness.core.errors import BuildError, GuestError, HostError
from harness.core.files import sha256
from harness.guest.guest import Guest
from harness.images import own_tree_modules
from harness.images.image import Image
from harness.landing.landing_judgment import Missed
from harness.matrix.cells.cell_phases_and_verdict import CellWatch
from harness.matrix.cells.selection import CellId
from harness.matrix.commands import replay_options
from harness.matrix.guests import check_after_cell
from harness.report import bundle
from harness.report.bundle import BundleDescription
from harness.report.failure_evidence import CONSOLE, Evidence, gather_evidence
from harness.report.run_dir import RunDirectory

# How much of the end of a console log goes into the bundle of a guest that never answered.
_TAIL_BYTES = 1 << 20
# Outcomes that are not failures: the guest is healthy and no evidence is needed.
_NO_FAILURE = (pytest.skip.Exception, pytest.xfail.Exception)

TakeOver = Callable[[Guest, Evidence, str], None]


class Bundles:
    """Writes the bundles of one run. `take_over` is called with a failed cell's guest, its evidence and its reason.

    If the bundles are moved afterwards, `final_directory` is the directory of the run that they will be in.
    """

    def __init__(
        self,
        directory: RunDirectory,
        config: pytest.Config,
        take_over: TakeOver | None = None,
        final_directory: Path | None = None,
    ) -> None:
        self._directory = directory
        self._final = RunDirectory(final_directory) if final_directory else directory
        self._config = config
        self._take_over = take_over

    def gather_evidence(self, watch: CellWatch, error: BaseException, text: str = "") -> None:
        """Gather the evidence at the first failure: of a phase of the cell, or of a guest that the cell started."""
        if not self._is_failure(watch, error):
            return
        watch.failed_with = watch.failed_with or error
        watch.failure_text = watch.failure_text or text
        if watch.guest is None or watch.evidence is not None:
            return
        watch.evidence = gather_evidence(watch.guest, error)
        if self._take_over:
            # Judge now as the fixtures would at their end: what a person does to the guest must not fail the cell.
            watch.judge(check_after_cell.explain_loss(watch.guest, error) if isinstance(error, GuestError) else error)
            watch.final = True
            self._take_over(watch.guest, watch.evidence, watch.reason)

    def _is_failure(self, watch: CellWatch, error: BaseException) -> bool:
        """Return False for a caught mutant, which raises Missed, for a skip, a known failure and a kernel mutant."""
        if self._config.option.kernel_mutant:
            return False
        caught = isinstance(error, Missed) and watch.identity.mutant and not self._config.option.as_honest
        return not (caught or isinstance(error, _NO_FAILURE))

    def write(self, watch: CellWatch, survivors: Iterable[CellId]) -> None:
        """Write the bundle of a failed cell; `survivors` are the surviving mutants that made it fail.

        If the bundle cannot be written, the error is added to the cell's reason and the cell is recorded without one.
        """
        if watch.verdict.acceptable or self._config.option.kernel_mutant:
            return
        if watch.evidence is None and watch.guest is not None:
            watch.evidence = gather_evidence(watch.guest, watch.failed_with or AssertionError())
        try:
            made = bundle.write_bundle(
                self._directory.bundles_directory,
                self._about(watch, survivors),
                self._pieces(watch),
                self._final.bundles_directory,
            )
        except HostError as error:
            watch.reason += f"; {error}"
        else:
            watch.bundle = str(made.relative_to(self._directory.path))

    def _about(self, watch: CellWatch, survivors: Iterable[CellId]) -> BundleDescription:
        guest, evidence = watch.guest, watch.evidence
        case = paths.case_file(watch.identity.file)
        return BundleDescription(
            cell=watch.as_record(),
            file=watch.identity.file,
            items=[*(each.item_name for each in survivors), watch.identity.item_name],
            options=replay_options.options(self._config),
            schedule=getattr(watch.failed_with, "schedule", ""),
            seed=replay_options.seed(self._config),
            build_id=guest.image.build_id if guest else "",
            qemu=guest.argv if guest else [],
            accelerator_reason=guest.accelerator.reason if guest else "",
            boot_seconds=round(guest.boot_seconds, 3) if guest else 0.0,
            loop_seconds=guest.heartbeat.loop_seconds if guest and guest.heartbeat else None,
            slide=evidence.slide if evidence else None,
            hashes={
                **(_hashes(guest.image) if guest else {}),
                **({watch.identity.file: sha256(case)} if case.is_file() else {}),
                **own_tree_modules.source_hashes(),
            },
            frozen=guest.frozen if guest else "",
            absent={**(evidence.absence_reasons if evidence else {}), **_no_snapshot(guest)},
        )

    def _pieces(self, watch: CellWatch) -> dict[str, bytes | Path]:
        """Return the files of the bundle."""
        guest, evidence = watch.guest, watch.evidence
        recipe = paths.find_in_trees(paths.RECIPES, f"{watch.identity.vm}.toml")
        witnesses = json.dumps(watch.as_record().witnesses, indent=1) + "\n"
        return {
            "failure.txt": (watch.failure_text or watch.reason).encode(errors="replace") + b"\n",
            "witnesses.json": witnesses.encode(),
            **({"recipe.toml": recipe} if recipe.is_file() else {}),
            **({} if guest else self._last_console(watch.identity.vm)),
            **_build_log(watch.failed_with),
            **(evidence.file_contents if evidence else {}),
            **({"qemu.txt": f"{shlex.join(guest.argv)}\n".encode()} if guest else {}),
            **(_modules(guest) if guest else {}),
        }

    def _last_console(self, vm: str) -> dict[str, bytes | Path]:
        """Return the end of the VM's newest console log, for a cell whose guest never came up."""
        logs = self._directory.console_logs_of_vm(vm)
        return {CONSOLE: logs[-1].read_bytes()[-_TAIL_BYTES:]} if logs else {}


def _no_snapshot(guest: Guest | None) -> dict[str, str]:
    """Return why the bundle has no snapshot to start from; empty when the guest was thawed."""
    if guest is None:
        return {"snapshot": "no guest came up"}
    return {} if guest.frozen else {"snapshot": "the guest was booted, not thawed"}


def _build_log(error: BaseException | None) -> dict[str, bytes | Path]:
    """Return the log of the failed build, if a build failed."""
    there = isinstance(error, BuildError) and error.log is not None and error.log.is_file()
    return {"build.log": error.log} if there and isinstance(error, BuildError) and error.log else {}


def _modules(guest: Guest) -> dict[str, bytes | Path]:
    """Return the modules that were shipped to the guest."""
    names = {file: name for name, file in guest.image.all_modules.items()}
    return {f"modules/{names[file]}.ko": file for file in guest.copied_files.values() if file in names}


def _hashes(image: Image) -> dict[str, str]:
    files = {"kernel": image.kernel, "vmlinux": image.vmlinux, "initrd": image.initrd}
    files |= {f"modules/{name}.ko": file for name, file in image.all_modules.items()}
    files |= {f"programs/{name}": file for name, file in image.programs.items()}
    return {name: _hash(file) for name, file in files.items()}


@lru_cache(maxsize=256)
def _hash(file: Path) -> str:
    """Return the hash of a file in the store, which does not change while a run uses it."""
    return sha256(file)
