"""Paths and node ids of an order on a host, whose directories are elsewhere than those of the controller."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from harness.matrix.cell_shards.shard_order import Message

_ROOT = "--rootdir"


class MovedPaths:
    """Translates the paths of an order, and the node ids of the own tree.

    pytest names a file outside of its root directory by the path from there, so the node ids of the own tree differ.
    """

    def __init__(
        self, project: tuple[str, str], copies: Mapping[str, str], arguments: Sequence[str], tree: str
    ) -> None:
        """`project` is the controller's directory of Pinpoint and this host's.

        `copies` are this host's copies of the user's own files, by the controller's paths; `tree` is one of these.
        """
        self._moved = {project[0]: project[1], **copies}
        self.arguments = tuple(map(self._here, arguments))
        self._there = self._own = ""
        if tree:
            root, root_here = (words[words.index(_ROOT) + 1] for words in (tuple(arguments), self.arguments))
            self._there, self._own = os.path.relpath(tree, root), os.path.relpath(copies[tree], root_here)
        # A node id first: its beginning may contain the path of the copy.
        ids = [(self._own, self._there)] if tree else []
        self._back = [*ids, *((copy, original) for original, copy in copies.items())]

    def node_id_here(self, name: str) -> str:
        """Return the node id on this host."""
        inside = self._there and name.startswith(f"{self._there}/")
        return f"{self._own}/{name.removeprefix(f'{self._there}/')}" if inside else name

    def message_at_the_controller(self, message: Message) -> Message:
        """Return a message with the controller's node ids, and the paths of the user's own files as they are there."""
        if not self._back:
            return message
        text = json.dumps(message)
        for here, there in self._back:
            text = text.replace(_in_json(here), _in_json(there))
        translated: Message = json.loads(text)
        return translated

    def _here(self, word: str) -> str:
        """Return an argument; a path below a directory of the controller as one below that of this host."""
        path = Path(word)
        for original in sorted(self._moved, key=len, reverse=True):
            if path.is_relative_to(original):
                return str(Path(self._moved[original]) / path.relative_to(original))
        return word


def _in_json(text: str) -> str:
    return json.dumps(text)[1:-1]
