"""The bench computes, keeps and shows its figures correctly. Nothing is timed here."""

from __future__ import annotations

import io
import itertools
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from rich.console import Console

from harness import cli
from harness.bench import (
    added_case_cost,
    bench,
    benchmark_registry,
    boots,
    floor,
    matrices,
    saved_results,
    table,
    virtme,
)
from harness.bench.benchmark_registry import Group
from harness.bench.context import BenchContext
from harness.bench.interleave import interleave
from harness.bench.measured_ratio_and_goal import FigureDefinition, FigureResult, UnavailableSide, figure_result
from harness.bench.samples import Samples
from harness.core import paths, process
from harness.core.errors import HostError, UsageError
from harness.core.events import Bus
from harness.guest.accelerator import Accelerator
from harness.images.image import Image
from harness.images.vm_recipe import load_all, select
from harness.report import time_accounts
from harness.report.metrics_with_goals import Figures
from harness.report.run_dir import RunDirectory

HALF = FigureDefinition("a_vs_b", "a and b", "at most 0.5", "a", "b")
ALONE = FigureDefinition("a_s", "a alone", "at most 1", "a")


def samples(*values: float) -> Samples:
    return Samples(values)


@pytest.fixture
def directory(tmp_path: Path) -> RunDirectory:
    return RunDirectory.create(tmp_path / "results")


def context(directory: RunDirectory, bus: Bus, *vms: str) -> BenchContext:
    nothing = cast(Any, None)
    return BenchContext(select(vms), 2, directory, nothing, bus, nothing)


# --- samples and figures


def test_median_and_spread() -> None:
    odd, even = samples(3.0, 1.0, 2.0, 9.0, 2.5), samples(4.0, 1.0, 2.0, 8.0)
    assert (odd.median, odd.least, odd.most) == (2.5, 1.0, 9.0)
    assert even.median == 3.0
    assert str(odd) == "2.50 s (1.00..9.00)"
    assert str(samples(0.0123, 0.01, 0.02)) == "12.30 ms (10.00..20.00)"


def test_a_ratio_is_ours_by_the_peers_and_never_the_other_way_round() -> None:
    quick, slow = samples(1.0, 1.1, 0.9), samples(4.0, 4.4, 3.6)
    won = figure_result(HALF, {"a": quick, "b": slow})
    lost = figure_result(HALF, {"a": slow, "b": quick})
    assert (won.value, won.goal_met, won.unit) == (0.25, True, "ratio")
    assert (lost.value, lost.goal_met) == (4.0, False)


def test_a_ratio_is_of_medians_not_of_means_nor_of_best_runs() -> None:
    measured = figure_result(HALF, {"a": samples(1.0, 1.0, 10.0), "b": samples(2.0, 4.0, 4.0)})
    assert measured.value == 0.25


def test_a_figure_without_a_peer_is_seconds() -> None:
    measured = figure_result(ALONE, {"a": samples(0.9, 1.2, 1.1)})
    assert (measured.value, measured.unit, measured.goal_met) == (1.1, "s", False)
    assert figure_result(ALONE, {"a": samples(1.0)}).goal_met


@pytest.mark.parametrize("missing", ["a", "b"])
def test_an_absent_side_has_no_value_and_meets_no_goal(missing: str) -> None:
    taken: dict[str, Samples | UnavailableSide] = {
        "a": samples(1.0),
        "b": samples(4.0),
        missing: UnavailableSide("not installed: no pip"),
    }
    measured = figure_result(HALF, taken)
    assert (measured.value, measured.goal_met, measured.reason_not_measured) == (None, False, "not installed: no pip")


# --- sides in turn


def test_sides_take_turns_run_by_run() -> None:
    order: list[str] = []
    reported: list[tuple[str, float]] = []

    def side(name: str) -> float:
        order.append(name)
        return float(len(order))

    taken = interleave(
        {"a": lambda: side("a"), "gone": UnavailableSide("why"), "b": lambda: side("b")},
        3,
        lambda *news: reported.append(news),
    )
    assert order == ["a", "b"] * 3
    assert taken == {"a": samples(1, 3, 5), "b": samples(2, 4, 6), "gone": UnavailableSide("why")}
    assert reported[0] == ("run 1 of 3: a", 0.0)
    assert reported[-1] == ("run 3 of 3: b", pytest.approx(5 / 6))
    assert [fraction for _, fraction in reported] == sorted(fraction for _, fraction in reported)


