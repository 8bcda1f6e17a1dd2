"""One private apt state: lists of some suites for one architecture or for sources, and cached queries of them."""

from __future__ import annotations

import json
import os
import re
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from harness.core.architecture_table import ARCHITECTURES
from harness.core.deadline import Deadline
from harness.core.errors import HostError
from harness.core.events import Bus, ProgressStep
from harness.core.files import replacing, write_text
from harness.core.locks import hold_lock
from harness.core.process import FinishedProcess, run
from harness.images import disk_full_errors, host_apt_sources

SOURCE = "source"
_DAY = 86400.0
# When the lists were fetched and for which suites, and the answers to questions about them.
_STAMP, _REMEMBERED = "refreshed.json", "answers.json"
_REFRESH = 300.0
# apt's messages about a list that does not match the signed index, and the suite in the list's address.
_MISMATCH = re.compile(r"unexpected size|Hash Sum mismatch|Mirror sync in progress")
_DISTRIBUTION = re.compile(r"/dists/([^/\s]+)/")


def host_debian_architecture() -> str:
    """Return dpkg's name of the host's architecture."""
    return next((row.debian for row in ARCHITECTURES.values() if row.native and row.debian), "amd64")


class AptState:
    """Lists below `root` for `architecture` (dpkg's name, or `source` for source packages).

    Several runs and threads can use one state: a file lock guards apt, which otherwise fails at once if its own lock is
    taken. Query results are stored with the lists, because apt takes 0.2 s for a query.
    """

    def __init__(self, root: Path, architecture: str, suites: Sequence[str], bus: Bus) -> None:
        self._root = root
        self._architecture = architecture
        self._suites = tuple(suites)
        self._bus = bus
        self._mutex = threading.Lock()
        self._answers: dict[str, dict[str, str]] | None = None
        self._asked: dict[str, dict[str, str]] = {}
        self._when = 0.0
        # True while the answers are those of another machine, and there are no lists.
        self._imported = False
        self._config = root / "apt.conf"
        self._stamp = root / _STAMP
        self._remembered = root / _REMEMBERED

    @contextmanager
    def locked(self, deadline: Deadline) -> Iterator[None]:
        """Lock the state against other runs and threads in the block, and make sure that its lists are current."""
        with (
            disk_full_errors.as_host_errors(self._root),
            self._mutex,
            hold_lock(self._root / "pinpoint.lock", deadline=deadline, on_wait=self._say),
        ):
            if self._answers is None:
                self._answers = self._fresh_answers()
            yield

    def run_apt(self, argv: Sequence[str], deadline: Deadline, cwd: Path | None = None) -> FinishedProcess:
        """Run an apt program on this state; the caller must hold the lock.

        Its temporary files are in the state too: without room for them, apt reports that a repository is not signed.
        """
        settings = {"APT_CONFIG": str(self._config), "LC_ALL": "C", "TMPDIR": str(self._root)}
        return run(argv, deadline=deadline, cwd=cwd, env=settings)

    def cached_answer(self, question: str, ask: Callable[[], dict[str, str]], deadline: Deadline) -> Mapping[str, str]:
        """Return the result of `ask` for the current lists, cached until they change; an empty result is not cached."""
        if self._answers is not None and question in self._answers:
            return self._asked.setdefault(question, self._answers[question])
        with self.locked(deadline):
            if question not in (self._answers or {}):
                self.demand_lists()
            answers = self._answers or {}
            if question not in answers and (answer := ask()):
                answers = {**answers, question: answer}
                self._answers = answers
                write_text(self._remembered, json.dumps({"when": self._when, "answers": answers}))
            return self._asked.setdefault(question, answers[question]) if question in answers else {}

    def demand_lists(self) -> None:
        """Fetch the lists if there are only imported answers; the caller must hold the lock. Raises HostError."""
        if self._imported:
            self._answers = self._fresh_answers(even_if_recent=True)

    def used_answers(self) -> dict[str, Any]:
        """Return the answers that this process has used, as import_answers() takes them."""
        return {"when": self._when, "suites": list(self._suites), "answers": dict(self._asked)}

    def _say(self, detail: str) -> None:
        ProgressStep(self._bus, "host", self._step).publish_progress(detail)

    @property
    def _step(self) -> str:
        return f"package lists {self._architecture}"

    def _fresh_answers(self, *, even_if_recent: bool = False) -> dict[str, dict[str, str]]:
        """Refresh old lists, or report why that failed and keep them; return the stored results of the lists in use.

        With `even_if_recent` the lists are fetched in any case, and a failure is raised.
        """
        known = {} if even_if_recent else _read_json_object(self._stamp)
        wanted = [*self._suites, os.environ.get(host_apt_sources.MIRROR_VARIABLE, "")]
        self._when = float(known.get("when", 0))
        if known.get("for") != wanted or not 0 <= time.time() - self._when < _DAY:
            with self._bus.step("host", self._step) as step:
                try:
                    if without := self._refresh():
                        step.publish_progress(without)
                        step.set_final_detail(without)
                    self._when = time.time()
                    write_text(self._stamp, json.dumps({"when": self._when, "for": wanted}))
                    known = {}
                except HostError as error:
                    if not known:
                        raise
                    step.publish_progress(f"not refreshed: {error}; using the lists of {time.ctime(self._when)}")
        self._imported = bool(known.get("imported"))
        remembered = _read_json_object(self._remembered)
        return dict(remembered["answers"]) if remembered.get("when") == self._when else {}

    def _refresh(self) -> str:
        """Fetch the lists; return the suites that were left out and why, empty if none was.

        A mirror that is being updated serves lists that do not match their signed index, and apt refuses them. A suite
        that only updates the release is then left out. Raises HostError with apt's complaint when the list of the
        release does not match, and when no mirror answers.
        """
        deadline = Deadline.after(_REFRESH)
        refused: dict[str, str] = {}
        while True:
            self._configure(refused)
            # Without Error-Mode, apt only warns about a list that it could not fetch, and exits 0 (apt-get(8)).
            words = ["apt-get", "update", "-q", "-o", "APT::Update::Error-Mode=any"]
            done = self.run_apt(words, deadline)
            if not done.rc:
                return "; ".join(f"without {suite}: {reason}" for suite, reason in refused.items())
            reason = first_error(done.output)
            mismatched = {
                suite
                for line in done.output.splitlines()
                if line.startswith("E:") and _MISMATCH.search(line)
                for suite in _DISTRIBUTION.findall(line)
            } & set(self._optional)
            if not mismatched - refused.keys():
                mend = f"check the network, or set {host_apt_sources.MIRROR_VARIABLE}"
                raise HostError(f"cannot fetch package lists: {reason}", mend=mend)
            refused |= dict.fromkeys(mismatched, reason)

    @property
    def _optional(self) -> tuple[str, ...]:
        """Suites that only update or extend a release."""
        return tuple(name for name in self._suites[1:] if "-" in name)

    def _configure(self, refused: Collection[str] = ()) -> None:
        """Write the private source list, without the suites in `refused`, and the private configuration."""
        kind, architecture = (
            ("deb-src", host_debian_architecture()) if self._architecture == SOURCE else ("deb", self._architecture)
        )
        for name in ("lists/partial", "cache/archives/partial"):
            (self._root / name).mkdir(parents=True, exist_ok=True)
        (self._root / "status").touch()
        suites = [suite for suite in self._suites if suite not in refused]
        lines = [repository.source_list_line(kind) for repository in host_apt_sources.repositories_of_suites(suites)]
        write_text(self._root / "sources.list", "\n".join([*lines, ""]))
        settings = {
            # apt reads APT_CONFIG before the host's files (apt.conf(5)), which could override our directories.
            "Dir::Etc::main": "/dev/null",
            "Dir::Etc::parts": "/dev/null",
            "Dir::Etc::sourcelist": str(self._root / "sources.list"),
            "Dir::Etc::sourceparts": "/dev/null",
            "Dir::Etc::preferences": "/dev/null",
            "Dir::Etc::preferencesparts": "/dev/null",
            # Prefer backports: without this apt takes no package from them (NotAutomatic in their index).
            **({"APT::Default-Release": self._suites[0]} if "-" in self._suites[0] else {}),
            "Dir::State": str(self._root),
            "Dir::State::status": str(self._root / "status"),
            "Dir::Cache": str(self._root / "cache"),
            "APT::Architecture": architecture,
            "APT::Architectures::": architecture,
            # apt run by root would switch to the user _apt, which cannot write to root's cache.
            "APT::Sandbox::User": "root",
            "Acquire::Languages": "none",
        }
        ours = [f'{key} "{value}";' for key, value in settings.items()]
        # The settings may contain a proxy's password: replacing() creates the file with mode 0600.
        with replacing(self._config) as temporary:
            temporary.write_text("\n".join([*host_apt_sources.host_settings(), *ours, ""]))


