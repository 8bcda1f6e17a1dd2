"""The proof of `./pinpoint sites --boot`: in a guest, a probe is registered on offsets of functions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from harness.core.errors import GuestError
from harness.core.events import ProgressStep
from harness.core.kernel_errno_names import kernel_errno_name
from harness.guest.guest import Guest
from harness.landing import five_address_witnesses
from harness.landing.layout import Layout
from harness.landing.probe_module import SiteReport
from harness.landing.site import Site
from harness.landing.sites.all_functions import Prediction
from harness.landing.sites.function import Answer
from harness.landing.sweep.sweep_module import SweepModule

_BATCH = 400
_BATCH_SECONDS = 30.0
_SITE_SECONDS = 0.15


@dataclass(frozen=True)
class Difference:
    """One offset at which the kernel's answer is not the one that the files show."""

    function: str
    offset: int
    expected: Answer
    errno: int
    why: str

    def __str__(self) -> str:
        expected = "accepted" if self.expected.accepted else f"refused ({self.expected.reason})"
        return f"{self.function}+{self.offset:#x}: {expected} by the files; the kernel {self.why}"


@dataclass
class Proof:
    """The kernel's answers: `errno_by_offset` maps function and offset to errno, 0 if the probe was accepted.

    `agreed_count` counts the offsets at which files and kernel agree, `settled_by_kernel_count` those that only the
    kernel could answer.
    """

    errno_by_offset: dict[tuple[str, int], int] = field(default_factory=dict)
    agreed_count: int = 0
    settled_by_kernel_count: int = 0
    differences: list[Difference] = field(default_factory=list)

    @property
    def agreement_percent(self) -> float:
        """The part of the offsets that the files decide at which the kernel agrees, in percent."""
        decided = self.agreed_count + len(self.differences)
        return 100 * self.agreed_count / decided if decided else 0.0


def compare_kernel_answers_with_predictions(
    guest: Guest, predictions: Sequence[Prediction], step: ProgressStep
) -> Proof:
    """Register a disabled probe on every predicted offset and compare. Nothing is patched.

    Raises GuestError if the guest fails.
    """
    layout, module, proof = Layout(guest), SweepModule(guest), Proof()
    module.load()
    for start in range(0, len(predictions), _BATCH):
        part = predictions[start : start + _BATCH]
        step.publish_progress(part[0].function, start / len(predictions))
        specs = [Site(each.function, each.offset).spec for each in part]
        batch = module.register_disabled(specs, guest.scaled_deadline(_BATCH_SECONDS + _SITE_SECONDS * len(part)))
        for each, report in zip(part, batch.reports, strict=True):
            place = each.place + layout.slide
            listed = five_address_witnesses.listed_statement(batch.listing.nearest_entries(place), place)
            unlisted = not report.errno and listed.address != place
            _compare(proof, each.function, each.offset, each.answer, report, place, unlisted)
    module.unload()
    if not proof.errno_by_offset:
        raise GuestError("no offset was tried", where=guest.name)
    return proof


def _compare(
    proof: Proof, name: str, offset: int, expected: Answer, report: SiteReport, place: int, unlisted: bool
) -> None:
    """Compare one answer of the kernel with the files; an accepted probe must also stand at the expected address."""
    proof.errno_by_offset[name, offset] = report.errno
    if not report.errno and (report.address != place or unlisted):
        why = f"put the probe at {report.address:#x}, not at {place:#x}, or does not list it there"
    elif expected.accepted is None:
        proof.settled_by_kernel_count += 1
        return
    elif expected.accepted:
        why = "" if not report.errno else f"refuses it with {kernel_errno_name(report.errno)}"
    elif not report.errno:
        why = "accepts it"
    else:
        why = "" if expected.errno in (0, report.errno) else f"refuses it with {kernel_errno_name(report.errno)}"
    if why:
        proof.differences.append(Difference(name, offset, expected, report.errno, why))
    else:
        proof.agreed_count += 1
