"""Runs of the kernel's make: its compiler, progress from its output, its log, and the errors in the log."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from harness.core import paths
from harness.core.architecture import Architecture
from harness.core.deadline import Deadline
from harness.core.errors import BuildError, HostError, RecipeError
from harness.core.events import ProgressStep
from harness.core.process import run

# A lower nice value than guests have, because a run waits for its compiles in the end. Builds of probe modules have an
# even lower one.
NICE = 5

# `  CC      kernel/fork.o`: make's short form of a command, one per line (scripts/Kbuild.include, 6.1).
_COMMAND = re.compile(r"  (?:CC|AS|AR|LD|HOSTCC|HOSTLD|GEN|OBJCOPY|MODPOST)(?: \[M\])? +(\S+)")
_NOT_CLEAN = re.compile(r"source tree is not clean, please run '(?P<command>[^']+)'\n\*\*\* in (?P<tree>[^\n]+)")
_WARNING = re.compile(r"\bwarning:", re.IGNORECASE)
_ERROR = re.compile(r"\berror:|\*\*\*|undefined reference", re.IGNORECASE)

# Without these, the kernel's banner would contain the user and the time of the build, and each build would differ
# (Documentation/kbuild/reproducible-builds.rst, 6.1).
_REPRODUCIBLE = {
    "KBUILD_BUILD_USER": "pinpoint",
    "KBUILD_BUILD_HOST": "pinpoint",
    "KBUILD_BUILD_TIMESTAMP": "Thu Jan  1 00:00:00 UTC 2015",
    "KBUILD_BUILD_VERSION": "1",
}


@lru_cache
def compiler_and_linker_versions(architecture: Architecture) -> str:
    """Return the first line of gcc's and ld's `--version`, for store keys. Raises HostError if one is not installed."""
    tools = [f"{architecture.cross_prefix}{tool}" for tool in ("gcc", "ld")]
    answers = [run([tool, "--version"], deadline=Deadline.after(30)) for tool in tools]
    return "; ".join(answer.output.partition("\n")[0] for answer in answers)


def compiler_command(architecture: Architecture, program: Path | None = None) -> str:
    """Return the value of make's CC: the host's compiler or `program`, run by ccache if ccache is installed."""
    gcc = str(program or f"{architecture.cross_prefix}gcc")
    return f"ccache {gcc}" if shutil.which("ccache") else gcc


@dataclass
class MakeProgress:
    """Progress of make: the commands that it has printed, out of about `expected_command_count`.

    0 if that number is unknown.
    """

    step: ProgressStep
    expected_command_count: int = 0
    printed_command_count: int = 0

    def process_line(self, line: str) -> None:
        """Process one line of make's output, and publish the progress."""
        if found := _COMMAND.match(line):
            self.printed_command_count += 1
            self.step.publish_progress(Path(found[1]).name, self.fraction)

    @property
    def fraction(self) -> float | None:
        """The part that is done, at most 0.99, because make prints nothing when it ends."""
        return (
            min(0.99, self.printed_command_count / self.expected_command_count) if self.expected_command_count else None
        )


@dataclass(frozen=True)
class Make:
    """The kernel's make for one architecture: `make -C source O=objects`."""

    architecture: Architecture
    source: Path
    objects: Path
    log: Path
    jobs: int = 1
    nice: int = NICE
    compiler_program: Path | None = None
    """The compiler, if it is not the host's."""

    def run(
        self,
        targets: Sequence[str],
        output: MakeProgress,
        *,
        deadline: Deadline,
        variables: Mapping[str, str] | None = None,
    ) -> None:
        """Make the targets. Raises BuildError with the log and its first error."""
        _demand_plain_path(self.objects)
        settings = {
            "O": str(self.objects),
            "ARCH": self.architecture.kernel_arch,
            "CROSS_COMPILE": self.architecture.cross_prefix,
            "CC": compiler_command(self.architecture, self.compiler_program),
            **_REPRODUCIBLE,
            **(variables or {}),
        }
        assignments = [f"{name}={value}" for name, value in settings.items()]
        argv: list[str | Path] = ["make", "-C", self.source, f"-j{self.jobs}", *assignments, *targets]
        what = f"make {' '.join(targets)}"
        run_logged(argv, what, self.log, deadline=deadline, on_line=output.process_line, nice=self.nice)


def run_logged(
    argv: Sequence[str | Path],
    what: str,
    log: Path,
    *,
    deadline: Deadline,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    on_line: Callable[[str], None] | None = None,
    nice: int = NICE,
) -> None:
    """Run one step of a build and append its output to `log`.

    Raises BuildError when the step fails, with the log and the first error in the step's part of the log.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    start = log.stat().st_size if log.exists() else 0
    environment = {"CCACHE_DIR": str(paths.cache() / "ccache"), "LC_ALL": "C", "MAKEFLAGS": "", **(env or {})}
    finished = run(argv, deadline=deadline, cwd=cwd, env=environment, log=log, on_line=on_line, nice=nice)
    if finished.rc != 0:
        _demand_clean_tree(log, start)
        raise BuildError(f"{what} failed: {_first_complaint(log, start)}", where=str(log), mend="see the log", log=log)


def warnings(log: Path) -> list[str]:
    """Return the distinct warnings in a log: all of its object tree's, because kbuild compiles nothing twice."""
    return list(dict.fromkeys(line for line in log.read_text(errors="replace").splitlines() if _WARNING.search(line)))


def _first_complaint(log: Path, start: int) -> str:
    """Return the first line with an error in this run's part of the log."""
    lines = [line.strip() for line in _text(log, start).splitlines() if line.strip(" *\t")]
    return next((line for line in lines if _ERROR.search(line)), lines[-1] if lines else "no output")


def _demand_clean_tree(log: Path, start: int) -> None:
    """Raise RecipeError when make refused a source tree with build results in it (Makefile, outputmakefile, 6.1)."""
    found = _NOT_CLEAN.search(_text(log, start))
    if found:
        raise RecipeError(
            "the kernel source contains build results, and make needs a clean tree",
            where=found["tree"].strip(),
            mend=f"run `{found['command']}` there, which removes the build results and .config",
        )


def _text(log: Path, start: int) -> str:
    """Return what this run wrote to the log."""
    with log.open("rb") as stream:
        stream.seek(start)
        return stream.read().decode(errors="replace")


def _demand_plain_path(path: Path) -> None:
    """Raise HostError for a path with a space or a colon, which make refuses (Makefile, `cannot contain`, 6.1)."""
    if re.search(r"[\s:]", str(path)):
        raise HostError("its path has a space or a colon", where=str(path), mend="set PINPOINT_CACHE elsewhere")
