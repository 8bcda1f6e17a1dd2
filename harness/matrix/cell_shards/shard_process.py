"""The process of a cell shard: runs the tests of one order and writes messages about them."""

from __future__ import annotations

import json
import os
import sys
import threading
import warnings
from collections.abc import Sequence
from dataclasses import asdict
from typing import BinaryIO

import pytest

from harness.core.errors import UsageError
from harness.core.events import Event, EventKind
from harness.matrix.cell_shards.shard_order import Message, ShardOrder


def run_order_from_standard_input() -> int:
    """Read an order from standard input, run it, and return pytest's exit status. Raises UsageError."""
    try:
        order = ShardOrder.model_validate_json(sys.stdin.buffer.read())
    except ValueError:
        raise UsageError("is no order for a shard", where="standard input", mend="use ./pinpoint run") from None
    # What tests and their children print must not get between the messages.
    with os.fdopen(os.dup(1), "wb", buffering=0) as messages:
        os.dup2(2, 1)
        with open(os.devnull, "rb") as nothing:  # noqa: PTH123 - a device
            os.dup2(nothing.fileno(), 0)
        return int(pytest.main(list(order.arguments), plugins=[ShardReporter(order, messages)]))


class ShardReporter:
    """A pytest plugin that sets the options of the order, and writes messages."""

    def __init__(self, order: ShardOrder, messages: BinaryIO) -> None:
        self.order = order
        self._messages = messages
        self._turn = threading.Lock()
        self._config: pytest.Config | None = None

    @pytest.hookimpl(tryfirst=True)
    def pytest_cmdline_main(self, config: pytest.Config) -> None:
        """Set the options before pytest and its plugins are configured."""
        vars(config.option).update(self.order.options)
        # By this name plugins, pytest's own too, know a process that must not write its reports and cache.
        config.workerinput = {"workerid": self.order.lane}  # type: ignore[attr-defined]
        self._config = config

    @classmethod
    def of(cls, config: pytest.Config) -> ShardReporter | None:
        """Return the reporter of this process, None in the controller."""
        return next((plugin for plugin in config.pluginmanager.get_plugins() if isinstance(plugin, cls)), None)

    def own_items(self, items: Sequence[pytest.Item]) -> list[pytest.Item]:
        """Return the items of the order, in its order."""
        found = {item.nodeid: item for item in items}
        return [found[name] for name in self.order.node_ids if name in found]

    def pytest_sessionstart(self, session: pytest.Session) -> None:
        """Let pytest print no names of files: what this process printed last is an error, if anything."""
        if reporter := session.config.pluginmanager.getplugin("terminalreporter"):
            reporter.showfspath = False

    def pytest_report_teststatus(self) -> tuple[str, str, str]:
        """Let pytest print nothing for a test."""
        return "", "", ""

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        """Write that a test begins."""
        self.send({"begin": nodeid})

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Write the report of a phase."""
        assert self._config is not None
        self.send({"report": self._config.hook.pytest_report_to_serializable(config=self._config, report=report)})

    def pytest_runtest_logfinish(self, nodeid: str) -> None:
        """Write that a test has ended."""
        self.send({"end": nodeid})

    def pytest_warning_recorded(self, warning_message: warnings.WarningMessage, when: str, nodeid: str) -> None:
        """Write a warning of a test; the controller has those of collection itself."""
        if when == "runtest":
            self.send(
                {
                    "warning": {
                        "text": str(warning_message.message),
                        "category": warning_message.category.__name__,
                        "filename": warning_message.filename,
                        "lineno": warning_message.lineno,
                        "nodeid": nodeid,
                    }
                }
            )

    def send_event(self, event: Event) -> None:
        """Write an event of this process; the bus calls this as a listener. Time accounts are sent once, at the end."""
        if event.kind is not EventKind.SPENT:
            self.send({"event": {**asdict(event), "kind": event.kind.value, "worker": self.order.lane}})

    def send(self, message: Message) -> None:
        """Write one message. If the controller is gone, this process is about to be killed."""
        line = f"{json.dumps(message, default=str)}\n".encode()
        with self._turn:
            try:
                while line:
                    line = line[self._messages.write(line) or 0 :]
            except OSError:
                return
