"""What runs on a host for the controller's builds: entries of an image are built there and packed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from harness.core import exception_as_pinpoint_error
from harness.core.errors import PinpointError
from harness.core.events import Bus
from harness.images import prepare
from harness.images.agreed_layers import Layers
from harness.images.build_context import BuildContext
from harness.images.vm_recipe import Recipe
from harness.matrix.hosts import entries_on_host
from harness.matrix.hosts.entries_on_host import PackedEntry


@dataclass(frozen=True)
class BuiltEntries:
    """What a host built: the packed entries, and why there are none.

    `differs` is true if the host would build another image: it has other compilers, package lists or sources.
    """

    entries: tuple[PackedEntry, ...] = ()
    error: str = ""
    differs: bool = False


def name_layers(recipe_as_json: str) -> tuple[Layers, str]:
    """Return the inputs of the entries that this host would build, and an error, which is empty for none."""
    try:
        return prepare.layers_of(Recipe.model_validate_json(recipe_as_json), _context()), ""
    except PinpointError as error:
        return {}, str(error)


def build_entries(recipe_as_json: str, kinds: Sequence[str], wanted: Layers) -> BuiltEntries:
    """Build the entries of these kinds, if they are those that the controller wants, and pack them."""
    recipe, context = Recipe.model_validate_json(recipe_as_json), _context()
    try:
        own = prepare.layers_of(recipe, context)
        if any(list(own.get(kind, ())) != list(wanted[kind]) for kind in kinds):
            return BuiltEntries(differs=True)
        prepare.obtain_entries(recipe, context, kinds)
        return BuiltEntries(tuple(entries_on_host.pack_entry(kind, wanted[kind]) for kind in kinds))
    except Exception as error:
        return BuiltEntries(error=str(exception_as_pinpoint_error.as_pinpoint_error(error)))


def _context() -> BuildContext:
    """Return a context in which this host computes the inputs itself."""
    return replace(BuildContext.in_cache(Bus()), uses_agreed_layers=False)
