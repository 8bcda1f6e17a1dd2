"""`./pinpoint verify` writes correct text, JSON and JUnit, exits with the right status, and finds only real kprobes."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree

import locked_tools
import pytest
from test_verify import MODULE, compiled

from harness.core.elf import Elf
from harness.landing.code import kprobe_sites_in_module_file
from harness.landing.verify.judged import JudgedProbe, ProbeVerdict
from harness.matrix.verify.report import Report, reports_as_json, write_reports_as_junit
from harness.report.schemas import PUBLISHED

LANDED = JudgedProbe(
    "f+0x0", "kprobe", ProbeVerdict.LANDED, 0x10, "f+0x0", "55 became cc", "mod", seconds_since_start=1.0
)
MISSED = JudgedProbe("g+0x8", "kprobe", ProbeVerdict.MISSED, reason="the witnesses disagree")
UNKNOWN = JudgedProbe(
    "h+0x0 [m]", "kretprobe", ProbeVerdict.NOT_JUDGED, reason="no ELF file of the module m is at hand"
)


def report(*probes: JudgedProbe, wrongs: tuple[str, ...] = (), notes: tuple[str, ...] = ()) -> Report:
    return Report("vm", "6.1", "a.ko", probes, wrongs, notes, {"guest": 1.0}, Path("/log"))


@pytest.mark.parametrize("verdict", list(ProbeVerdict))
def test_only_missed_fails(verdict: ProbeVerdict) -> None:
    assert report(JudgedProbe("f+0x0", "kprobe", verdict)).exit_status == (1 if verdict is ProbeVerdict.MISSED else 0)


def test_anything_wrong_fails_and_a_note_does_not() -> None:
    assert report(LANDED, wrongs=("the kernel complained: BUG",)).exit_status == 1
    assert report(LANDED, notes=("left behind: module x",)).exit_status == 0


def test_the_text_counts_names_and_explains() -> None:
    text = report(LANDED, MISSED, UNKNOWN, wrongs=("bad\x1b[2J",), notes=("good",)).text()
    assert text.splitlines()[0] == "a.ko on vm (6.1): 1 landed, 1 missed, 1 not judged"
    assert "note: good" in text
    assert "wrong: bad" in text
    assert "\x1b" not in text
    assert "(the whole console: /log)" in text


def test_json_has_every_probe() -> None:
    (record,) = json.loads(reports_as_json([report(LANDED, MISSED)]))
    assert record["status"] == 1
    assert [(each["asked"], each["verdict"], each["address"]) for each in record["probes"]] == [
        ("f+0x0", "landed", "0x10"),
        ("g+0x8", "missed", None),
    ]


@pytest.mark.parametrize("change", [None, {"status": 2}, {"surplus": 1}, {"probes": [{}]}])
def test_json_is_valid_by_the_published_schema(change: dict[str, object] | None) -> None:
    locked_tools.install()
    from jsonschema import Draft202012Validator

    (record,) = json.loads(reports_as_json([report(LANDED, MISSED, UNKNOWN, wrongs=("bad",), notes=("good",))]))
    validator = Draft202012Validator(json.loads((PUBLISHED / "verify.schema.json").read_text()))
    validator.check_schema(validator.schema)
    assert validator.is_valid({**record, **(change or {})}) == (change is None)


def test_junit_has_a_case_for_each_probe_and_one_for_the_rest(tmp_path: Path) -> None:
    path = tmp_path / "junit.xml"
    write_reports_as_junit([report(LANDED, MISSED, UNKNOWN, wrongs=("oops \x01",))], path)
    (suite,) = ElementTree.parse(path).getroot()
    assert (suite.get("tests"), suite.get("failures")) == ("4", "2")
    assert [case.get("name") for case in suite] == [
        "kprobe f+0x0",
        "kprobe g+0x8",
        "kretprobe h+0x0 [m]",
        "kernel and text",
    ]
    assert [case.find("skipped") is not None for case in suite] == [False, False, True, False]


@pytest.mark.parametrize(
    "data",
    [
        'char *tag = "uptime_watch";',
        'int loud = 1; char *tag = "uptime_watch";',
        'char *tag = "uptime_watch"; int after[20] = { 1 };',
        'long zeros[6] __attribute__((section(".data"))) = { 0 }; char *tag = "uptime_watch";',
    ],
)
def test_a_string_behind_a_kprobe_is_no_kprobe(tmp_path: Path, data: str) -> None:
    kprobe = 'struct kprobe only = { .name = "vfs_read", .offset = 4 };'
    head = MODULE[: MODULE.index("struct kprobe first")]
    elf = Elf.read(compiled(tmp_path, f"{head}{kprobe} {data}"))
    assert [str(site) for site in kprobe_sites_in_module_file.find_kprobe_sites(elf)] == ["vfs_read+0x4"]
