"""What a controller gives to the process of a cell shard, and what that process sends back.

The process reads one order, a JSON object, from its standard input. It writes messages to its standard output, each a
JSON object on a line, flushed at once:

`{"begin": NODE_ID}` before a test, `{"report": {...}}` for each of its phases, in pytest's own serialized form, and
`{"end": NODE_ID}` after it; `{"warning": {...}}` for a Python warning in a test; `{"event": {...}}` for a step that the
board shows; and `{"spent": {...}}`, the time accounts, before the process ends.

Everything else that a shard leaves is in the order's `directory`: `console/`, `bundles/`, and files with a JSON object
on each line that the controller appends to its own of the same name.
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict

from harness.matrix.cells.selection import CellId


class ShardOrder(BaseModel):
    """The order for one process.

    `name` is the shard's name in its run, `lane` that of its place among the processes that run at once. `vm` is empty
    for tests that are no cells. `arguments` are pytest's, and `options` replace the values that pytest parsed from
    them. Bundles name files below `results_directory`, where the controller puts them. `console_suffix` makes the names
    of the console logs of a row's parts different. `images` are the VMs whose images the tests need; `image_errors` has
    the error of each that the controller could not build, the others are in its store. `freeze_failures` has the
    verdict and the reason for each whose guest failed before it was frozen. `survivors` and `skipped_mutants` are
    mutants of earlier processes of this shard.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    lane: str
    vm: str
    node_ids: tuple[str, ...]
    arguments: tuple[str, ...]
    options: dict[str, Any]
    directory: str
    results_directory: str
    console_suffix: str = ""
    images: tuple[str, ...] = ()
    image_errors: dict[str, str] = {}
    freeze_failures: dict[str, tuple[str, str]] = {}
    survivors: tuple[CellId, ...] = ()
    skipped_mutants: tuple[CellId, ...] = ()


Message = dict[str, Any]
