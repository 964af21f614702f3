"""An exponential moving average of the weights, which is evaluated and saved beside them."""

from __future__ import annotations

from typing import cast

from panformer_cli.models.base import PanopticModel


class AveragedWeights:
    """Averages the parameters and running statistics of a model; other buffers are copied.

    The decay of update n, counted from 1, is the smaller of `decay` and `1 - n^(-2/3)`: 0 at first, so that the average
    starts from the first weights after a step, then 0.37, 0.98 after 350 and 0.999 after 31,600 updates.

    Attributes:
        model: A copy of the model with the averaged weights, in evaluation mode.

    Args:
        model: The model, on its device, before it is trained.
        decay: Maximum decay, 0 to less than 1.
    """

    def __init__(self, model: PanopticModel, decay: float) -> None:
        from timm.utils.model_ema import ModelEmaV3  # timm is slow to import

        self._average = ModelEmaV3(model, decay=decay, use_warmup=True)
        self.model = cast(PanopticModel, self._average.module)
        self.model.requires_grad_(False)

    def update(self, model: PanopticModel, updates: int) -> None:
        """Add the weights of `model` to the average.

        Args:
            model: The model that was averaged so far.
            updates: Number of updates, including this one.
        """
        # timm pairs the tensors by their order.
        assert list(self.model.state_dict()) == list(model.state_dict()), "the average is of another model"
        self._average.update(model, step=updates)

    def restart(self, model: PanopticModel) -> None:
        """Set the average to the weights of `model`."""
        self.model.load_state_dict(model.state_dict())
