"""Bundles are written and read only whole, share equal files, and stay in their directory; failures are compared."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from harness.core import paths
from harness.core.errors import DeadlineExceeded, GuestError, GuestLost, HostError, UsageError
from harness.report import bundle
from harness.report.bundle import BundleDescription
from harness.report.failure_evidence import reason_not_to_query
from harness.report.record import Cell
from harness.report.same_failure import cells_have_same_failure, remove_varying_parts
from harness.verdict.cell_verdict_enum import Verdict

ITEM = "test_site[parisc-mutant:one-off-leaf/../../../../etc]"


def cell(verdict: Verdict = Verdict.FAIL, reason: str = "hex2bin+0x4: the witnesses disagree") -> Cell:
    return Cell(
        file="cases/test_x.py",
        case="test_site[leaf]",
        vm="parisc",
        verdict=verdict,
        reason=reason,
        seconds=1.5,
        kernel_release="6.1",
        arch="parisc",
        accelerator="tcg",
        traits={"kprobes": True},
        image_key="0123",
        witnesses=[],
        mutant="one-off",
        bundle="",
    )


def about(seed: str = "", absent: dict[str, str] | None = None) -> BundleDescription:
    reported = {"file": "cases/test_sites.py", "items": [ITEM], "options": ["--stress=40"]}
    return BundleDescription(cell=cell(), seed=seed, absent=absent or {}, **reported)


def written(tmp_path: Path, **pieces: bytes | Path) -> Path:
    return bundle.write_bundle(
        tmp_path / "bundles", about(absent={"snapshot": "no guest came up"}), {"console.log": b"", **pieces}
    )


def test_what_is_written_is_read(tmp_path: Path) -> None:
    source = tmp_path / "x.ko"
    source.write_bytes(b"\x7fELF")
    place = bundle.write_bundle(
        tmp_path / "bundles", about(seed="7"), {"console.log": b"boot\n", "modules/x.ko": source}
    )
    read = bundle.read(place)
    assert (read.seed, read.cell, read.node_ids) == ("7", cell(), [f"{paths.CASES}/test_sites.py::{ITEM}"])
    assert set(read.files) == {"console.log", "modules/x.ko", "README.md"}
    assert (place / "modules/x.ko").read_bytes() == b"\x7fELF"


def test_the_readme_names_the_command_and_what_is_absent(tmp_path: Path) -> None:
    place = written(tmp_path)
    text = (place / "README.md").read_text()
    assert text.count("./pinpoint repro ") == 1
    assert f"    ./pinpoint repro {place}\n" in text
    assert "- no snapshot: no guest came up" in text
    assert "hex2bin+0x4: the witnesses disagree" in text


def test_a_slow_program_is_not_reported_as_a_silent_guest() -> None:
    assert reason_not_to_query(GuestLost("no answer")) == "the guest does not answer"
    assert "may still answer" in reason_not_to_query(DeadlineExceeded("`sleep 99` did not end in time"))
    assert not reason_not_to_query(GuestError("no such file"))


def test_no_name_leads_out_of_the_bundles(tmp_path: Path) -> None:
    place = written(tmp_path)
    assert place.parent == tmp_path / "bundles" / "parisc"
    assert place.is_dir()
    assert place != written(tmp_path), "a cell can fail twice in one run"


def test_equal_files_of_several_bundles_are_one(tmp_path: Path) -> None:
    large = os.urandom(1 << 17)
    first, second = (written(tmp_path, kallsyms=large, small=b"x") for _ in range(2))
    assert (first / "kallsyms").samefile(second / "kallsyms")
    assert not (first / "small").samefile(second / "small")
    shutil.rmtree(tmp_path / "bundles" / ".shared")
    assert bundle.read(second)


def test_nothing_is_left_of_a_bundle_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(HostError, match="no bundle can be written"):
        written(tmp_path, lost=tmp_path / "is-not-there")
    assert list((tmp_path / "bundles" / "parisc").iterdir()) == []


def test_what_is_no_bundle_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path, wrong in (
        (tmp_path / "nowhere", "is not there"),
        (tmp_path / "file", "is a file"),
        (tmp_path, r"has no bundle\.json"),
    ):
        with pytest.raises(UsageError, match=wrong) as reported:
            bundle.read(path)
        assert "\n" not in str(reported.value)


def test_half_a_bundle_is_refused_whatever_is_missing_or_changed(tmp_path: Path) -> None:
    place = written(tmp_path)
    for name in (*bundle.read(place).files, bundle.ABOUT):
        half = tmp_path / "half"
        shutil.copytree(place, half)
        (half / name).unlink()
        with pytest.raises(UsageError):
            bundle.read(half)
        (half / name).write_bytes(b"{}")
        with pytest.raises(UsageError) as reported:
            bundle.read(half)
        assert "\n" not in str(reported.value)
        shutil.rmtree(half)


@pytest.mark.parametrize("cut", [0, 1, 40, -3])
def test_a_torn_description_is_refused(tmp_path: Path, cut: int) -> None:
    place = written(tmp_path)
    path = place / bundle.ABOUT
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(UsageError, match="is damaged"):
        bundle.read(place)


@pytest.mark.parametrize("changed", [{"format": 2}, {"wings": True}, {"cell": None}])
def test_a_bundle_of_another_version_is_refused(tmp_path: Path, changed: dict[str, Any]) -> None:
    place = written(tmp_path)
    path = place / bundle.ABOUT
    path.write_text(json.dumps({**json.loads(path.read_text()), **changed}))
    with pytest.raises(UsageError, match="not of this version of Pinpoint"):
        bundle.read(place)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("Oops at 0xffffffff8110b3d0", "Oops at 0xffffffffa230b3d0"),
        ("no answer in 10.5 s", "no answer in 9.25 s"),
        ("task sh pid 77 hangs", "task sh pid 1201 hangs"),
        ("Oops: 0002 [#1] SMP", "Oops: 0002 [#2] SMP"),
        ("IAOQ: 10203ab8 00000004", "IAOQ: 10203aff 00000004"),
        ("fence 0123456789abcdef", "fence fedcba9876543210"),
        (
            "soft hang: no heartbeat for 4.0 beats of 3.0 s; CPU 0 at spin+0x4 (12/12)",
            "soft hang: no heartbeat for 4.2 beats of 3.1 s; CPU 0 at spin+0x4 (9/12), idle+0x8 (3/12)",
        ),
    ],
)
def test_what_changes_from_boot_to_boot_is_no_difference(first: str, second: str) -> None:
    assert remove_varying_parts(first) == remove_varying_parts(second)
    assert cells_have_same_failure(cell(reason=first), cell(reason=second))


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("hex2bin+0x4: the witnesses disagree", "hex2bin+0x8: the witnesses disagree"),
        ("hex2bin+0x10000000: missed", "hex2bin+0x20000000: missed"),
        ("hit 7 times", "hit 8 times"),
        ("mm/slub.c:5134", "mm/slub.c:5135"),
        ("deadbeef is a word", "feedface is a word"),
        ("soft hang: no heartbeat for 4.0 beats of 3.0 s", "hard hang: no heartbeat for 4.0 beats of 3.0 s"),
    ],
)
def test_the_cause_of_a_failure_is_a_difference(first: str, second: str) -> None:
    assert not cells_have_same_failure(cell(reason=first), cell(reason=second))


def test_another_verdict_is_another_failure() -> None:
    assert not cells_have_same_failure(cell(Verdict.OOPS), cell(Verdict.PANIC))
