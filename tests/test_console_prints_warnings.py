"""A guest is refused whose console does not print the kernel's warnings; no image is booted."""

from __future__ import annotations

import re
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, cast

import pytest

from harness.core.errors import DeadlineExceeded
from harness.guest.guest import Guest
from harness.landing import prove_recipe_traits
from harness.landing.prove_recipe_traits import TraitContradictedError


class Talking:
    """A guest whose console prints what is written to /dev/kmsg in one form."""

    name = "vm"
    fence_position = 0

    def __init__(self, form: str) -> None:
        self._form = form
        self._printed = ""
        self.console = self

    def run_script(self, text: str) -> Any:  # noqa: ANN401 - a result of which only check() is called
        found = re.fullmatch(r"echo '<4>(.*)' >/dev/kmsg", text)
        assert found
        self._printed = self._form.format(found[1])
        return SimpleNamespace(check=lambda: None)

    def scaled_deadline(self, seconds: float) -> float:
        return seconds

    def await_line(self, patterns: Sequence[str], deadline: float, *, since: int) -> None:
        if not any(re.search(pattern, self._printed) for pattern in patterns):
            raise DeadlineExceeded(f"no line in {deadline} s since {since}")


@pytest.mark.parametrize("form", ["[    2.500000] {}\r\n", "[   12.345678][    T1] {}\n", "login: [    2.500000] {}\n"])
def test_a_warning_with_its_time_is_enough(form: str) -> None:
    prove_recipe_traits._demand_warnings_on_console(cast(Guest, Talking(form)))


@pytest.mark.parametrize("form", ["", "{}\n", "[    2.500000] pinpoint: fence\n", "[    2.500000] {} and more\n"])
def test_a_console_without_warnings_or_times_is_refused(form: str) -> None:
    """`sysctl.kernel.printk=1` on the kernel's command line lowers the level after boot (seen on 6.1.0-56-amd64)."""
    with pytest.raises(TraitContradictedError, match="does not print the kernel's warnings") as raised:
        prove_recipe_traits._demand_warnings_on_console(cast(Guest, Talking(form)))
    assert "sysctl.kernel.printk" in raised.value.mend
