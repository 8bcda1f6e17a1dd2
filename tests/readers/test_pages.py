"""Every command of the pages for three readers runs, from a clean clone, and ends with the status that is written down.

`./pinpoint test readers` runs them. That takes an hour, because kernels are built for the reader's tree. The directory
is kept if PINPOINT_READERS names one, and then the next run compiles little.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from page_commands import COMMANDS, Command
from prepared_directory import PreparedDirectory

from harness.core.errors import HARNESS_FAILED

# Only x86's gdb is among the host's packages.
_NO_GDB = re.compile(r"no gdb for .* is installed; .*")
CASES = [(page, number) for page, commands in COMMANDS.items() for number in range(len(commands))]


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PreparedDirectory]:
    named = os.environ.get("PINPOINT_READERS")
    root = Path(named).resolve() if named else tmp_path_factory.mktemp("reader")
    root.mkdir(exist_ok=True)
    prepared = PreparedDirectory(root)
    prepared.prepare()
    yield prepared
    for line, seconds in prepared.seconds.items():
        print(f"{seconds:7.1f} s  {line}")


@pytest.mark.parametrize(("page", "number"), CASES, ids=lambda value: Path(str(value)).stem)
def test_a_command_of_a_page(page: str, number: int, directory: PreparedDirectory) -> None:
    command: Command = COMMANDS[page][number]
    status, printed = directory.run(command, page)
    if status == HARNESS_FAILED and (missing := _NO_GDB.search(printed)):
        pytest.skip(missing[0])
    assert status == command.status, f"{command.line}\n{printed[-4000:]}"
    assert command.prints in printed, f"{command.line}\n{printed[-4000:]}"
