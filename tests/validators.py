"""The peers' own validators, applied to what a run leaves and to its exports."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from xml.etree import ElementTree

import locked_tools

from harness.core.deadline import Deadline
from harness.core.events import Bus
from harness.images import kernel_source_trees as sources
from harness.images.build_context import BuildContext
from harness.report.run_dir import RunDirectory
from harness.report.schemas import PUBLISHED

_PARSER = "tools/testing/kunit/kunit.py"


def demand_schemas(run: RunDirectory) -> Counter[str]:
    """Validate every file of a run against docs/schema/ and return how many objects each schema had."""
    locked_tools.install()
    from jsonschema import Draft202012Validator

    seen: Counter[str] = Counter()
    for published in sorted(PUBLISHED.glob("*.schema.json")):
        name = published.name.partition(".")[0]
        validator = Draft202012Validator(json.loads(published.read_text()))
        validator.check_schema(validator.schema)
        for line in _objects(run, name):
            seen[name] += 1
            wrong = [f"{error.json_path}: {error.message[:200]}" for error in validator.iter_errors(json.loads(line))]
            assert wrong == [], f"{name} of {run.path}"
    return seen


def _objects(run: RunDirectory, name: str) -> list[str]:
    if name == "bundle":
        return [path.read_text() for path in run.bundles_directory.rglob("bundle.json")]
    path = run.path / f"{name}.jsonl"
    return path.read_text().splitlines() if path.exists() else []


def kunit(ktap: Path) -> tuple[int, Counter[str]]:
    """`kunit.py parse` of Debian's kernel source: its exit status and its counts by result. Nothing of it is kept."""
    context = BuildContext.in_cache(Bus())
    package = "linux-source-6.1"
    version, digest = context.packages.version(package, "all"), context.packages.hash(package, "all")
    with context.bus.step("host", "kernel source") as step:
        tree = sources.obtain_source_tree(sources.package_source(package, version, digest, []), context.packages, step)
    done = subprocess.run(
        [sys.executable, "-E", "-B", tree / _PARSER, "parse", ktap],
        capture_output=True,
        text=True,
        timeout=Deadline.after(120).remaining(),
        check=False,
    )
    counted = re.search(r"Testing complete\. Ran \d+ tests: (.*)", done.stdout)
    assert counted, done.stdout[-2000:] + done.stderr[-2000:]
    assert "[ERROR]" not in done.stdout, done.stdout[-4000:]
    parts = (part.split(": ") for part in counted[1].split(", "))
    return done.returncode, Counter({name: int(count) for name, count in parts})


def kcidb(text: str) -> None:
    """Validate against KCIDB's own schema 5.3 and its further checks."""
    locked_tools.install()
    import kcidb_io

    kcidb_io.schema.V5_3.validate(json.loads(text))


# What GitLab reads (its documentation, "Unit test reports", and lib/gitlab/ci/parsers/test/junit.rb) and what GitHub's
# annotations need: an element that is not read is not shown.
_ATTRIBUTES = {
    "testsuites": {"name", "tests", "failures", "errors", "skipped", "time"},
    "testsuite": {"name", "tests", "failures", "errors", "skipped", "time", "timestamp"},
    "testcase": {"name", "classname", "file", "line", "time"},
    "property": {"name", "value"},
    "failure": {"message", "type"},
    "error": {"message", "type"},
    "skipped": {"message"},
}


def junit(text: str) -> Counter[str]:
    """Parse with junitparser, as GitHub's action for test results does, and apply GitLab's rules; count the results."""
    locked_tools.install()
    from junitparser import JUnitXml
    from junitparser.junitparser import Error, Failure, Skipped

    found: Counter[str] = Counter()
    names = set()
    for suite in JUnitXml.fromstring(text.encode()):
        cases = list(suite)
        results = [type(each.result[0]) if each.result else None for each in cases]
        assert (suite.tests, suite.failures, suite.errors, suite.skipped) == (
            len(cases),
            *(results.count(kind) for kind in (Failure, Error, Skipped)),
        )
        for case, kind in zip(cases, results, strict=True):
            # GitLab takes two test cases of one suite, class and name for one.
            names.add((suite.name, case.classname, case.name))
            found[kind.__name__ if kind else "passed"] += 1
            assert case.time is not None
    assert len(names) == sum(found.values())
    for element in _elements(text):
        unknown = set(element.attrib) - _ATTRIBUTES.get(element.tag, set())
        assert not unknown, f"{element.tag} has {unknown}"
    return found


def _elements(text: str) -> list[ElementTree.Element]:
    return list(ElementTree.fromstring(text).iter())
