"""The one place that turns `InferenceOptions` into a predictor."""

from __future__ import annotations

from panformer_cli.engine.checkpoints.checkpoint import Checkpoint
from panformer_cli.engine.combined.options import DEFAULT, InferenceOptions
from panformer_cli.engine.combined.tiles import TiledPredictor
from panformer_cli.engine.combined.views import AugmentedPredictor
from panformer_cli.engine.distributed.runtime import Process
from panformer_cli.engine.inference import Predictor
from panformer_cli.engine.precision import PrecisionChoice
from panformer_cli.errors import PanformerError


def predictor_of(
    checkpoint: Checkpoint,
    process: Process,
    choice: PrecisionChoice = "fp32",
    options: InferenceOptions = DEFAULT,
) -> Predictor:
    """Return a predictor with a checkpoint's model and these options; errors as `Predictor.of` and `with_options`."""
    return with_options(Predictor.of(checkpoint, process, choice), options)


def with_options(predictor: Predictor, options: InferenceOptions) -> Predictor:
    """Return a predictor that runs images with these options. `mask_layers` shortens its model in place.

    Raises:
        PanformerError: The model family does not support an option.
    """
    model = predictor.model
    named = {"--tile": options.tile is not None, "--tta": len(options.views) > 1}
    used = [name for name, is_used in named.items() if is_used]
    if used and not model.predicts_masks:
        raise PanformerError(
            f"{' and '.join(used)} cannot be used: the model family {predictor.recipe.model.family} does not predict "
            "scored masks, which tiles and views are combined from; leave the option out"
        )
    if options.mask_layers is not None:
        model.use_mask_layers(options.mask_layers)
    if len(options.views) > 1:
        predictor = AugmentedPredictor(predictor, options.views)
    if options.tile is not None:
        predictor = TiledPredictor(predictor, options.tile, options.overlap, options.tile_whole_image)
    return predictor
