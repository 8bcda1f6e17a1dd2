"""The base of the tables of a recipe: unknown keys and values of another type are refused."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class RecipeTable(BaseModel):
    """One table of a recipe. It cannot be changed after it was read."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)
