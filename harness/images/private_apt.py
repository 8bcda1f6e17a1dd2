"""One private apt state: lists of some suites for one architecture, or for sources, and questions put to them."""

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

from harness.core.architecture import ARCHITECTURES
from harness.core.deadline import Deadline
from harness.core.errors import HostError
from harness.core.events import Bus, ProgressStep
from harness.core.files import replacing, write_text
from harness.core.locks import held
from harness.core.process import Finished, run
from harness.images import full_disk, mirrors

SOURCE = "source"
_DAY = 86400.0
_REFRESH = 300.0
# What apt prints about a list that does not match the signed index, and the suite in the list's address.
_MISMATCH = re.compile(r"unexpected size|Hash Sum mismatch|Mirror sync in progress")
_DISTRIBUTION = re.compile(r"/dists/([^/\s]+)/")


def native() -> str:
    """dpkg's name of the host's architecture."""
    return next((row.debian for row in ARCHITECTURES.values() if row.native and row.debian), "amd64")


class AptState:
    """Lists below `root` for `architecture` (dpkg's name, or `source` for source packages).

    Usable by several runs and threads at once: a file lock guards apt, which by itself fails at once where its own lock
    is taken. Answers are remembered beside the lists they came from, for apt takes 0.2 s to give one.
    """

    def __init__(self, root: Path, architecture: str, suites: Sequence[str], bus: Bus) -> None:
        self._root = root
        self._architecture = architecture
        self._suites = tuple(suites)
        self._bus = bus
        self._mutex = threading.Lock()
        self._answers: dict[str, dict[str, str]] | None = None
        self._when = 0.0
        self._config = root / "apt.conf"
        self._stamp = root / "refreshed.json"
        self._remembered = root / "answers.json"

    @contextmanager
    def held(self, deadline: Deadline) -> Iterator[None]:
        """Keep other runs' and threads' hands off, with lists that are there and fresh."""
        with (
            full_disk.told(self._root),
            self._mutex,
            held(self._root / "pinpoint.lock", deadline=deadline, on_wait=self._say),
        ):
            if self._answers is None:
                self._answers = self._fresh_answers()
            yield

    def ask(self, argv: Sequence[str], deadline: Deadline, cwd: Path | None = None) -> Finished:
        """Run an apt program on this state; the caller holds it."""
        return run(argv, deadline=deadline, cwd=cwd, env={"APT_CONFIG": str(self._config), "LC_ALL": "C"})

    def recall(self, question: str, ask: Callable[[], dict[str, str]], deadline: Deadline) -> Mapping[str, str]:
        """What `ask` answers on the lists of today, asked once for each list; an empty answer is not remembered."""
        if self._answers is not None and question in self._answers:
            return self._answers[question]
        with self.held(deadline):
            answers = self._answers or {}
            if question not in answers and (answer := ask()):
                answers = {**answers, question: answer}
                self._answers = answers
                write_text(self._remembered, json.dumps({"when": self._when, "answers": answers}))
            return answers.get(question, {})

    def _say(self, detail: str) -> None:
        ProgressStep(self._bus, "host", self._step).say(detail)

    @property
    def _step(self) -> str:
        return f"package lists {self._architecture}"

    def _fresh_answers(self) -> dict[str, dict[str, str]]:
        """See to it that there are lists of today, or say why not and go on with older ones; what they answered."""
        known = self._read(self._stamp)
        wanted = [*self._suites, os.environ.get(mirrors.MIRROR, "")]
        self._when = float(known.get("when", 0))
        if known.get("for") != wanted or not 0 <= time.time() - self._when < _DAY:
            with self._bus.step("host", self._step) as step:
                try:
                    if without := self._refresh():
                        step.say(without)
                        step.close_with(without)
                    self._when = time.time()
                    write_text(self._stamp, json.dumps({"when": self._when, "for": wanted}))
                except HostError as error:
                    if not known:
                        raise
                    step.say(f"not refreshed: {error}; going on with those of {time.ctime(self._when)}")
        remembered = self._read(self._remembered)
        return dict(remembered["answers"]) if remembered.get("when") == self._when else {}

    def _refresh(self) -> str:
        """Fetch the lists. Returns which suites were left out and why, empty when none was.

        A mirror that is being updated serves lists that do not match their signed index, and apt refuses them. A suite
        that only updates the release is then left out. Raises HostError with apt's complaint when the list of the
        release does not match, and when no mirror answers.
        """
        deadline = Deadline.after(_REFRESH)
        refused: dict[str, str] = {}
        while True:
            self._configure(refused)
            # Error-Mode: without it apt only warns of a list it could not fetch, and exits 0 (apt-get(8)).
            words = ["apt-get", "update", "-q", "-o", "APT::Update::Error-Mode=any"]
            done = self.ask(words, deadline)
            if not done.rc:
                return "; ".join(f"without {suite}: {told}" for suite, told in refused.items())
            told = complaint(done.output)
            mismatched = {
                suite
                for line in done.output.splitlines()
                if line.startswith("E:") and _MISMATCH.search(line)
                for suite in _DISTRIBUTION.findall(line)
            } & set(self._optional)
            if not mismatched - refused.keys():
                raise HostError(f"cannot fetch package lists: {told}", mend=f"see the network, or set {mirrors.MIRROR}")
            refused |= dict.fromkeys(mismatched, told)

    @property
    def _optional(self) -> tuple[str, ...]:
        """The suites that only update or extend a release."""
        return tuple(name for name in self._suites[1:] if "-" in name)

    def _configure(self, refused: Collection[str] = ()) -> None:
        """Write the private sources, without the suites `refused`, and the configuration."""
        kind, architecture = ("deb-src", native()) if self._architecture == SOURCE else ("deb", self._architecture)
        for name in ("lists/partial", "cache/archives/partial"):
            (self._root / name).mkdir(parents=True, exist_ok=True)
        (self._root / "status").touch()
        suites = [suite for suite in self._suites if suite not in refused]
        lines = [repository.line(kind) for repository in mirrors.repositories(suites)]
        write_text(self._root / "sources.list", "\n".join([*lines, ""]))
        settings = {
            # APT_CONFIG is read before the host's files (apt.conf(5)), which could set our directories back.
            "Dir::Etc::main": "/dev/null",
            "Dir::Etc::parts": "/dev/null",
            "Dir::Etc::sourcelist": str(self._root / "sources.list"),
            "Dir::Etc::sourceparts": "/dev/null",
            "Dir::Etc::preferences": "/dev/null",
            "Dir::Etc::preferencesparts": "/dev/null",
            # Prefer the backports: without this apt takes no package from them (NotAutomatic in their index).
            **({"APT::Default-Release": self._suites[0]} if "-" in self._suites[0] else {}),
            "Dir::State": str(self._root),
            "Dir::State::status": str(self._root / "status"),
            "Dir::Cache": str(self._root / "cache"),
            "APT::Architecture": architecture,
            "APT::Architectures::": architecture,
            # Root's apt would become _apt, who cannot write to root's cache.
            "APT::Sandbox::User": "root",
            "Acquire::Languages": "none",
        }
        ours = [f'{key} "{value}";' for key, value in settings.items()]
        # Not write_text: a proxy's password may be in it, and the temporary file's mode is 0600.
        with replacing(self._config) as beside:
            beside.write_text("\n".join([*mirrors.host_settings(), *ours, ""]))

    @staticmethod
    def _read(path: Path) -> dict[str, Any]:
        """A JSON object, empty when the file is absent or damaged."""
        try:
            found = json.loads(path.read_text())
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}


def first_paragraph(text: str) -> dict[str, str]:
    """The fields of the first paragraph of a package list; continuation lines are joined on with a space."""
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


def complaint(output: str) -> str:
    """What apt says went wrong, without its habit of saying it twice; its last line when it marks no error."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    errors = [line[2:].strip() for line in lines if line.startswith("E:")]
    return (errors or lines or ["no word from apt"])[-1 if not errors else 0]