def test_a_side_that_fails_ends_the_race() -> None:
    def fail() -> float:
        raise HostError("it did not boot")

    with pytest.raises(HostError, match="did not boot"):
        interleave({"a": lambda: 1.0, "b": fail}, 2, lambda *_: None)


# --- what is kept and shown


def test_figures_are_kept_with_both_sides_medians(directory: RunDirectory) -> None:
    figures = Figures(directory)
    saved_results.add_figure_and_medians(
        figures, figure_result(HALF, {"a": samples(1.0, 3.0, 2.0), "b": samples(5.0, 8.0, 9.0)})
    )
    saved_results.add_figure_and_medians(figures, figure_result(ALONE, {"a": samples(2.0)}))
    assert [(each.figure, each.value, each.unit, each.goal, each.holds) for each in figures.read()] == [
        ("bench.a_vs_b", 0.25, "ratio", "at most 0.5", True),
        ("bench.a_vs_b.ours", 2.0, "s", "", True),
        ("bench.a_vs_b.peer", 8.0, "s", "", True),
        ("bench.a_s", 2.0, "s", "at most 1", False),
    ]


def test_of_a_missing_peer_no_figure_is_made_up(directory: RunDirectory) -> None:
    figures = Figures(directory)
    absent = figure_result(HALF, {"a": samples(1.0), "b": UnavailableSide("not installed: no network")})
    saved_results.add_figure_and_medians(figures, absent)
    assert [(each.figure, each.value) for each in figures.read()] == [("bench.a_vs_b.ours", 1.0)]
    saved_results.write_bench_json(directory, {}, [absent], {})
    reported = json.loads((directory.path / saved_results.NAME).read_text())["figures"][0]
    assert reported["value"] is None
    assert reported["absent"] == "not installed: no network"
    assert reported["peer"] == {"side": "b"}
    shown = text(absent)
    assert "not installed: no network" in shown
    assert "not measured" in shown
    assert "missed" not in shown


def test_every_sample_is_kept(directory: RunDirectory) -> None:
    runs = [{"phase.cells_s": 3.0, "once": 1.0}, {"phase.cells_s": 9.0}, {"phase.cells_s": 4.0}]
    measured = figure_result(HALF, {"a": samples(1.0, 3.0, 2.0), "b": samples(5.0, 8.0, 9.0)})
    saved_results.write_bench_json(directory, {"cores": 2}, [measured], {"matrix_wall": runs})
    reported = json.loads((directory.path / saved_results.NAME).read_text())
    assert reported["run"] == directory.name
    assert reported["host"] == {"cores": 2}
    assert reported["figures"][0]["ours"] == {
        "side": "a",
        "median": 2.0,
        "least": 1.0,
        "most": 3.0,
        "samples": [1.0, 3.0, 2.0],
    }
    assert reported["profiles"]["matrix_wall"] == {"medians": {"phase.cells_s": 4.0}, "runs": runs}


def text(*outcomes: FigureResult) -> str:
    buffer = io.StringIO()
    Console(file=buffer, width=300).print(table.figures_table(outcomes))
    return buffer.getvalue()


def test_the_table_distinguishes_met_from_missed_with_both_sides() -> None:
    quick, slow = samples(1.0), samples(4.0)
    won, lost = (text(figure_result(HALF, {"a": ours, "b": peer})) for ours, peer in ((quick, slow), (slow, quick)))
    assert re.search(
        r"a_vs_b +a: 1\.00 s \(1\.00\.\.1\.00\) +b: 4\.00 s \(4\.00\.\.4\.00\) +0\.25 +at most 0\.5 +met", won
    )
    assert re.search(r"4 +at most 0\.5 +missed", lost)


