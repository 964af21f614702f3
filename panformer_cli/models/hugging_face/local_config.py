"""A config.json from which transformers builds a network without asking the Hub, and without running other code.

transformers looks up some values of a config on the Hugging Face Hub: the name of a backbone, its code (`auto_map`)
and kernels for attention. A config is as untrusted as any download, so these values are left out, or refused.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from panformer_cli.errors import CheckpointError
from panformer_cli.wording import short

LEFT_OUT = frozenset(
    {
        "auto_map",
        *("attn_implementation", "_attn_implementation", "_attn_implementation_internal"),
        *("experts_implementation", "_experts_implementation", "_experts_implementation_internal"),
    }
)
"""Settings that name code: that of a model, or kernels. They don't change what a network computes."""

_TIMM_NAME = re.compile(r"[\w.-]+", re.ASCII)  # not `hf-hub:OWNER/NAME`, `local-dir:FOLDER` or OWNER/NAME


def local_config(config: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """Return a config without what transformers would look up on the Hub, also in its parts.

    Args:
        config: content of a config.json.
        path: its path, for messages.

    Raises:
        CheckpointError: a backbone is described only by a name, which is not that of a model of timm.
    """
    parts = _with_backbone_config(config, path)
    return {key: _local(value, path) for key, value in parts.items() if key not in LEFT_OUT}


def _local(value: Any, path: Path) -> Any:
    if isinstance(value, Mapping):
        return local_config(value, path)
    return [_local(item, path) for item in value] if isinstance(value, list) else value


def _with_backbone_config(part: Mapping[str, Any], path: Path) -> Mapping[str, Any]:
    """Return a part of a config whose backbone, if it is only a name, is described as one of timm's.

    transformers does the same, but only after it asked the Hub for a repository with this name. It doesn't ask for
    DETR's backbone without options, which has settings of its own.
    """
    name = part.get("backbone")
    if name is None or part.get("backbone_config") is not None:
        return part
    if not isinstance(name, str) or not _TIMM_NAME.fullmatch(name):
        raise CheckpointError(
            f"{path}: the backbone is {short(name)}, which would be looked up elsewhere, such as on the Hugging Face "
            "Hub; expected a backbone_config, or the name of a model of timm"
        )
    options, kind = part.get("backbone_kwargs") or {}, part.get("model_type")
    if not isinstance(options, Mapping):
        raise CheckpointError(f"{path}: backbone_kwargs is {short(options)}; expected an object")
    if kind == "timm_backbone" or (kind == "detr" and part.get("use_timm_backbone", True) and not options):
        return part
    described = {"model_type": "timm_backbone", "backbone": name, **options}
    return {**part, "backbone": None, "backbone_kwargs": None, "backbone_config": described}
