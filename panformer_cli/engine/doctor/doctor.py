"""All examinations of `panformer doctor`, in their order."""

from __future__ import annotations

from collections.abc import Iterator

from panformer_cli.engine.doctor.devices import devices, kernels
from panformer_cli.engine.doctor.finding import Finding, examined
from panformer_cli.engine.doctor.folders import folders
from panformer_cli.engine.doctor.packages import extras, image_formats, versions
from panformer_cli.engine.doctor.self_test import self_test

_EXAMINATIONS = (
    ("Versions", "packages", versions),
    ("Devices", "devices", devices),
    ("Kernels", "deformable attention", kernels),
    ("Extras", "optional packages", extras),
    ("Extras", "image files", image_formats),
    ("Self-test", "self-test", self_test),
    ("Folders", "folders", folders),
)


def examine() -> Iterator[Finding]:
    """Yield what is found, as soon as it is known. Broken packages raise no errors here."""
    for section, name, examination in _EXAMINATIONS:
        yield from examined(section, name, examination)
