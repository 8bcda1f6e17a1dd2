"""The results of `./pinpoint verify` on one VM, as text, JSON or JUnit XML."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from xml.etree import ElementTree

from harness.core.files import write_text
from harness.landing.verify.judged import JudgedProbe, ProbeVerdict, judged_table
from harness.report.verify_record import ProbeRecord, VerifyRecord
from harness.verdict.printk import without_control_codes

_HELD: Final = 0
_MISSED: Final = 1


@dataclass(frozen=True)
class Report:
    """The report of one VM. `wrongs` make the status 1, `notes` do not.

    `seconds_by_phase` has the duration of each phase.
    """

    vm: str
    release: str
    subject_name: str
    probes: tuple[JudgedProbe, ...]
    wrongs: tuple[str, ...]
    notes: tuple[str, ...]
    seconds_by_phase: dict[str, float]
    console_log: Path

    @property
    def exit_status(self) -> int:
        """The exit status: 0 if no probe was missed and nothing else is wrong, else 1."""
        return _MISSED if self.wrongs or any(each.verdict is ProbeVerdict.MISSED for each in self.probes) else _HELD

    @property
    def summary(self) -> str:
        """The number of probes with each verdict."""
        counted = Counter(each.verdict for each in self.probes)
        counts = ", ".join(f"{counted[verdict]} {verdict.value}" for verdict in ProbeVerdict if counted[verdict])
        return counts or "no probe was seen"

    def text(self) -> str:
        """Return the report for people."""
        lines = [f"{self.subject_name} on {self.vm} ({self.release}): {self.summary}"]
        if self.probes:
            lines += ["", judged_table(list(self.probes))]
        for each in self.probes:
            if each.verdict is ProbeVerdict.MISSED and each.landing:
                lines += ["", f"{each.asked}: {each.reason}", "", each.landing.format_witness_table()]
        if self.notes or self.wrongs:
            lines.append("")
        lines += [f"note: {note}" for note in self.notes]
        lines += [f"wrong: {wrong}" for wrong in self.wrongs]
        if self.exit_status:
            lines.append(f"(the whole console: {self.console_log})")
        return without_control_codes("\n".join(lines))

    @property
    def record(self) -> VerifyRecord:
        """The report as an object for JSON, whose schema is docs/schema/verify.schema.json."""
        return VerifyRecord(
            vm=self.vm,
            release=self.release,
            about=self.subject_name,
            status=_MISSED if self.exit_status else _HELD,
            probes=tuple(map(ProbeRecord.of, self.probes)),
            wrong=self.wrongs,
            notes=self.notes,
            seconds={name: round(value, 3) for name, value in self.seconds_by_phase.items()},
        )


def reports_as_json(reports: Sequence[Report]) -> str:
    """Return all reports as one JSON array, in ASCII."""
    return json.dumps([report.record.model_dump(mode="json") for report in reports], indent=2)


def write_reports_as_junit(reports: Sequence[Report], path: Path) -> None:
    """Write a test suite for each VM: a case for each probe, and one for everything else that may be wrong."""
    root = ElementTree.Element("testsuites")
    for report in reports:
        cases = [*(_case(report, each) for each in report.probes), _rest(report)]
        failures = sum(case.find("failure") is not None for case in cases)
        suite = ElementTree.SubElement(
            root,
            "testsuite",
            name=report.vm,
            tests=str(len(cases)),
            failures=str(failures),
            errors="0",
            time=f"{sum(report.seconds_by_phase.values()):.3f}",
        )
        suite.extend(cases)
    ElementTree.indent(root)
    write_text(path, ElementTree.tostring(root, encoding="unicode", xml_declaration=True) + "\n")


def _case(report: Report, each: JudgedProbe) -> ElementTree.Element:
    case = ElementTree.Element("testcase", classname=report.vm, name=_harmless(f"{each.kind} {each.asked}"))
    if each.verdict is ProbeVerdict.MISSED:
        failure = ElementTree.SubElement(case, "failure", message=_harmless(each.verdict_line))
        failure.text = _harmless(each.landing.format_witness_table() if each.landing else each.verdict_line)
    elif each.verdict is ProbeVerdict.NOT_JUDGED:
        ElementTree.SubElement(case, "skipped", message=_harmless(each.verdict_line))
    else:
        ElementTree.SubElement(case, "system-out").text = _harmless(f"{each.verdict_line} at {each.symbol_offset}")
    return case


def _rest(report: Report) -> ElementTree.Element:
    case = ElementTree.Element("testcase", classname=report.vm, name="kernel and text")
    if report.wrongs:
        failure = ElementTree.SubElement(case, "failure", message=_harmless(report.wrongs[0]))
        failure.text = _harmless("\n".join(report.wrongs))
    return case


def _harmless(text: str) -> str:
    """Return the text without characters that XML cannot hold."""
    return "".join(letter for letter in without_control_codes(text) if letter in "\t\n" or letter.isprintable())
