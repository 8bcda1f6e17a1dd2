"""Starts runs of the real command line in which something breaks, and examines what they leave."""

from __future__ import annotations

import ctypes
import json
import os
import re
import select
import signal
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.core import paths
from harness.core.deadline import Deadline

FAULT_CASES = paths.PROJECT / "tests" / "faults" / "fault_cases.py"
_WITNESS = "PINPOINT_FAULT_WITNESS"
# How long a process may outlive its run.
_GONE_SECONDS = 10.0
# include/uapi/linux/prctl.h
_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True)
class BrokenRun:
    """One run. Its results are in a directory of its own, by which its processes are found."""

    directory: Path

    def begin(self, *arguments: str, **more: str) -> subprocess.Popen[bytes]:
        """Start `./pinpoint` with these arguments; its output goes to `output_file`."""
        self.directory.mkdir(parents=True, exist_ok=True)
        env = {**_outside_pytest(os.environ), **_own(self.directory), _WITNESS: str(self.directory / "witness"), **more}
        with self.output_file.open("ab") as output:
            return subprocess.Popen(
                [paths.PROJECT / "pinpoint", *arguments],
                cwd=paths.PROJECT,
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=_die_with_parent,
            )

    @property
    def output_file(self) -> Path:
        """What the run printed."""
        return self.directory / "output"

    @property
    def output(self) -> str:
        """What the run printed."""
        return self.output_file.read_text(errors="replace")

    @property
    def cells(self) -> list[dict[str, Any]]:
        """The lines of all `results.jsonl` below the directory. Raises ValueError for a line that is not whole."""
        files = sorted(self.directory.glob("results/2*/results.jsonl"))
        return [json.loads(line) for file in files for line in file.read_text().splitlines()]

    def verdict(self, case: str) -> str:
        """The verdict of a case, or a note that it has no result."""
        return next((str(cell["verdict"]) for cell in self.cells if cell["case"] == case), "no result")

    def lost(self) -> int:
        """Return how many cells are missing in the results though the witness saw their end.

        tests/faults/conftest.py is the witness.
        """
        witness = self.directory / "witness"
        ended = witness.read_text().splitlines() if witness.exists() else []
        kept = [f"{cell['case']} {cell['vm']}" for cell in self.cells]
        return sum(max(0, ended.count(name) - kept.count(name)) for name in set(ended))

    def orphaned(self) -> int:
        """Return how many processes of the run outlive it by more than a moment."""
        deadline = Deadline.after(_GONE_SECONDS)
        return sum(not _ended(process, deadline) for process in self.processes())

    def processes(self) -> list[int]:
        """Return the processes of the run.

        What the run starts inherits the directory of its results, and QEMU gets it as an argument. This process and
        those that started it are not of the run, though the directory may be an argument of theirs.
        """
        found, above = [], _with_ancestors(os.getpid())
        # Not a longer name that begins with this one, such as that of a tenth directory.
        named = re.compile(re.escape(str(self.directory).encode()) + rb"(?![\w-])")
        for process in Path("/proc").glob("[0-9]*"):
            try:
                texts = (process / "environ").read_bytes(), (process / "cmdline").read_bytes()
            except OSError:  # Another user's, or gone.
                continue
            if any(map(named.search, texts)) and int(process.name) not in above:
                found.append(int(process.name))
        return found


def _die_with_parent() -> None:
    """Let this child end when the process of the suite that started it is killed."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGTERM))


def _with_ancestors(process: int) -> set[int]:
    """Return a process and those that started it."""
    found = set()
    while process:
        found.add(process)
        process = int(Path(f"/proc/{process}/stat").read_bytes().rpartition(b")")[2].split()[1])
    return found


def environment(directory: Path) -> dict[str, str]:
    """Return the environment of a run of the plugin in a directory, with its cache there and tests/ in its path."""
    modules = f"{paths.PROJECT}:{paths.PROJECT / 'tests'}"
    cache = {"PINPOINT_CACHE": str(directory / "cache"), "PYTHONPATH": modules}
    return {**_outside_pytest(os.environ), **_own(directory), **cache}


def _own(directory: Path) -> dict[str, str]:
    # pytest deletes old temporary directories below this root. In the common one it deletes what other runs have left:
    # that takes minutes, and killed_runs.py counts it as side effects of the run.
    return {"PINPOINT_RESULTS": str(directory / "results"), "PYTEST_DEBUG_TEMPROOT": str(directory)}


def _outside_pytest(variables: Mapping[str, str]) -> dict[str, str]:
    """Remove what a run must not inherit from the pytest run that starts it: pytest's variables and the start time."""
    return {
        name: value for name, value in variables.items() if not name.startswith("PYTEST_") and name != "PINPOINT_BEGAN"
    }


def _ended(process: int, deadline: Deadline) -> bool:
    """Wait for the end of a process that is not a child of this one; return False if it does not end."""
    try:
        descriptor = os.pidfd_open(process)
    except ProcessLookupError:
        return True
    try:
        end = select.poll()
        end.register(descriptor, select.POLLIN)
        return bool(end.poll(deadline.remaining() * 1000))
    finally:
        os.close(descriptor)