def test_every_phase_of_a_run_is_in_the_table_of_where_time_went(directory: RunDirectory) -> None:
    time_accounts.record_figures(
        Figures(directory), {"parisc": {time_accounts.BODY: 2.0}, "arm64-debian": {time_accounts.BODY: 1.0}}
    )
    reported = matrices.time_figures_summed_over_vms(directory.path)
    assert reported["phase.body_s"] == 3.0
    assert set(reported) <= set(table._PHASES)
    buffer = io.StringIO()
    Console(file=buffer, width=100).print(table.matrix_time_by_phase_table({"matrix_wall": [reported]}))
    assert re.search(r"cells: bodies +3\.0", buffer.getvalue())


# --- selecting figures


def test_all_figures_have_a_goal_that_can_be_judged_and_a_name_of_their_own() -> None:
    pairs = [pair for group in benchmark_registry.GROUPS for pair in group.figure_definitions]
    assert len({pair.name for pair in pairs}) == len(pairs)
    assert all(re.fullmatch(r"at most [\d.]+", pair.goal) for pair in pairs)
    assert {group.vm for group in benchmark_registry.GROUPS} - {""} <= set(load_all())


def test_figures_and_vms_are_chosen() -> None:
    everything = benchmark_registry.choose_groups(select(()), ())
    assert [pair.name for group in everything for pair in group.figure_definitions] == [
        pair.name for group in benchmark_registry.GROUPS for pair in group.figure_definitions
    ]
    one = benchmark_registry.choose_groups(select(()), ["boot_vs_floor"])
    assert [[pair.name for pair in group.figure_definitions] for group in one] == [["boot_vs_floor"]]
    parisc = [
        pair.name
        for group in benchmark_registry.choose_groups(select(["parisc"]), ())
        for pair in group.figure_definitions
    ]
    assert "thaw_parisc" in parisc
    assert "matrix_wall" in parisc
    assert not {"thaw_x86_64", "boot_vs_vng", "case_marginal"} & set(parisc)


def test_a_figure_that_there_is_not_is_wrong_use(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UsageError, match="no figure named 'speed'; one of: boot_vs_vng, "):
        benchmark_registry.choose_groups(select(()), ["boot_vs_vng", "speed"])
    with pytest.raises(UsageError, match="no such figure of parisc"):
        benchmark_registry.choose_groups(select(["parisc"]), ["thaw_x86_64"])
    assert cli.main(["bench", "--figure", "speed"]) == 2
    assert cli.main(["bench", "--runs", "0"]) == 2
    assert cli.main(["bench", "--vm", "vax"]) == 2
    assert capsys.readouterr().err.count("\n") == 3


def test_only_sides_that_are_compared_are_measured_and_what_is_known_is_kept_at_once(
    directory: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench.host, "host_facts", lambda _: {"cores": 2})
    opened: list[str] = []

    @contextmanager
    def open_sides(_: BenchContext, wanted: Sequence[str]) -> Iterator[Mapping[str, Any]]:
        opened.extend(wanted)
        yield {"a": lambda: 1.0, "b": lambda: 4.0, "c": lambda: pytest.fail("c is not compared")}

    @contextmanager
    def broken(*_: object) -> Iterator[Mapping[str, Any]]:
        raise HostError("not available")
        yield {}

    groups = [Group((HALF, ALONE), open_sides), Group((ALONE,), broken)]
    with pytest.raises(HostError, match="not available"):
        bench.measure_groups(context(directory, Bus(), "parisc"), groups)
    assert opened == ["a", "b"]
    assert [each.figure for each in Figures(directory).read()] == [
        "bench.a_vs_b",
        "bench.a_vs_b.ours",
        "bench.a_vs_b.peer",
        "bench.a_s",
    ]
    reported = json.loads((directory.path / saved_results.NAME).read_text())
    assert [each["figure"] for each in reported["figures"]] == ["a_vs_b", "a_s"]
    assert reported["host"]["runs"] == 2


# --- the sides


