"""Errors raised for input that cannot be used, and exit codes of commands."""

from typing import ClassVar

FAILED = 1
"""Exit code of a failure that can have passed when the same command runs again."""
INVALID = 2
"""Exit code of a command that was used with invalid options or input; the same command fails again."""
INTERRUPTED = 130
"""Exit code of a command that Ctrl-C or another signal stopped; a training run can be resumed."""


class PanformerError(ValueError):
    """An error that the user can fix.

    The message is one sentence (or a short list if several problems are reported at once) that says what is wrong,
    where, what was expected and what to do next. The command line prints it and exits with code 2; library callers can
    catch it as a `ValueError`.

    Attributes:
        may_pass: Whether the same command can succeed later, so that `train --max-restarts` starts it again.
    """

    may_pass: ClassVar[bool] = False


class DataError(PanformerError):
    """An image or annotation that cannot be used. Training can skip such images (`data.skip_bad_images`)."""


class RecipeError(PanformerError):
    """A recipe or an override that cannot be used."""


class CheckpointError(PanformerError):
    """A checkpoint that is missing, corrupt, unsafe or made for a different model."""


class WriteError(PanformerError):
    """A file that cannot be written, for example because the disk is full."""

    may_pass = True


class NonFiniteError(PanformerError):
    """A loss, a gradient or a weight that is NaN or infinite in training."""