def _read_json_object(path: Path) -> dict[str, Any]:
    """Return a file's JSON object; empty if the file is absent or damaged."""
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def import_answers(
    root: Path, architecture: str, when: float, suites: Sequence[str], answers: Mapping[str, Any]
) -> bool:
    """Use the answers of another machine's lists in the state below `root`; return False if it has lists of its own.

    They are used until they are a day old, like lists. The first other question, and the first download, fetch lists.
    Answers that were imported before for the same suites are kept; of two answers to one question the newer one counts,
    and the age of the older import.
    """
    state = root / architecture
    wanted = [*suites, os.environ.get(host_apt_sources.MIRROR_VARIABLE, "")]
    known = _read_json_object(state / _STAMP)
    if (state / _STAMP).exists() and not known.get("imported"):
        return False
    earlier = _read_json_object(state / _REMEMBERED)
    newest = when
    if known.get("for") == wanted and earlier.get("when") == known.get("when"):
        before = float(known.get("newest", known["when"]))
        answers = {**earlier["answers"], **answers} if when >= before else {**answers, **earlier["answers"]}
        when, newest = min(when, float(known["when"])), max(when, before)
    write_text(state / _REMEMBERED, json.dumps({"when": when, "answers": answers}))
    write_text(state / _STAMP, json.dumps({"when": when, "newest": newest, "for": wanted, "imported": True}))
    return True


def first_paragraph(text: str) -> dict[str, str]:
    """Return the fields of a package list's first paragraph; continuation lines are joined with a space."""
    fields: dict[str, str] = {}
    last = ""
    for line in text.lstrip("\n").splitlines():
        if not line.strip():
            break
        if line[0].isspace():
            fields[last] = f"{fields.get(last, '')} {line.strip()}".strip()
        elif ":" in line:
            last, _, value = line.partition(":")
            fields[last] = value.strip()
    return fields


def first_error(output: str) -> str:
    """Return the first error of apt's output, which apt may repeat; the last line if no line is marked as an error."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    errors = [line[2:].strip() for line in lines if line.startswith("E:")]
    return (errors or lines or ["apt printed nothing"])[-1 if not errors else 0]
