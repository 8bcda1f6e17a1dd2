"""The plugin in pytest makes the right cells, ends with the right status and loses nothing. No guest boots."""

import json
from pathlib import Path
from typing import Any

import pytest

from harness.core import paths
from harness.landing.prove_recipe_traits import TraitContradictedError
from harness.report import bundle

pytestmark = pytest.mark.slow

pytest_plugins = ["pytester"]

CONFTEST = """
import harness.matrix.guests.fleet as fleet
from harness.core.errors import HostError

pytest_plugins = ["harness.plugin"]


class Guest:
    image = type("Image", (), {"release": "6.1", "key": "k", "recipe": type("Recipe", (), {"arch": "parisc"})})
    image.build_id, image.modules, image.all_modules = "b1d", {}, {}
    accelerator = type("Accelerator", (), {"name": "tcg", "reason": "pretended"})
    qemu_version_text = "QEMU emulator version 7.2.22"
    argv, boot_seconds, copied_files, heartbeat, frozen = ["qemu"], 1.0, {}, None, "frozen-0123"

    def stop(self):
        pass


def boot(self, name):
    if name == "parisc":
        raise HostError("no mirror", mend="see the network")
    return Guest()


fleet.Fleet._prepare_and_start = boot
fleet.Fleet.start_building = lambda self, names, compared: None
import harness.matrix.guests.check_after_cell as checkup
checkup.record_state_before_first_cell = lambda guest: None
checkup.check_after_cell = lambda guest: ""
import harness.matrix.cells.failure_bundles as bundling
from harness.report.failure_evidence import Evidence
console = "console\\n{}\\n".format
bundling.gather_evidence = lambda guest, error: Evidence({"console.log": console(error).encode()}, {"dmesg.txt": "no"})
bundling._hashes = lambda image: {}
"""