def test_the_floor_is_the_machine_of_our_guests_with_nothing_of_ours() -> None:
    recipe = load_all()[boots.VM]
    image = cast(Image, SimpleNamespace(recipe=recipe, kernel=Path("/k/vmlinux")))
    words = list(floor.bare_kernel_argv(image, Path("/i/floor.cpio"), Accelerator("tcg", "a test")))
    reported = dict(itertools.pairwise(words))
    machine = recipe.architecture.qemu_machine
    assert (words[0], reported["-machine"], reported["-cpu"]) == (machine.qemu, machine.machine, machine.cpu)
    assert (reported["-kernel"], reported["-initrd"], reported["-accel"]) == ("/k/vmlinux", "/i/floor.cpio", "tcg")
    assert reported["-m"] == f"{recipe.machine.memory_mib}M"
    # It ends when the guest powers off, and a reset ends it too.
    assert "-no-reboot" in words
    assert not {"-no-shutdown", "-S", "-netdev", "-incoming"} & set(words)


def test_a_bare_kernel_that_panics_is_no_floor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    busybox = tmp_path / "userland" / "root/bin/busybox"
    busybox.parent.mkdir(parents=True)
    busybox.write_bytes(b"\x7fELF")
    monkeypatch.setattr(floor.rootfs, "obtain_userland", lambda *_: SimpleNamespace(path=tmp_path / "userland"))
    image = cast(Image, SimpleNamespace(recipe=load_all()[boots.VM], kernel=Path("/k/vmlinux")))
    monkeypatch.setattr(floor, "choose", lambda _: Accelerator("tcg", "a test"))
    boot = floor.bare_kernel_measure(image, cast(Any, None), tmp_path)
    packed = (tmp_path / "floor.cpio").read_bytes()
    assert b"poweroff -f" in packed
    assert b"\x7fELF" in packed
    for output, holds in (("pinpoint: floor\n", True), ("Kernel panic\n", False)):
        monkeypatch.setattr(
            process, "run", lambda argv, output=output, **_: process.FinishedProcess(tuple(argv), 0, output, 2.5)
        )
        if holds:
            assert boot() == 2.5
        else:
            with pytest.raises(HostError, match="did not come to its end"):
                boot()


def test_vng_runs_with_the_arguments_of_its_figure(tmp_path: Path) -> None:
    peer = virtme._Peer(Path("/v/vng"), Path("/k/vmlinuz"), {}, tmp_path / "log")
    assert peer.argv("true") == ["/v/vng", "-r", "/k/vmlinuz", "--disable-kvm", "--force-9p", "--", "true"]


def test_a_vng_that_cannot_be_had_is_absent_with_the_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> Path:
        raise HostError("the packages in requirements-bench.txt cannot be installed", where="vng.log")

    monkeypatch.setattr(virtme, "_program", refuse)
    image = cast(Image, SimpleNamespace(recipe=load_all()[boots.VM], release="6.1"))
    vng = virtme.virtme_measure(image, cast(Any, None), tmp_path, tmp_path / "log")
    assert vng == UnavailableSide("not installed: vng.log: the packages in requirements-bench.txt cannot be installed")


