"""Which conftest.py files pytest imports: those in our directories and in the own tree, and none above."""

from __future__ import annotations

from types import ModuleType

import pytest

from harness.core import paths


def leave_out_above_own_tree(plugins: pytest.PytestPluginManager) -> None:
    """Leave out each conftest.py in the directories above the own tree, such as the one a command is started in.

    pytest leaves out what is above its root directory, which is ours. It imports each other conftest.py above a case
    file, unless a plugin has the file's path as its name (PytestPluginManager._importconftest(), pytest 9.1).
    """
    tree = paths.own_tree()
    for directory in tree.parents if tree else ():
        name = str(directory / "conftest.py")
        if not plugins.has_plugin(name):
            plugins.register(ModuleType("left_out"), name)
