"""The protocols of the modules that make the parts of an image: a kernel, a userland, modules, programs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TypeVar

from harness.images.build_context import BuildContext
from harness.images.kernel import KernelBuild
from harness.images.recipe import Recipe

Product = TypeVar("Product", covariant=True)


class StoreLayer(Protocol[Product]):
    """A part that needs no other part. RecipeError and HostError come from both functions, BuildError from `obtain`."""

    KIND: str

    def key_parts(self, recipe: Recipe, build_context: BuildContext) -> list[str]:
        """Return everything that determines the part. Nothing is fetched or built."""

    def obtain(self, recipe: Recipe, build_context: BuildContext, parts: Sequence[str]) -> Product:
        """Return what `parts`, the result of key_parts(), determine: from the store, or built now."""


class KernelStoreLayer(Protocol[Product]):
    """A part that is made for one kernel: the root file system with its drivers, the probe modules."""

    KIND: str

    def key_parts(self, recipe: Recipe, kernel_key: str, build_context: BuildContext) -> list[str]:
        """Return everything that determines the part, the kernel's store key among it."""

    def obtain(self, recipe: Recipe, kernel: KernelBuild, build_context: BuildContext, parts: Sequence[str]) -> Product:
        """Return what `parts`, the result of key_parts(), determine: from the store, or built now."""
