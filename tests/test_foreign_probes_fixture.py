"""The fixture of foreign probes: a program that an oops ended was not refused."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any, cast

import pytest

from harness.core.errors import GuestError
from harness.matrix.guests.check_after_cell import KernelComplained
from harness.matrix.verify import foreign_probes_fixture
from harness.matrix.verify.foreign_probes_fixture import ForeignProbes
from harness.matrix.verify.subjects import SubjectRefused
from harness.verdict.complaint_kinds import ComplaintKind
from harness.verdict.complaints import Complaint

OOPS = Complaint(ComplaintKind.FAULT, "Break instruction in kernel code[#1]:", "", ())


class Refused:
    """A module that insmod does not load."""

    stopped = False

    def start(self) -> None:
        raise SubjectRefused("was refused: Segmentation fault", where="a.ko")

    def stop(self) -> None:
        self.stopped = True


@contextmanager
def watched(*_: object, **__: object) -> Iterator[object]:
    yield SimpleNamespace()


@pytest.mark.parametrize(
    ("complaints", "expected"), [((), SubjectRefused), ((OOPS,), KernelComplained)], ids=["none", "oops"]
)
def test_a_program_that_an_oops_ended_was_not_refused(
    monkeypatch: pytest.MonkeyPatch, complaints: tuple[Complaint, ...], expected: type[Exception]
) -> None:
    def explain(_: object, lost: GuestError) -> Exception:
        assert "Segmentation fault" in str(lost)
        return KernelComplained(complaints, {})

    monkeypatch.setattr(foreign_probes_fixture, "loaded_targets", lambda _: [])
    monkeypatch.setattr(foreign_probes_fixture, "WatchedGuest", watched)
    monkeypatch.setattr(foreign_probes_fixture, "complaints_since_check", lambda _: complaints)
    monkeypatch.setattr(foreign_probes_fixture, "explain_loss", explain)
    subject, probes = Refused(), ForeignProbes(cast(Any, SimpleNamespace(name="a-vm")), "")
    with pytest.raises(expected):
        probes._run(cast(Any, subject), {})
    assert subject.stopped
