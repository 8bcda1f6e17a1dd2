"""Protocols of the modules that build the parts of an image: a kernel, a userland, modules, programs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TypeVar

from harness.images.build_context import BuildContext
from harness.images.kernel import KernelBuild
from harness.images.vm_recipe import Recipe

Product = TypeVar("Product", covariant=True)


class ImagePartBuilder(Protocol[Product]):
    """A part that needs no other part. Both functions raise RecipeError and HostError, `obtain` also BuildError."""

    KIND: str

    def key_parts(self, recipe: Recipe, build_context: BuildContext) -> list[str]:
        """Return every input of the part, for its store key. Nothing is fetched or built."""

    def obtain(self, recipe: Recipe, build_context: BuildContext, parts: Sequence[str]) -> Product:
        """Return the part with the inputs `parts`, the result of key_parts(), from the store or built now."""


class PerKernelPartBuilder(Protocol[Product]):
    """A part for one kernel: the root file system with the kernel's drivers, or the probe modules."""

    KIND: str

    def key_parts(self, recipe: Recipe, kernel_key: str, build_context: BuildContext) -> list[str]:
        """Return every input of the part, including the kernel's store key."""

    def obtain(self, recipe: Recipe, kernel: KernelBuild, build_context: BuildContext, parts: Sequence[str]) -> Product:
        """Return the part with the inputs `parts`, the result of key_parts(), from the store or built now."""
