"""Paths and node ids of an order on a host, whose directories are elsewhere than those of the controller."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.matrix.cell_shards.shard_order import Message

_ROOT = "--rootdir"


class MovedPaths:
    """Translates the paths of an order, and the node ids of the own tree.

    pytest names a file outside of its root directory by the path from there, so the node ids of the own tree differ.
    """

    def __init__(self, moved: Mapping[str, str], arguments: Sequence[str], tree: str) -> None:
        """`moved` has the controller's directories and files, each with this host's; `tree` is the own tree there."""
        self._moved = moved
        self.arguments = tuple(map(self._here, arguments))
        self._there = self._own = ""
        if tree:
            root, root_here = (words[words.index(_ROOT) + 1] for words in (tuple(arguments), self.arguments))
            self._there, self._own = os.path.relpath(tree, root), os.path.relpath(moved[tree], root_here)

    def node_id_here(self, name: str) -> str:
        """Return the node id on this host."""
        return _with_beginning(name, self._there, self._own)

    def message_at_the_controller(self, message: Message) -> Message:
        """Return a message with the controller's node ids."""

        def translated(key: str, value: Any) -> Any:  # noqa: ANN401 - of JSON
            if key in ("begin", "end", "nodeid"):
                return _with_beginning(value, self._own, self._there)
            return self.message_at_the_controller(value) if key in ("report", "warning") else value

        return {key: translated(key, value) for key, value in message.items()}

    def _here(self, word: str) -> str:
        """Return an argument; a path below a directory of the controller as one below that of this host."""
        path = Path(word)
        for original in sorted(self._moved, key=len, reverse=True):
            if path.is_relative_to(original):
                return str(Path(self._moved[original]) / path.relative_to(original))
        return word


def _with_beginning(name: str, old: str, new: str) -> str:
    return f"{new}/{name.removeprefix(f'{old}/')}" if old and name.startswith(f"{old}/") else name
