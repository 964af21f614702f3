"""What the package raises when a user's input cannot be used."""


class PanformerError(ValueError):
    """A mistake that the user can mend.

    The message is one sentence (or a short list where several mistakes are reported at once) that says what is wrong,
    where, what was expected and what to do next. The command line prints it and exits with code 2; a library caller
    catches it as a `ValueError`.
    """


class DataError(PanformerError):
    """An image or annotation that cannot be used; training may skip such an image when asked to."""


class RecipeError(PanformerError):
    """A recipe or an override that cannot be used."""


class CheckpointError(PanformerError):
    """A checkpoint that is missing, damaged, unsafe or made for another model."""