@pytest.fixture
def matrix(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    monkeypatch.setenv("PINPOINT_RESULTS", str(pytester.path / "results"))
    monkeypatch.setenv("PINPOINT_CACHE", str(pytester.path / "cache"))
    monkeypatch.setenv("PYTHONPATH", str(paths.PROJECT))
    pytester.makeconftest(CONFTEST)
    return pytester


def run(matrix: pytest.Pytester, case: str, *arguments: str) -> pytest.RunResult:
    matrix.makepyfile(test_case=f"import pytest\nfrom harness.landing.landing_judgment import Missed\n{case}")
    return matrix.runpytest_subprocess("-p", "no:cacheprovider", *arguments)


def cells(matrix: pytest.Pytester) -> list[dict[str, object]]:
    lines = (matrix.path / "results" / "latest" / "results.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def figures(matrix: pytest.Pytester) -> list[dict[str, Any]]:
    lines = (matrix.path / "results" / "latest" / "figures.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def test_a_case_is_a_cell_a_vm_with_its_mutants_first(matrix: pytest.Pytester) -> None:
    case = '@pytest.mark.mutants("text-base", "only-reported")\ndef test_it(vm, mutant): pass'
    listed = run(matrix, case, "--collect-only", "-q", "--vm", "parisc", "--vm", "arm64-debian").outlines
    assert [line.partition("::")[2] for line in listed if "::" in line] == [
        "test_it[arm64-debian-mutant:text-base]",
        "test_it[arm64-debian-mutant:only-reported]",
        "test_it[arm64-debian]",
        "test_it[parisc-mutant:text-base]",
        "test_it[parisc-mutant:only-reported]",
        "test_it[parisc]",
    ]
    assert not (matrix.path / "results").exists()


def test_an_interrupted_cell_is_no_error_of_the_harness(matrix: pytest.Pytester) -> None:
    """Its guest is gone when its fixtures end: what they raise then is not what ended the run."""
    case = """
import os
import signal
import harness.matrix.guests.check_after_cell as checkup
from harness.core import process
from harness.core.errors import GuestLost


def lost(guest):
    assert process.is_stopping()
    raise GuestLost("the guest stopped: SHUTDOWN host-signal")


@pytest.fixture
def uses(guest):
    yield
    lost(guest)


def test_it(uses):
    checkup.check_after_cell, checkup.explain_loss = lost, lambda _, error: error
    # A shell's background job, and what it starts, ignores the signal.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.kill(os.getpid(), signal.SIGINT)


def test_after(guest): pass
"""
    ended = run(matrix, case, "--vm", "arm64-debian")
    assert ended.ret == pytest.ExitCode.INTERRUPTED
    assert not (matrix.path / "results/latest/results.jsonl").exists()
    assert "SHUTDOWN" not in ended.stderr.str() + ended.stdout.str()


def test_an_unknown_vm_is_one_line(matrix: pytest.Pytester) -> None:
    result = run(matrix, "def test_it(vm): pass", "--vm", "vax")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["ERROR: no VM named 'vax'; one of: *parisc*"])


def test_an_unknown_mutant_and_an_unknown_trait_are_reported(matrix: pytest.Pytester) -> None:
    wrong = run(matrix, '@pytest.mark.mutants("odd")\ndef test_it(vm, mutant): pass', "--vm", "parisc")
    assert wrong.ret not in (0, 1)
    wrong.stdout.fnmatch_lines(["*no mutant 'odd'*"])
    wrong = run(matrix, '@pytest.mark.requires("wings")\ndef test_it(vm): pass', "--vm", "parisc")
    assert wrong.ret not in (0, 1)
    assert "no trait named 'wings'" in wrong.stdout.str() + wrong.stderr.str()


def test_a_missing_trait_skips_and_is_named(matrix: pytest.Pytester) -> None:
    case = '@pytest.mark.requires("optimized_kprobes")\ndef test_it(vm): raise SystemError'
    assert run(matrix, case, "--vm", "parisc").ret == 0
    (cell,) = cells(matrix)
    assert (cell["verdict"], cell["reason"]) == ("skip", "parisc has no optimized_kprobes")


def test_a_row_that_cannot_be_built_fails_each_of_its_cells_and_no_other(matrix: pytest.Pytester) -> None:
    result = run(matrix, "def test_it(guest): pass", "--vm", "parisc", "--vm", "arm64-debian")
    assert result.ret == 3
    assert {cell["vm"]: cell["verdict"] for cell in cells(matrix)} == {
        "parisc": "harness-error",
        "arm64-debian": "pass",
    }
    result.stdout.fnmatch_lines(
        ["no mirror; see the network", "*again: ./pinpoint repro */bundles/parisc/test_it-parisc-*"]
    )


@pytest.mark.parametrize(
    ("body", "mutant_verdict", "honest_verdict", "status"),
    [
        ("if mutant: raise Missed('elsewhere')", "pass", "pass", 0),
        ("pass", "fail", "fail", 1),
        ("assert not mutant", "fail", "fail", 1),
        ("raise Missed('elsewhere')", "pass", "fail", 1),
    ],
    ids=["caught", "survived", "caught-for-the-wrong-reason", "the-honest-one-misses"],
)
def test_an_honest_cell_counts_only_if_its_mutants_were_caught(
    matrix: pytest.Pytester, body: str, mutant_verdict: str, honest_verdict: str, status: int
) -> None:
    case = f'@pytest.mark.mutants("text-base")\ndef test_it(guest, mutant):\n    {body}'
    assert run(matrix, case, "--vm", "arm64-debian").ret == status
    broken, honest = cells(matrix)
    assert (broken["mutant"], broken["verdict"]) == ("text-base", mutant_verdict)
    assert (honest["mutant"], honest["verdict"]) == ("", honest_verdict)


def test_a_mutant_judged_as_an_honest_cell_fails_and_leaves_what_replays_it(matrix: pytest.Pytester) -> None:
    case = """
@pytest.mark.mutants("text-base")
def test_it(guest, mutant):
    if mutant:
        raise Missed("elsewhere")
"""
    assert run(matrix, case, "--vm", "arm64-debian", "--as-honest", "--debug-symbols", "--stress=7").ret == 1
    broken, honest = cells(matrix)
    assert (broken["verdict"], broken["reason"]) == ("fail", "elsewhere")
    assert (honest["verdict"], honest["reason"], honest["bundle"]) == ("pass", "", "")
    left = bundle.read(matrix.path / "results" / "latest" / str(broken["bundle"]))
    assert (left.file, left.items) == ("test_case.py", ["test_it[arm64-debian-mutant:text-base]"])
    assert {"--as-honest", "--debug-symbols", "--stress=7", f"--hypothesis-seed={left.seed}"} <= set(left.options)
    assert not [line for line in figures(matrix) if line["figure"].startswith("mutants.")]


def test_each_cell_that_did_not_hold_leaves_a_bundle_and_no_other_does(matrix: pytest.Pytester) -> None:
    case = """
@pytest.mark.mutants("text-base")
def test_holds(guest, mutant):
    if mutant:
        raise Missed("elsewhere")

def test_known(guest): pytest.xfail("documented")

@pytest.mark.requires("optimized_kprobes")
def test_skipped(guest): pass

@pytest.mark.parametrize("what", ["a/../../b", "c"])
def test_fails(guest, what): raise Missed(f"elsewhere {what}\\n\\nthe table")
"""
    result = run(matrix, case, "--vm", "arm64-debian", "--vm", "parisc")
    bundles = {(cell["case"], cell["vm"]): str(cell["bundle"]) for cell in cells(matrix) if cell["bundle"]}
    assert {key for key in bundles if key[1] == "arm64-debian"} == {
        ("test_fails[a/../../b]", "arm64-debian"),
        ("test_fails[c]", "arm64-debian"),
    }
    # The row could not be built: there is no guest, but there is a bundle.
    assert {cell["bundle"] == "" for cell in cells(matrix) if cell["verdict"] == "harness-error"} == {False}
    latest = (matrix.path / "results" / "latest").resolve()
    place = latest / bundles["test_fails[a/../../b]", "arm64-debian"]
    assert place.parent == latest / "bundles" / "arm64-debian"
    assert (bundle.read(place).qemu, bundle.read(place).frozen) == (["qemu"], "frozen-0123")
    assert "the table" in (place / "failure.txt").read_text()
    assert (place / "console.log").read_text() == "console\nelsewhere a/../../b\n\nthe table\n"
    assert "- no dmesg.txt: no\n" in (place / "README.md").read_text()
    result.stdout.fnmatch_lines([f"*again: ./pinpoint repro {place}"])


def test_the_bundle_of_a_cell_without_proof_replays_its_mutants_too(matrix: pytest.Pytester) -> None:
    case = '@pytest.mark.mutants("text-base")\ndef test_it(guest, mutant): pass'
    run(matrix, case, "--vm", "arm64-debian")
    _, honest = cells(matrix)
    left = bundle.read(matrix.path / "results" / "latest" / str(honest["bundle"]))
    assert left.items == ["test_it[arm64-debian-mutant:text-base]", "test_it[arm64-debian]"]


def test_a_disk_that_takes_no_bundle_costs_the_bundle_only(matrix: pytest.Pytester) -> None:
    full = "import harness.report.bundle as made\ndef write(*_):\n    raise HostError('no bundle: disk full')\n"
    matrix.makeconftest(f"{CONFTEST}\n{full}\nmade.write_bundle = write\n")
    assert run(matrix, "def test_it(guest): raise Missed('elsewhere')", "--vm", "arm64-debian").ret == 1
    (cell,) = cells(matrix)
    assert (cell["verdict"], cell["bundle"]) == ("fail", "")
    assert cell["reason"] == "elsewhere; no bundle: disk full"


def test_a_trait_that_the_kernel_contradicts_is_our_error_and_no_skip(matrix: pytest.Pytester) -> None:
    contradicted = """
from harness.landing.prove_recipe_traits import TraitContradictedError

def contradict(self, name):
    raise TraitContradictedError("kaslr", "the recipe has kaslr = true, the kernel false", where=name, mend="mend it")

fleet.Fleet._prepare_and_start = contradict
"""
    matrix.makeconftest(f"{CONFTEST}\n{contradicted}")
    case = '@pytest.mark.requires("kaslr")\ndef test_a(guest): pass\ndef test_b(guest): pass'
    assert run(matrix, case, "--vm", "arm64-debian").ret == 3
    assert [cell["verdict"] for cell in cells(matrix)] == ["harness-error"] * 2
    assert all("the recipe has kaslr" in str(cell["reason"]) for cell in cells(matrix))


def test_a_command_that_boots_one_vm_takes_a_contradicted_trait_for_a_wrong_recipe() -> None:
    assert TraitContradictedError("kaslr", "what", where="vm", mend="mend").exit_status == 2


def test_a_guests_words_reach_neither_terminal_nor_report_as_control_codes(matrix: pytest.Pytester) -> None:
    hostile = r"\x1b]0;owned\x07\x1b[2J\x9b31m\u202e"
    case = f"""
def test_a(guest):
    print("{hostile} printed")
    raise Missed("{hostile} missed")

def test_b(guest): assert "{hostile}" == "asserted"
def test_c(guest): pytest.skip("{hostile} skipped")
def test_d(guest): pytest.xfail("{hostile} known")
"""
    result = run(matrix, case, "--vm", "arm64-debian", "-rA")
    latest = matrix.path / "results" / "latest"
    reported = ["junit.xml", "report.html", "results.jsonl"]
    reported += [str(path.relative_to(latest)) for path in (latest / "bundles").rglob("failure.txt")]
    assert len(reported) == 5
    shown = [result.stdout.str(), *((latest / name).read_text() for name in reported)]
    assert all(word in shown[0] for word in ("printed", "missed", "asserted", "skipped", "known"))
    for text in shown:
        assert not set(text) & set("\x1b\x07\x9b\u202e")


def test_a_known_defect_is_neither_a_failure_nor_a_pass(matrix: pytest.Pytester) -> None:
    assert run(matrix, "def test_it(guest): pytest.xfail('documented')", "--vm", "arm64-debian").ret == 0
    assert [(cell["verdict"], cell["reason"]) for cell in cells(matrix)] == [("known-fail", "documented")]


@pytest.mark.parametrize("siblings_build", ["works", "fails"])
def test_a_sibling_that_is_not_of_the_run_is_prepared_before_its_row(
    matrix: pytest.Pytester, siblings_build: str
) -> None:
    """So is one for a case that only compares kernels; a failed build is reported to the cells that need it."""
    fleet = f"""
import harness.matrix.guests.fleet as fleet
from harness.core.errors import HostError

prepared = []

class Image:
    def __init__(self, recipe):
        self.recipe = recipe

def prepare(recipe, build_context):
    prepared.append(recipe.name)
    if recipe.name == "parisc" and {siblings_build == "fails"}:
        raise HostError("no compiler")
    return Image(recipe)

real = fleet.Fleet._prepare_and_start
fleet.prepare = prepare
fleet.Fleet._thaw = lambda self, image, log_name: Guest()
"""
    conftest = CONFTEST.replace("fleet.Fleet._prepare_and_start = boot\n", "").replace(
        "import harness.matrix.guests.fleet as fleet\n", fleet
    )
    matrix.makeconftest(conftest)
    case = """
from conftest import prepared

def test_a(guest):
    assert prepared == ["parisc-fsections", "parisc"]

def test_b(guest, image_of):
    assert image_of("parisc").recipe.name == "parisc"
    assert prepared == ["parisc-fsections", "parisc"]
"""
    run(matrix, case, "--vm", "parisc-fsections")
    verdict = {"works": "pass", "fails": "harness-error"}[siblings_build]
    assert [cell["verdict"] for cell in cells(matrix)] == ["pass", verdict]
    run(matrix, case, "--vm", "parisc-fsections", "-k", "test_a")
    assert [cell["verdict"] for cell in cells(matrix)] == ["fail"]


def test_a_requested_cell_that_did_not_run_is_reported_and_fails(matrix: pytest.Pytester) -> None:
    case = "def test_a(guest): assert False\ndef test_b(guest): pass"
    result = run(matrix, case, "--vm", "arm64-debian", "-x")
    assert result.ret not in (0, 5)
    result.stdout.fnmatch_lines(["did not run  test_b on arm64-debian"])
    assert [cell["case"] for cell in cells(matrix)] == ["test_a"]


def test_a_run_leaves_junit_html_and_figures(matrix: pytest.Pytester) -> None:
    run(matrix, "def test_it(guest): pass", "--vm", "arm64-debian")
    latest = matrix.path / "results" / "latest"
    figures = [json.loads(line)["figure"] for line in (latest / "figures.jsonl").read_text().splitlines()]
    assert figures[:2] == ["run.first_verdict_s", "run.wall_s"]
    assert "test_it" in (latest / "junit.xml").read_text()
    assert "arm64-debian" in (latest / "report.html").read_text()


def test_several_processes_share_one_result(matrix: pytest.Pytester) -> None:
    case = """
import os
from pathlib import Path

@pytest.mark.parametrize("number", range(4))
def test_a(guest, vm, number):
    Path(f"{vm}-on-{os.getpid()}").touch()

def test_b(guest):
    assert False
"""
    assert run(matrix, case, "--vm", "arm64-debian", "--vm", "x86_64-debian", "-n", "2").ret == 1
    verdicts = [(cell["vm"], cell["verdict"]) for cell in cells(matrix)]
    assert sorted(verdicts) == sorted(
        (vm, verdict) for vm in ("arm64-debian", "x86_64-debian") for verdict in [*["pass"] * 4, "fail"]
    )
    assert len(list((matrix.path / "results").glob("2*"))) == 1
    # A row shares its guest, so one process runs all of it; another runs the other row.
    assert len({path.name.partition("-on-")[2] for path in matrix.path.glob("*-on-*")}) == 2
    assert len(list(matrix.path.glob("*-on-*"))) == 2


@pytest.mark.parametrize(("skipped", "verdict"), [("mutant", "fail"), ("True", "skip")])
def test_a_mutant_that_is_skipped_was_not_caught(matrix: pytest.Pytester, skipped: str, verdict: str) -> None:
    case = f"""
@pytest.mark.mutants("text-base")
def test_it(guest, mutant):
    if {skipped}: pytest.skip("cannot be tried")
"""
    assert run(matrix, case, "--vm", "arm64-debian").ret == (verdict == "fail")
    assert [cell["verdict"] for cell in cells(matrix)] == ["skip", verdict]
    if verdict == "fail":
        assert cells(matrix)[-1]["reason"] == "its mutants survived: text-base"


# A case that the recipe x86_64-ibt names in `test_cells`, behind others that it does not name.
TEST_CELLS = """
import os
from pathlib import Path
import pytest

@pytest.mark.parametrize("number", range(40))
def test_another(guest, vm, number): pass

@pytest.mark.parametrize("number", range(4))
def test_entry_shift(guest, vm, number):
    Path(f"on-{os.getpid()}").touch()
"""


def test_the_test_cells_of_a_named_vm_run_alone(matrix: pytest.Pytester) -> None:
    """--test-cells holds with --vm, too, and the parts of a row are made of the cells that are left."""
    matrix.makepyfile(test_legal_sites=TEST_CELLS)
    options = ("--vm", "x86_64-ibt", "--test-cells", "-n", "2", "--shards", "2")
    assert matrix.runpytest_subprocess("-p", "no:cacheprovider", *options).ret == 0
    assert {cell["case"] for cell in cells(matrix)} == {f"test_entry_shift[{number}]" for number in range(4)}
    assert len({path.name for path in matrix.path.glob("on-*")}) == 2


@pytest.mark.parametrize("more", [(), ("-k", "another")], ids=["all", "by keyword"])
def test_a_gone_test_cell_is_one_line(matrix: pytest.Pytester, more: tuple[str, ...]) -> None:
    matrix.makepyfile(test_legal_sites=TEST_CELLS.replace("entry_shift", "entry"))
    result = matrix.runpytest_subprocess("-p", "no:cacheprovider", "--vm", "x86_64-ibt", "--test-cells", *more)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["ERROR: x86_64-ibt.toml: `test_cells` names 'test_legal_sites.py::test_entry_shift'*"])


@pytest.mark.parametrize("side_by_side", [(), ("-n", "2")], ids=["one process", "several"])
def test_where_a_runs_time_went_is_kept_of_all_processes(
    matrix: pytest.Pytester, side_by_side: tuple[str, ...]
) -> None:
    case = """
import time
from harness.plugin import RUN

@pytest.fixture
def slow(guest, vm, request):
    time.sleep(0.2)
    yield
    request.config.stash[RUN].bus.record_seconds(vm, "guest cpu", 2.5)
    time.sleep(0.1)

@pytest.mark.parametrize("number", range(2))
def test_it(slow, number):
    time.sleep(0.3)
"""
    assert run(matrix, case, "--vm", "arm64-debian", "--vm", "x86_64-debian", *side_by_side).ret == 0
    kept = {(each["figure"], each["vm"]): each["value"] for each in figures(matrix)}
    for vm in ("arm64-debian", "x86_64-debian"):
        assert kept["run.guest_cpu_s", vm] == 5.0
        assert 0.4 <= kept["phase.fixtures_s", vm] < 1.4
        assert 0.6 <= kept["phase.body_s", vm] < 1.6
        assert 0.2 <= kept["phase.ending_s", vm] < 1.2
        assert 0 <= kept["phase.check_up_s", vm] < 0.2
    phases = [kept[f"phase.{name}_s", ""] for name in ("start", "ready", "cells", "end")]
    assert all(seconds >= 0 for seconds in phases)
    assert abs(sum(phases) - kept["run.wall_s", ""]) < 0.5
    # Two rows of 1.2 s each, in turn or in parallel.
    assert kept["phase.cells_s", ""] >= (1.2 if side_by_side else 2.4)
    assert kept["phase.idle_s", ""] < 2 * kept["phase.cells_s", ""]


def test_results_are_outside_the_project(matrix: pytest.Pytester) -> None:
    run(matrix, "def test_it(guest): pass", "--vm", "arm64-debian")
    assert Path(matrix.path / "results" / "latest").resolve().is_relative_to(matrix.path)
