"""Changes that a prediction makes to the settings in the checkpoint's recipe."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from panformer_cli.data.categories import CategoryTable
from panformer_cli.data.category_files import read_categories, read_label_map
from panformer_cli.errors import PanformerError
from panformer_cli.recipe import Recipe
from panformer_cli.recipe_io import override_recipe
from panformer_cli.reporting import Reporter
from panformer_cli.settings import DataSettings
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
        short_side: Length in pixels of the short side of the image that the network receives.
        long_side: Its maximum length of the long side in pixels, which shortens the short side if necessary.
        label_map: Category id by label or name, for a model saved by transformers.
        categories: Categories of such a model, as rows of a panoptic JSON; not used where a data set has them.
        hf_post_processing: Merge the masks of such a model as transformers does.
    """

    threshold: float | None = None
    overlap: float | None = None
    max_size: int | None = None
    overrides: tuple[str, ...] = ()
    short_side: int | None = None
    long_side: int | None = None
    label_map: Mapping[str, int] | None = None
    categories: tuple[Mapping[str, Any], ...] | None = None
    hf_post_processing: bool = False

    def with_saved_model(
        self,
        short_side: int | None = None,
        long_side: int | None = None,
        label_map: Path | Mapping[str, int] | None = None,
        categories: Path | None = None,
        hf_post_processing: bool = False,
    ) -> InferenceChanges:
        """Return the changes with these sides, and with the content of the files.

        Raises:
            DataError: A file is missing or invalid.
        """
        return replace(
            self,
            short_side=short_side,
            long_side=long_side,
            label_map=read_label_map(label_map) if isinstance(label_map, Path) else label_map,
            categories=None if categories is None else tuple(read_categories(categories).to_coco()),
            hf_post_processing=hf_post_processing,
        )

    def to_settings(self) -> dict[str, Any]:
        """Return what a prediction depends on, for the settings that `--resume` compares."""
        usual = {"threshold": self.threshold, "overlap": self.overlap, "max_size": self.max_size}
        return {**usual, "overrides": self.overrides, **self.differences()}

    def differences(self) -> dict[str, Any]:
        """Return the changes that are not None, empty or false, as JSON values; {} without changes."""
        return {name: value for name, value in asdict(self).items() if value not in (None, (), False)}

    def read(self, path: Path, reporter: Reporter, categories: CategoryTable | None = None) -> Checkpoint:
        """Return a checkpoint with these settings, and report what a user should know about its categories.

        Args:
            path: The checkpoint.
            reporter: Receives the notes.
            categories: Those of the data set, if there is one.

        Raises:
            PanformerError: The checkpoint cannot be used; and as `applied_to`.
        """
        from panformer_cli.engine.checkpoints.checkpoint import read_checkpoint

        changed = self.applied_to(read_checkpoint(path), categories)
        for note in changed.notes:
            reporter.warn(note)
        return changed

    def applied_to(self, checkpoint: Checkpoint, categories: CategoryTable | None = None) -> Checkpoint:
        """Return the checkpoint with these settings in its recipe.

        Args:
            checkpoint: The checkpoint.
            categories: Those of a data set, to which the labels of a model saved by transformers are matched. Other
                checkpoints have their own.

        Raises:
            PanformerError: The model family has no such threshold, an override is not of the section `inference`, or it
                contradicts another option.
            RecipeError: The value of an override cannot be used.
        """
        checkpoint = self._labeled(checkpoint, categories)
        overrides = [*self._thresholds(checkpoint.recipe), *self._checked_overrides(checkpoint.recipe)]
        recipe = override_recipe(checkpoint.recipe, overrides, str(checkpoint.path)) if overrides else checkpoint.recipe
        return replace(checkpoint, recipe=replace(recipe, data=self._sized(recipe.data)))

    def _labeled(self, checkpoint: Checkpoint, categories: CategoryTable | None) -> Checkpoint:
        """Return the checkpoint with the categories of the data set, or of the options."""
        if self.categories is not None and categories is None:
            categories = CategoryTable.from_coco(list(self.categories), "--categories")
        elif checkpoint.saved is None:
            categories = None
        if categories is None and self.label_map is None:
            return checkpoint
        return checkpoint.labeled(categories, self.label_map)

    def _sized(self, data: DataSettings) -> DataSettings:
        """Return the settings with other sides of the input."""
        short_side, long_side = self.short_side or data.short_side, self.long_side or data.long_side
        if self.long_side is None:
            long_side = max(short_side, long_side)
        if self.short_side is None:
            short_side = min(short_side, long_side)
        if short_side > long_side:
            raise PanformerError(
                f"--short-side is {short_side} and --long-side {long_side}; expected a long side of at least the short "
                "one"
            )
        return replace(data, short_side=short_side, long_side=min(self.max_size or long_side, long_side))

    def _thresholds(self, recipe: Recipe) -> Iterator[str]:
        """Yield overrides for the thresholds."""
        if self.hf_post_processing:
            if not hasattr(recipe.inference, "post_processing"):
                raise PanformerError(
                    f"--hf-post-processing: models of the family {recipe.model.family} are not of transformers; leave "
                    "the option out"
                )
            yield "inference.post_processing=transformers"
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
