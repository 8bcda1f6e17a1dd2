"""report.html in Debian's Chromium, headless: filters, opened cells, replay commands, keys, a phone, contrast."""

from __future__ import annotations

import shlex
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import locked_tools
import pytest
import sample_runs

from harness.core import paths
from harness.plugin import RUN
from harness.report import bundle
from harness.report.html import write_report_of_run
from harness.report.run_dir import RunDirectory

# A browser takes 2 to 5 s for each page.
pytestmark = pytest.mark.slow

LARGEST_BYTES = 3 << 20
PHONE = 390
LEAF = "cases/test_sites.py::test_module_function[leaf]@parisc"
Open = Callable[..., Any]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Debian's Chromium. That it is not there fails the test: ./pinpoint test and ./pinpoint check install it."""
    program = shutil.which("chromium")
    assert program, "chromium is not installed: apt-get install chromium"
    locked_tools.install()
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=program)
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    made = sample_runs.small(tmp_path_factory.mktemp("report"))
    write_report_of_run(made, [])
    return made


@pytest.fixture
def opened(browser: Any, run: RunDirectory) -> Iterator[Open]:  # noqa: ANN401 - imported where it is installed
    """`opened(fragment="", width=1280, dark=False)`: the page; at the end nothing may be wrong in its console."""
    wrong: list[str] = []
    contexts = []

    def goto(fragment: str = "", width: int = 1280, *, dark: bool = False) -> Any:  # noqa: ANN401
        context = browser.new_context(
            viewport={"width": width, "height": 900},
            color_scheme="dark" if dark else "light",
            permissions=["clipboard-read", "clipboard-write"],
        )
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: wrong.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on(
            "request",
            lambda request: wrong.append(request.url) if not request.url.startswith(("file:", "data:")) else None,
        )
        page.goto(f"{run.html_report_file.as_uri()}{fragment}")
        return page

    yield goto
    for context in contexts:
        context.close()
    assert wrong == []


def shown(page: Any) -> list[str]:  # noqa: ANN401
    """The names of the cases that are not filtered out."""
    return [row.text_content() for row in page.locator("tr.case:not([hidden]) > th").all()]


def demand_drawn(place: Any, *words: str) -> None:  # noqa: ANN401
    """Wait until a part of the page shows each of these texts.

    inner_text() lacks a section until it has been drawn (`content-visibility`), which takes a moment on a loaded host.
    """
    from playwright.sync_api import expect

    for each in words:
        expect(place).to_contain_text(each, use_inner_text=True)


def test_the_first_screen_names_what_failed_and_how_to_replay_it(opened: Open) -> None:
    page = opened()
    assert page.title() == "Pinpoint 20261128-120000-bbbb: cells failed"
    demand_drawn(
        page.locator("main"),
        "What ran on what",
        "6.1.0-56-amd64",
        "7.2.22",
        "What did not hold",
        "test_never",
        "New since the last run",
    )
    commands = page.locator("#failed ~ .failure code").all_text_contents()
    assert len(commands) == page.locator("#failed ~ .failure").count() > 5
    assert all(command.startswith(("./pinpoint repro ", "./pinpoint run --vm ")) for command in commands)


def test_what_is_new_is_compared_with_the_last_run_of_the_same_vms(opened: Open) -> None:
    page = opened()
    new = page.locator("section[aria-labelledby=new]")
    demand_drawn(new, "20261127-120000-aaaa")
    assert [summary.partition(":")[0] for summary in new.locator("summary").all_text_contents()][:2] == [
        "new failures",
        "gone",
    ]
    assert "test_gone on parisc: was pass" in " ".join(new.locator("li").all_text_contents())


def test_filters_narrow_the_matrix_and_the_link_keeps_them(opened: Open) -> None:
    page = opened()
    everything = shown(page)
    page.fill("#q", "unexported")
    assert shown(page) == ["test_kernel_function[unexported]"]
    page.fill("#q", "")
    page.check("input[name=verdict][value=panic]", force=True)
    assert shown(page) == ["test_panic"]
    page.check("input[name=verdict][value=fail]", force=True)
    assert sorted(shown(page)) == ["test_kernel_function[unexported]", "test_panic"]
    page.check("input[name=vm][value=x86_64-debian]", force=True)
    assert shown(page) == ["test_kernel_function[unexported]"]
    assert page.locator("#matrix thead th:visible").count() == 2
    page.fill("#q", "kernel")
    page.wait_for_url("**q=kernel**")
    again = opened(page.url[page.url.index("#") :])
    assert again.locator("#q").input_value() == "kernel"
    assert shown(again) == ["test_kernel_function[unexported]"]
    assert again.locator("#count").text_content() == f"1 of {len(everything)} cases"
    again.click("button[type=reset]")
    assert shown(again) == everything
    assert (again.locator("#q").input_value(), again.locator("#filters input:checked").count()) == ("", 0)
    again.wait_for_url(lambda url: "#" not in url)


