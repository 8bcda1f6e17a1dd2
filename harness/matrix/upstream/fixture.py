"""The fixture `upstream_tests`: the kernel's own tests of kprobes and uprobes, each in a guest of its own."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from harness.core.elf import Elf
from harness.core.errors import GuestError
from harness.guest.guest import Guest
from harness.images import external_build
from harness.images.build_context import BuildContext
from harness.images.image import Image
from harness.images.kernel_samples import write_module_source
from harness.images.kernel_source_files import obtain_source_files
from harness.landing.code.instructions import first_accepted_offset
from harness.landing.sweep.sweep_past_deadly_sites import FreshGuestFactory
from harness.matrix.guests.check_after_cell import explain_loss
from harness.matrix.upstream import ftrace_selftest, kunit
from harness.matrix.upstream.documented_failure import (
    cause_of_forgotten_probe,
    cause_of_refused_entry,
    documented_failure,
)
from harness.matrix.upstream.documented_loss import DocumentedLoss, documented_loss, documented_loss_by_nested_probe
from harness.matrix.upstream.mutants import put_in_force
from harness.verdict.cell_verdict_enum import end_as_known_fail

_SAMPLES = tuple(dict.fromkeys(directory for directory, _ in ftrace_selftest.MODULES.values()))


class UpstreamTests:
    """Runs tests of the source of a VM's own kernel; in a mutant's cell in a guest that is broken on purpose."""

    def __init__(self, image: Image, build_context: BuildContext, fresh: FreshGuestFactory, mutant: str) -> None:
        self._image = image
        self._build_context = build_context
        self._fresh = fresh
        self._mutant = mutant

    def run_selftest(self, test: str) -> None:
        """Run an ftrace selftest by its path below test.d, and end the cell as it ended.

        Skips on a kernel whose source is not known or does not have the test.
        """
        files = self._files([ftrace_selftest.DIRECTORY, *_SAMPLES])
        if not (files / ftrace_selftest.DIRECTORY / ftrace_selftest.TESTS / test).is_file():
            pytest.skip(f"{self._image.release} has no {ftrace_selftest.TESTS}/{test}")
        option = ftrace_selftest.NEEDED_OPTIONS.get(test)
        if option and self._image.config.get(option) != "y":
            pytest.skip(f"{self._image.release} has no {option}, which {test} does not check for")
        with tempfile.TemporaryDirectory(prefix="pinpoint-upstream-") as scratch, self._fresh() as guest:
            samples, names = ftrace_selftest.MODULES.get(test, ("", ()))
            modules = [self._built(files / samples / f"{name}.c", Path(scratch)) for name in names]
            ftrace_selftest.install(guest, files, modules)
            loss, failure = documented_loss(guest, test), documented_failure(guest, test)
            put_in_force(guest, self._mutant)
            with _ending_as_documented(guest, test, loss):
                outcome = ftrace_selftest.run_test(guest, test)
            if forgotten := cause_of_forgotten_probe(guest):
                end_as_known_fail(f"{test}: {forgotten}")
            if loss and outcome.decided:
                outcome.demand_loss(loss.cause)
            if failure and outcome.decided:
                failure.end_cell(guest, outcome)
            if refused := cause_of_refused_entry(guest, outcome, modules):
                end_as_known_fail(f"{test}: {refused}")
            outcome.raise_failure()
        outcome.end_cell(self._image.release)

    def unlisted_selftests(self, listed: Sequence[str]) -> list[str]:
        """Return the selftests of kprobes and uprobes that this kernel's source has and the list lacks."""
        files = self._files([ftrace_selftest.DIRECTORY, *_SAMPLES])
        return [test for test in ftrace_selftest.tests_in(files) if test not in listed]

    def run_kunit(self, test: str) -> None:
        """Run KUnit's suite of kprobes, and end the cell as this test of it ended.

        On a kernel without CONFIG_KUNIT the suite is compiled with a runner of ours, which runs this test alone.
        """
        runner = None if self._image.config.get(kunit.CONFIG) == "y" else kunit.RUNNER
        files = self._files(kunit.SOURCES)
        source = next((files / name for name in kunit.SOURCES if (files / name).is_file()), None)
        if source is None:
            pytest.skip(f"{self._image.release} has no {kunit.SOURCES[-1]}")
        with tempfile.TemporaryDirectory(prefix="pinpoint-upstream-") as scratch, self._fresh() as guest:
            module = self._built(source, Path(scratch), headers=runner, preincluded=kunit.AS_MODULE)
            suite, kprobes = Elf.read(module), guest.architecture.kprobe_traits
            if first_accepted_offset(suite, suite.function(kunit.PROBED), kprobes.decoder):
                # The suite also unregisters what it could not register, and the kernel oopses (MIPS, 6.1).
                pytest.skip(f"{kunit.PROBED}() begins with ftrace's code, on which this kernel refuses a probe")
            defects = kprobes.defects
            loss = documented_loss_by_nested_probe(defects) if test == kunit.NESTED_TEST else None
            put_in_force(guest, self._mutant)
            with _ending_as_documented(guest, test, loss):
                outcome = kunit.read_result(test, kunit.run_suite(guest, module, test if runner else ""))
            defect = kunit.documented_defect(test, suite, defects)
            if outcome and outcome.decided and loss:
                outcome.demand_loss(loss.cause)
            if outcome and defect:
                outcome.demand_failure(kunit.WRONG_RETURN_VALUE, defect.cause)
            elif outcome:
                outcome.raise_failure()
        if outcome is None:
            pytest.skip(f"{test} is not in the {source.name} of {self._image.release}, or not in its module")
        if defect:
            end_as_known_fail(f"{test}: {defect.cause}")
        outcome.end_cell(self._image.release)

    def _files(self, wanted: Sequence[str]) -> Path:
        if self._image.recipe.kernel.source == "given":
            pytest.skip(f"{self._image.recipe.name} was given without its source")
        return obtain_source_files(self._image, self._build_context, wanted)

    def _built(self, source: Path, scratch: Path, **headers: Path | None) -> Path:
        """Build a module of one source file of the kernel; `headers` are options of write_module_source()."""
        directory = scratch / source.stem
        write_module_source(source, directory, **headers)
        built = scratch / f"{source.stem}-built"
        built.mkdir()
        (file,) = external_build.build(directory, self._image, self._build_context, built)
        return file


@contextmanager
def _ending_as_documented(guest: Guest, test: str, loss: DocumentedLoss | None) -> Iterator[None]:
    """End the cell as known-fail if the block loses the guest as documented."""
    try:
        yield
    except GuestError as lost:
        if loss and loss.is_shown_by(explain_loss(guest, lost)):
            end_as_known_fail(f"{test}: {loss.cause}")
        if forgotten := cause_of_forgotten_probe(guest):
            end_as_known_fail(f"{test}: {forgotten}")
        raise
