"""Errors raised for input that cannot be used, and the exit code of a command that was stopped."""

INTERRUPTED = 130
"""Exit code of a command that Ctrl-C or another signal stopped; a training run can be resumed."""


class PanformerError(ValueError):
    """An error that the user can fix.

    The message is one sentence (or a short list if several problems are reported at once) that says what is wrong,
    where, what was expected and what to do next. The command line prints it and exits with code 2; library callers can
    catch it as a `ValueError`.
    """


class DataError(PanformerError):
    """An image or annotation that cannot be used. Training can skip such images (`data.skip_bad_images`)."""


class RecipeError(PanformerError):
    """A recipe or an override that cannot be used."""


class CheckpointError(PanformerError):
    """A checkpoint that is missing, corrupt, unsafe or made for a different model."""


class WriteError(PanformerError):
    """A file that cannot be written, for example because the disk is full."""


class NonFiniteError(PanformerError):
    """A loss, a gradient or a weight that is NaN or infinite in training."""