def test_a_failing_cell_opens_to_all_that_is_known_of_it(opened: Open, run: RunDirectory) -> None:
    page = opened()
    page.locator("tr.case", has_text="test_module_function[leaf]").locator("td.oops > a").click()
    demand_drawn(
        page.locator("dialog"),
        "test_module_function[leaf] on parisc",
        "leaf",
        "1.25 s",
        "oops",
        "Oops </script>",
        "7.2.22",
        "image-of-parisc",
        *("hex2bin+0x4", "0xffffffff81000004", "0xffffffff81000009", "target.c:12", "NULL pointer dereference"),
    )
    assert page.title().startswith("Pinpoint 20261128")
    link = page.locator("dialog a").get_attribute("href")
    assert (run.path / link).is_file()
    page.wait_for_url(lambda url: "cell=" in url)
    linked = opened(page.url[page.url.index("#") :])
    assert linked.locator("dialog h2").text_content() == "test_module_function[leaf] on parisc"
    page.keyboard.press("Escape")
    assert not page.locator("dialog").is_visible()
    # The browser reports that a dialog was closed in a task of its own.
    page.wait_for_url(lambda url: "cell=" not in url)


def test_the_replay_command_of_a_failing_cell_names_a_bundle_that_replays_it(opened: Open) -> None:
    from playwright.sync_api import expect

    page = opened()
    page.locator("a.open", has_text="test_module_function[leaf]").click()
    page.locator("dialog .copy").first.click()
    # The browser writes the clipboard in another process.
    expect(page.locator("dialog .copy").first).to_have_text("copied")
    command = page.evaluate("navigator.clipboard.readText()")
    program, repro, place = shlex.split(command)
    assert (program, repro) == ("./pinpoint", "repro")
    about = bundle.read(paths.PROJECT / place)
    assert (about.cell.case, about.cell.vm) == ("test_module_function[leaf]", "parisc")


def test_mutants_of_a_cell_are_listed_after_it(opened: Open) -> None:
    page = opened("#cell=cases%2Ftest_sites.py::test_module_function[leaf]@x86_64-debian")
    parts = [part.partition(",")[0] for part in page.locator("dialog section > p:first-child").all_text_contents()]
    assert parts == ["pass honest probe", "pass mutant one-instruction-off", "pass mutant other-build"]


def test_keys_reach_everything(opened: Open) -> None:
    page = opened()
    page.keyboard.press("/")
    assert page.evaluate("document.activeElement.id") == "q"
    page.keyboard.press("Escape")
    page.evaluate("document.activeElement.blur()")
    seen = []
    for _ in range(3):
        page.keyboard.press("n")
        seen.append(page.locator("dialog h2").text_content())
    assert len(set(seen)) == 3
    page.keyboard.press("p")
    assert page.locator("dialog h2").text_content() == seen[1]
    page.keyboard.press("Escape")
    page.locator("tr.case", has_text="test_module_function[leaf]").locator("td > a").first.focus()
    start = page.evaluate("document.activeElement.ariaLabel")
    page.keyboard.press("ArrowRight")
    moved = page.evaluate("document.activeElement.ariaLabel")
    assert moved != start
    page.keyboard.press("Enter")
    assert page.locator("dialog h2").text_content() in moved
    page.keyboard.press("Escape")
    assert page.evaluate("document.activeElement.ariaLabel") == moved


def test_claims_fold_their_cases(opened: Open) -> None:
    page = opened()
    button = page.locator(".claim button", has_text="clean up")
    row = page.locator("tr.case", has_text="test_entry")
    assert (button.get_attribute("aria-expanded"), row.is_visible()) == ("false", False)
    demand_drawn(page.locator("tr.claim", has_text="clean up"), "nothing shows that it was loaded")
    button.press("Enter")
    assert (button.get_attribute("aria-expanded"), row.is_visible()) == ("true", True)
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.ariaLabel").startswith("test_entry")


def test_the_claim_that_did_not_hold_is_above_those_that_did(opened: Open) -> None:
    folded = [body.get_attribute("data-open") is None for body in opened().locator("#matrix tbody").all()]
    assert folded == sorted(folded)
    assert len(set(folded)) == 2


