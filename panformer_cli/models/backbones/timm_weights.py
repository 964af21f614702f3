"""The files of timm's pretrained weights: their place, their download, and the notice of their license."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import Any

from panformer_cli.errors import CheckpointError, WriteError
from panformer_cli.models.backbones.known import BACKBONES, TIMM
from panformer_cli.models.backbones.timm_import import timm
from panformer_cli.reporting import Reporter
from panformer_cli.storage.download import DownloadError, download
from panformer_cli.storage.files import weights_folder, write_text

OPEN_LICENSES = {None, "unknown", "apache-2.0", "mit", "bsd-3-clause"}
"""Licenses, as timm names them, that need no notice: common ones without conditions on the use."""
LICENSES = {
    "dinov3-license": ("DINOv3 License", "https://ai.meta.com/resources/models-and-libraries/dinov3-license"),
    "cc-by-4.0": ("CC BY 4.0", "https://creativecommons.org/licenses/by/4.0"),
    "cc-by-nc-4.0": ("CC BY-NC 4.0, not for commercial use", "https://creativecommons.org/licenses/by-nc/4.0"),
}
"""Names and addresses of licenses. The others are on the page of the model."""
HUB_FILE = "model.safetensors"
ALTERNATIVES = (
    "use a local file with --set model.backbone_weights=FILE, or start from random weights with "
    "--set model.backbone_weights=none"
)


def pretrained_name(backbone: str) -> str:
    """Return timm's name, with its tag, of the pretrained weights of a backbone.

    Args:
        backbone: as in `model.backbone`.

    Raises:
        CheckpointError: timm has no weights for it.
    """
    model = BACKBONES[backbone].pretrained if backbone in BACKBONES else backbone.removeprefix(TIMM)
    if not timm.is_model_pretrained(model):
        raise CheckpointError(f"timm has no pretrained weights for {model}: {ALTERNATIVES}")
    config = _config(model)
    return f"{config.architecture}.{config.tag}" if config.tag else model


def weights_file(pretrained: str) -> Path:
    """Return the path of the weights in panformer's cache, whether the file exists or not."""
    suffix = Path(HUB_FILE if _config(pretrained).hf_hub_id else _config(pretrained).url).suffix
    return weights_folder() / "backbones" / f"{pretrained}{suffix}"


def fetch_weights(backbone: str, reporter: Reporter) -> None:
    """Download the pretrained weights of a backbone, if they are not in a cache.

    At the first use of weights with a license of their own, a sentence names it before anything is downloaded. A file
    beside the weights records that.

    Args:
        backbone: as in `model.backbone`.
        reporter: for the license and the progress.

    Raises:
        CheckpointError: the weights cannot be downloaded; the message says where to put the file.
    """
    pretrained = pretrained_name(backbone)
    _report_license(pretrained, reporter)
    if cached_file(pretrained) is not None or not is_one_file(pretrained):
        return
    path, url = weights_file(pretrained), _address(pretrained)
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"):
        raise CheckpointError(
            f"cannot download {url}: HF_HUB_OFFLINE is set; unset it, or put the file at {path} yourself, or "
            f"{ALTERNATIVES}"
        )
    reporter.message(f"Downloading the weights {pretrained} of the backbone")
    try:
        download(url, path, reporter=reporter)
    except DownloadError as error:
        raise CheckpointError(f"{error}; without this file, {ALTERNATIVES}") from error


def cached_file(pretrained: str) -> Path | None:
    """Return the file of the weights in panformer's cache, or in that of Hugging Face; None if it is in neither."""
    path = weights_file(pretrained)
    if path.is_file():
        return path
    hub = _config(pretrained).hf_hub_id
    if not hub:
        return None
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(hub, HUB_FILE)
    return Path(found) if isinstance(found, str) else None


def is_one_file(pretrained: str) -> bool:
    """Return whether the file of the weights is known; timm itself downloads those of other owners on the hub."""
    config = _config(pretrained)
    return config.hf_hub_id.startswith(TIMM) if config.hf_hub_id else bool(config.url)


def _address(pretrained: str) -> str:
    config = _config(pretrained)
    if not config.hf_hub_id:
        return str(config.url)
    from huggingface_hub import hf_hub_url

    return hf_hub_url(config.hf_hub_id, HUB_FILE, endpoint=os.environ.get("HF_ENDPOINT"))


def _report_license(pretrained: str, reporter: Reporter) -> None:
    """Report a license with conditions of its own, once for each file of weights."""
    config = _config(pretrained)
    if config.license in OPEN_LICENSES:
        return
    note = weights_file(pretrained).with_suffix(".license.txt")
    if note.is_file():
        return
    page = f"https://huggingface.co/{config.hf_hub_id}" if config.hf_hub_id else str(config.url)
    name, address = LICENSES.get(config.license, (config.license, page))
    sentence = (
        f"the weights {pretrained} have a license of their own ({name}): read it before you use them, or models "
        f"trained from them, at {address}"
    )
    reporter.warn(sentence)
    with suppress(WriteError):  # it is reported again
        write_text(note, f"{sentence}\n")


def _config(pretrained: str) -> Any:
    return timm.get_pretrained_cfg(pretrained)
