"""Changes that a prediction makes to the settings in the checkpoint's recipe."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING

from panformer_cli.errors import PanformerError
from panformer_cli.recipe import Recipe
from panformer_cli.recipe_io import override_recipe
from panformer_cli.wording import listing

if TYPE_CHECKING:  # imports torch
    from panformer_cli.engine.checkpoints.checkpoint import Checkpoint


@dataclass(frozen=True)
class InferenceChanges:
    """Settings that differ from those of the checkpoint; None for those of the checkpoint.

    Attributes:
        threshold: Minimum score of a segment, 0 to 1, by the family's own measure.
        overlap: Maximum share of a segment that segments with higher scores may cover, 0 to 1.
        max_size: Maximum length in pixels of the long side of the image that the network receives. Only smaller values
            than the checkpoint's own have an effect. Results have the size of the original image.
        overrides: `inference.KEY=VALUE`.
    """

    threshold: float | None = None
    overlap: float | None = None
    max_size: int | None = None
    overrides: tuple[str, ...] = ()

    def applied_to(self, checkpoint: Checkpoint) -> Checkpoint:
        """Return the checkpoint with these settings in its recipe.

        Raises:
            PanformerError: The model family has no such threshold, an override is not of the section `inference`, or it
                contradicts another option.
            RecipeError: The value of an override cannot be used.
        """
        overrides = [*self._thresholds(checkpoint.recipe), *self._checked_overrides(checkpoint.recipe)]
        recipe = override_recipe(checkpoint.recipe, overrides, str(checkpoint.path)) if overrides else checkpoint.recipe
        if self.max_size is not None:
            long_side = min(self.max_size, recipe.data.long_side)
            recipe = replace(recipe, data=replace(recipe.data, long_side=long_side))
        return replace(checkpoint, recipe=recipe)

    def _thresholds(self, recipe: Recipe) -> Iterator[str]:
        """Yield overrides for the thresholds."""
        set_by_hand = {override.partition("=")[0]: override for override in self.overrides}
        for option in ("threshold", "overlap"):
            value = getattr(self, option)
            if value is None:
                continue
            keys = [f"inference.{name}" for name in recipe.inference.predict_options.get(option, ())]
            if not keys:
                raise PanformerError(
                    f"--{option}: models of the family {recipe.model.family} have no such threshold; expected --set "
                    f"with one of {_keys(recipe)}"
                )
            for key in keys:
                if key in set_by_hand:
                    raise PanformerError(
                        f"--{option} {value:g} and --set {set_by_hand[key]} set the same threshold; leave out one of "
                        "them"
                    )
                yield f"{key}={value!r}"

    def _checked_overrides(self, recipe: Recipe) -> tuple[str, ...]:
        other = [text for text in self.overrides if not text.startswith("inference.")]
        if other:
            raise PanformerError(
                f"--set {other[0]}: a prediction can change the section `inference` only, since the other settings "
                f"belong to the trained weights; expected one of {_keys(recipe)}"
            )
        return self.overrides


def _keys(recipe: Recipe) -> str:
    return listing(f"inference.{field.name}" for field in fields(recipe.inference))