@pytest.mark.parametrize("fragment", ["", f"#cell={LEAF}"], ids=["page", "cell"])
def test_a_phone_scrolls_in_one_direction_only(opened: Open, fragment: str) -> None:
    page = opened(fragment, PHONE)
    assert page.evaluate("document.documentElement.scrollWidth") == PHONE
    if fragment:
        assert (
            page.evaluate(
                "(({scrollWidth, clientWidth}) => scrollWidth - clientWidth)(document.querySelector('dialog'))"
            )
            == 0
        )


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("fragment", ["", f"#cell={LEAF}"], ids=["page", "cell"])
def test_contrast_names_and_roles_are_right_for_everybody(opened: Open, dark: bool, fragment: str) -> None:
    """All rules of axe-core that apply, contrast (WCAG 2.1, 1.4.3) among them."""
    page = opened(fragment, dark=dark)
    page.evaluate("document.querySelectorAll('details').forEach((each) => { each.open = true; })")
    from axe_playwright_python.sync_playwright import Axe

    found = Axe().run(page, options={"resultTypes": ["violations", "incomplete"]})
    assert [
        f"{each['id']}: {node['html'][:200]}" for each in found.response["violations"] for node in each["nodes"]
    ] == []


def test_a_screen_reader_finds_a_table_with_headers_and_sentences(opened: Open) -> None:
    page = opened()
    square = page.get_by_role("link", name="test_module_function[leaf] on parisc: oops, 1.2s")
    assert square.count() == 1
    assert page.locator("#matrix thead th[scope=col]").count() == 3
    assert page.locator("#matrix tr.case > th[scope=row]").count() == len(shown(page))
    for picture in page.locator("svg[role=img]").all():
        assert picture.get_attribute("aria-label")
    assert page.locator("svg:not([role=img]):not([aria-hidden])").count() == 0


def test_a_printed_page_has_every_case_and_no_controls(opened: Open) -> None:
    page = opened()
    page.emulate_media(media="print")
    assert page.locator("tr.case:visible").count() == len(shown(page))
    assert page.locator("#filters").is_visible() is False
    assert page.locator("nav").is_visible() is False
    assert page.pdf().startswith(b"%PDF")


def test_without_scripts_every_verdict_is_still_there(browser: Any, run: RunDirectory) -> None:  # noqa: ANN401
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(run.html_report_file.as_uri())
    assert page.locator("tr.case:visible").count() == 9
    assert "./pinpoint repro" in page.locator("#failed ~ .failure", has_text="oops").first.inner_text()
    context.close()


def test_pictures(opened: Open, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    """The pictures that the documentation shows; `--pictures DIR` keeps them."""
    kept = request.config.option.pictures
    into = Path(kept) if kept else tmp_path
    into.mkdir(parents=True, exist_ok=True)
    page = opened()
    page.screenshot(path=into / "first-screen.png")
    for name in ("map", "relocation", "timeline"):
        page.locator(f"section[aria-labelledby={name}]").screenshot(path=into / f"{name}.png")
    opened(f"#cell={LEAF}").screenshot(path=into / "cell.png")
    opened(width=PHONE, dark=True).screenshot(path=into / "phone-dark.png")
    assert all(picture.read_bytes().startswith(b"\x89PNG") for picture in into.glob("*.png"))
    assert len(list(into.glob("*.png"))) >= 6


def test_a_full_matrix_is_small_and_opens(opened: Open, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """12 VMs, 150 cases, two mutants each: below 3 MiB. Its seconds are figures of the run; they fail no test."""
    made = sample_runs.full(tmp_path)
    began = time.monotonic()
    page_file = write_report_of_run(made)
    rendered = time.monotonic() - began
    page = opened()
    session = page.context.new_cdp_session(page)
    session.send("Performance.enable", {"timeDomain": "threadTicks"})
    page.goto(page_file.as_uri())
    spent = {each["name"]: each["value"] for each in session.send("Performance.getMetrics")["metrics"]}
    seconds = page.evaluate("performance.getEntriesByType('navigation')[0].loadEventEnd / 1000")
    assert page.locator("tr.case").count() == 150
    size = page_file.stat().st_size
    matrix_run = request.config.stash[RUN]
    figures = [
        ("report.bytes", size, "bytes", f"at most {LARGEST_BYTES}"),
        ("report.render_s", rendered, "s", ""),
        ("report.open_s", seconds, "s", "at most 1"),
        # Of the browser's main thread, which a host that is busy with compiles does not lengthen.
        ("report.open_cpu_s", spent["ThreadTime"], "s", "at most 1"),
    ]
    for name, value, unit, goal in figures:
        if getattr(matrix_run, "has_directory", True):
            matrix_run.figures.add(name, round(value, 3), unit, goal=goal)
        print(f"{name}: {value:.3f} {unit}")
    assert size < LARGEST_BYTES
