"""Runs as the report's tests need them: one with every kind of result next to an earlier one, and a full matrix."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from harness.report import bundle, jsonl, lost_cells, timeline
from harness.report.bundle import BundleDescription
from harness.report.lost_cells import LostCell
from harness.report.metrics_with_goals import Figures
from harness.report.record import Cell, Results
from harness.report.relocation_by_hand_drawing_records import (
    FunctionInTwoBuilds,
    RecordedBytesAroundAddress,
    RelocatedFunctionExample,
)
from harness.report.relocation_by_hand_table import TrialRow, Trials
from harness.report.run_dir import RunDirectory
from harness.report.timeline import Span
from harness.verdict.cell_verdict_enum import Verdict

FILE = "cases/test_sites.py"
HOSTILE = "Oops </script><script>document.title = 'taken'</script> \x1b[31m<b>bold</b> | `x` \u202e"
WITNESSES = [
    {
        "site": "hex2bin+0x4",
        "hits": 3,
        "reported": "0xffffffff81000004",
        "listed": "0xffffffff81000004",
        "elf": "0xffffffff81000004",
        "trapped": "0xffffffff81000009",
        "outside": "0xffffffff81000004",
    }
]


def cell(case: str, vm: str, verdict: Verdict = Verdict.PASS, **changed: object) -> Cell:
    """A cell of a VM that runs under emulation."""
    facts: dict[str, Any] = {
        "file": FILE,
        "reason": "" if verdict is Verdict.PASS else f"why it is {verdict.value}",
        "seconds": 1.25,
        "kernel_release": "6.1.0-56-amd64",
        "arch": "parisc" if vm == "parisc" else "x86_64",
        "accelerator": "tcg",
        "qemu": "7.2.22",
        "traits": {"kprobes": True, "kaslr": False},
        "image_key": f"image-of-{vm}",
        "witnesses": WITNESSES,
        "mutant": "",
        "bundle": "",
    }
    return Cell(case=case, vm=vm, verdict=verdict, **{**facts, **changed})


def failed(run: RunDirectory, about: Cell, failure: str) -> Cell:
    """A failed cell with a bundle of its own."""
    described = BundleDescription(cell=about, file=about.file, items=[f"{about.case}[{about.vm}]"], options=[])
    pieces: dict[str, bytes | Path] = {
        "failure.txt": failure.encode(),
        "console.log": b"[    1.000000] Linux version 6.1\n[    2.000000] BUG: kernel NULL pointer dereference\n",
    }
    place = bundle.write_bundle(run.bundles_directory, described, pieces)
    return about.model_copy(update={"bundle": str(place.relative_to(run.path))})


def small(root: Path) -> RunDirectory:
    """A run with every verdict, lost cells, trials and a timeline. An earlier run, in which all held, is next to it."""
    earlier = _named(root, "20261127-120000-aaaa")
    for vm in ("parisc", "x86_64-debian"):
        for case in ("test_module_function[leaf]", "test_kernel_function[unexported]", "test_gone"):
            Results(earlier).write(cell(case, vm))
        Figures(earlier).add("cells.lost", 0, "cells", goal="0")
    Figures(earlier).add("run.wall_s", 90, "s", goal="at most 180")
    run = _named(root, "20261128-120000-bbbb")
    results = Results(run)
    trace = "BUG: kernel NULL pointer dereference\n  pinpoint_leaf+0x4 (target.c:12)\n  do_one_initcall+0x44\n"
    oops = cell("test_module_function[leaf]", "parisc", Verdict.OOPS, reason=HOSTILE)
    results.write(failed(run, oops, trace))
    results.write(cell("test_module_function[leaf]", "x86_64-debian"))
    for mutant in ("one-instruction-off", "other-build"):
        results.write(cell("test_module_function[leaf]", "x86_64-debian", mutant=mutant))
    survived = cell("test_kernel_function[unexported]", "x86_64-debian", Verdict.FAIL, mutant="one-instruction-off")
    results.write(failed(run, survived, "MutantSurvivedError: mutant one-instruction-off was not caught\n"))
    results.write(cell("test_kernel_function[unexported]", "x86_64-debian", Verdict.FAIL))
    results.write(cell("test_kernel_function[unexported]", "parisc", Verdict.KNOWN_FAIL))
    for verdict in (Verdict.SKIP, Verdict.HANG, Verdict.PANIC, Verdict.BOOT_FAIL, Verdict.HARNESS_ERROR):
        results.write(cell(f"test_{verdict.value.replace('-', '_')}", "parisc", verdict, file="cases/test_loader.py"))
    results.write(cell("test_entry", "x86_64-debian", file="cases/test_clean_up.py"))
    results.write(cell("test_entry", "parisc", file="cases/test_clean_up.py"))
    missing = LostCell(
        file=FILE,
        case="test_never",
        vm="parisc",
        mutant="",
        replay="./pinpoint run --vm parisc -k 'test_never[parisc]'",
    )
    lost_cells.write_lost_cells(run, [missing])
    Figures(run).add("cells.lost", 1, "cells", goal="0")
    Figures(run).add("run.wall_s", 120, "s", goal="at most 180")
    Figures(run).add("sweep.sites", 4711, "sites", vm="parisc")
    Trials(run, Figures(run)).add(_trial("parisc", "module", 3), headline=True)
    spans = [
        Span(worker="main", vm="parisc", kind="kernel", name="412 objects", began=0, seconds=40),
        Span(worker="w1", vm="parisc", kind="boot", name="", began=40, seconds=6),
        Span(worker="w2", vm="x86_64-debian", kind="thaw", name="", began=3, seconds=2),
        Span(worker="w1", vm="parisc", kind=timeline.CELL, name="test_entry", began=46, seconds=9, verdict="oops"),
        Span(worker="w2", vm="x86_64-debian", kind=timeline.CELL, name="test_a", began=5, seconds=7, verdict="pass"),
    ]
    run.timeline_file.write_text("".join(f"{span.model_dump_json()}\n" for span in spans))
    for vm in ("parisc", "x86_64-debian"):
        (run.path / "console" / f"{vm}.log").write_text("boot\n")
    return run


def full(root: Path, vms: int = 12, cases: int = 150) -> RunDirectory:
    """A run of a full matrix: each case on each VM, honest and with two mutants, one cell in a hundred failed.

    Each VM has four trials of relocation by hand with their drawings.
    """
    run = _named(root, "20261128-130000-cccc")
    with run.results_file.open("w") as stream:
        for each in _matrix(run, vms, cases):
            stream.write(json.dumps(each.model_dump(mode="json", by_alias=True)) + "\n")
    for number in range(40):
        for vm in range(vms):
            Figures(run).add(f"some.figure_{number}", number * vm, "things", vm=f"vm-{vm}", keep=number < 5)
    # As many functions as a real run draws. One write, because each of Trials.add() waits for the disk.
    rows = [
        _trial(f"vm-{vm}", trial, 34)
        for vm in range(vms)
        for trial in ("own-kernel", "module", "rebuilt-module", "section-module")
    ]
    run.trials_file.write_text("".join(f"{jsonl.ascii_json(row)}\n" for row in rows))
    Figures(run).add("run.wall_s", 1200, "s", goal="at most 1500")
    return run


def _matrix(run: RunDirectory, vms: int, cases: int) -> Iterator[Cell]:
    count = 0
    for vm in range(vms):
        for number in range(cases):
            for mutant in ("one-instruction-off", "registers-elsewhere", ""):
                count += 1
                # Two rows of witnesses that name addresses of this cell alone, about as long as those of real runs.
                base = 0xFFFFFFFF81000000 + 64 * count
                rows = [
                    {**WITNESSES[0], "site": f"function_{number}+{row:#x} [pinpoint_target]"}
                    | dict.fromkeys(("reported", "listed", "elf", "outside"), f"{base + row:#x}")
                    | {"trapped": f"{base + row + 5:#x}"}
                    for row in (0, 4)
                ]
                verdict = Verdict.PASS if count % 100 else Verdict.FAIL
                case = f"test_case_{number // 3}[parameter-{number % 3}]"
                made = cell(
                    case, f"vm-{vm}", verdict, file=f"cases/test_{number // 10}.py", witnesses=rows, mutant=mutant
                )
                yield failed(run, made, "assert 1 == 2\n" * 40) if verdict is Verdict.FAIL else made


def _trial(vm: str, trial: str, functions: int) -> TrialRow:
    here = RecordedBytesAroundAddress(
        address=0x1000,
        code="90" * 8 + "5589e5c3" * 4,
        kinds=["in_padding"] * 8 + ["instruction"] * 16,
        marked=8,
        label="f+0x0",
    )
    return TrialRow(
        vm=vm,
        trial=trial,
        made_for="pinpoint_target",
        symbols=34,
        missed=33,
        instruction=25,
        mid_instruction=0,
        in_stub=3,
        in_padding=5,
        unnamed_code=0,
        outside_text=0,
        missed_by_symbol=0,
        table_bytes=968,
        by_hand_bytes=1104,
        by_symbol_bytes=968,
        drawing=RelocatedFunctionExample(
            function="f+0x0 [m]", by_symbol=here, by_hand=here, place="instruction", distance=24
        ),
        moved=tuple(FunctionInTwoBuilds(f"function_{each}", 16 * each, 32 * each, 16) for each in range(functions)),
    )


def _named(root: Path, name: str) -> RunDirectory:
    """A run's directory of this name."""
    made = RunDirectory.create(root)
    made.reserved_space_file.unlink()
    path = made.path.rename(root / name)
    (root / "latest").unlink()
    (root / "latest").symlink_to(name)
    return RunDirectory(path)
