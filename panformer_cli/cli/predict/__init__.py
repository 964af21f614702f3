"""`panformer predict`."""

from panformer_cli.cli.predict.command import predict

__all__ = ["predict"]