@pytest.mark.parametrize(
    ("output", "status", "measured"),
    [
        # A host with udev: the command's output comes through a port, the console's log through another.
        ("[ 8.1] starting script\r\n6.1.0-56-amd64\n", 0, True),
        ("[ 8.1] starting script\r\n6.1.0-56-amd64\n", 1, False),
        ("[ 8.1] starting script\r\n6.1.0-56-amd64\n", 255, False),
        ("[ 0.0] Linux version 6.1.0-56-amd64\r\n", 0, False),
        ("", 0, False),
        # A host without it: the status is that of a broken port.
        ("[ 8.1] starting script\r\n6.1.0-56-amd64\r\n[ 8.9] virtme-ng-init: script exited with code 0\r\n", 255, True),
        (
            "[ 8.1] starting script\r\n5.10.0-1-amd64\r\n[ 8.9] virtme-ng-init: script exited with code 0\r\n",
            255,
            False,
        ),
        ("[ 0.0] Linux version 6.1.0-56-amd64\r\n[ 8.9] Kernel panic - not syncing\r\n", 255, False),
        (
            "[ 8.1] starting script\r\n6.1.0-56-amd64\r\n[ 8.9] virtme-ng-init: script exited with code 1\r\n",
            255,
            False,
        ),
        ("", 255, False),
    ],
)
def test_vng_is_measured_on_our_kernel_or_not_at_all(
    output: str, status: int, measured: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("_program", "_kernel"):
        monkeypatch.setattr(virtme, name, lambda *_: Path("/x"))
    monkeypatch.setattr(virtme, "_surroundings", lambda *_: {})
    statuses = [status, status, 7]
    monkeypatch.setattr(
        process, "run", lambda argv, **_: process.FinishedProcess(tuple(argv), statuses.pop(0), output, 9.5)
    )
    image = cast(Image, SimpleNamespace(recipe=load_all()[boots.VM], release="6.1.0-56-amd64"))
    vng = virtme.virtme_measure(image, cast(Any, None), tmp_path, tmp_path / "log")
    assert isinstance(vng, UnavailableSide) is not measured
    if not isinstance(vng, UnavailableSide):
        # The status is the same each time.
        assert vng() == 9.5
        with pytest.raises(HostError, match=f"status 7, not {status}"):
            vng()


def test_vng_is_locked_as_declared() -> None:
    declared = re.search(r'\nbench = \["([\w-]+)"\]', (paths.PROJECT / "pyproject.toml").read_text())
    assert declared
    assert f"{declared[1]}==" in (paths.PROJECT / "requirements-bench.txt").read_text()


def test_a_case_more_is_what_two_runs_differ_by(
    directory: RunDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(argv: Sequence[str], **_: object) -> process.FinishedProcess:
        count = int(re.search(r"range\((\d+)\)", Path(argv[-1]).read_text())[1])  # type: ignore[index]
        return process.FinishedProcess(tuple(argv), 0, "", 3.0 + 0.02 * count)

    monkeypatch.setattr(process, "run", run)
    assert added_case_cost._one_more(context(directory, Bus(), "parisc"), tmp_path) == pytest.approx(0.02)


def test_cases_that_are_none_leave_no_durations(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PINPOINT_CACHE", str(tmp_path))
    kept = tmp_path / "durations.json"
    for before in (None, "{}"):
        if before:
            kept.write_text(before)
        with added_case_cost._durations_as_they_are():
            kept.write_text('{"x86_64-debian": {"test_nothing": 1}}')
        assert (kept.read_text() if kept.exists() else None) == before


def test_what_is_no_landing_case_is_named_and_there() -> None:
    files = {path.stem for path in paths.CASES.glob("test_*.py")}
    assert set(matrices.NON_LANDING_CASES) <= files
    chosen = {Path(name).stem for name in matrices.landing_files()}
    assert chosen == files - set(matrices.NON_LANDING_CASES)
    assert {"test_legal_sites", "test_stubs", "test_precompiled"} <= chosen


def test_a_matrix_run_is_held_against_its_guests_on_all_cores(
    directory: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = context(directory, Bus(), "parisc")
    made.build_context = cast(Any, SimpleNamespace(slots=SimpleNamespace(cores=4)))
    statuses = [0, 1, 3]

    def run(argv: Sequence[object], *, env: Mapping[str, str], **_: object) -> process.FinishedProcess:
        assert [str(word) for word in argv[1:]] == ["run", "--vm=parisc", "-k", "x"]
        results = RunDirectory.create(Path(env["PINPOINT_RESULTS"]))
        for vm, seconds in (("parisc", 30.0), ("x86_64-debian", 50.0)):
            Figures(results).add("run.guest_cpu_s", seconds, "s", vm=vm)
        Figures(results).add("run.wall_s", 26.0, "s")
        return process.FinishedProcess((), statuses.pop(0), "", 26.0)

    monkeypatch.setattr(process, "run", run)
    runs = matrices._Runs(made, "matrix_wall", ["-k", "x"])
    assert (runs.wall(), runs.guests()) == (26.0, 20.0)
    assert runs.wall() == 26.0
    assert [run["run.status"] for run in made.matrix_time_figures["matrix_wall"]] == [0, 1]
    with pytest.raises(HostError, match="status 3"):
        runs.wall()
