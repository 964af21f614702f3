"""Versions of Python, panformer and the packages that it uses, and the image formats that can be read."""

from __future__ import annotations

import platform
import shlex
import sys
from collections.abc import Iterator
from importlib import import_module, metadata

from panformer_cli import __version__
from panformer_cli.engine.doctor.finding import Finding, Status, examined, first_line
from panformer_cli.engine.doctor.requirements import Requirement, declared, is_older

MINIMUM_PYTHON = (3, 10)
OPTIONAL = {
    "pillow-heif": "HEIC images",
    "panopticapi-lite": "evaluate --cross-check",
}
"""Packages without an extra, and what they are for."""
_NO_DEPENDENCIES = {"panopticapi-lite"}
"""Packages whose own requirements are too strict (README.md, "Install")."""


def versions() -> Iterator[Finding]:
    """Examine the interpreter, panformer itself, and every package that it requires."""
    python = f"{platform.python_version()} ({platform.python_implementation()}, {sys.executable})"
    is_new = sys.version_info >= MINIMUM_PYTHON
    advice = "" if is_new else "create a virtual environment with Python 3.10 to 3.13"
    yield Finding("Versions", "Python", "ok" if is_new else "failed", python, advice)
    yield Finding("Versions", "panformer", "ok", f"{__version__} ({_where()})")
    yield Finding("Versions", "system", "ok", platform.platform())
    for requirement in declared():
        if not requirement.extra:
            yield from _package(requirement)


def extras() -> Iterator[Finding]:
    """Examine the optional packages; they are not imported, because some take long."""
    for requirement in declared():
        if requirement.extra and requirement.name != "panformer":
            extra = f"panformer[{requirement.extra}]"
            yield _optional(requirement, extra, f"pip install {shlex.quote(extra)}")
    for package, purpose in OPTIONAL.items():
        option = "--no-deps " if package in _NO_DEPENDENCIES else ""
        yield _optional(Requirement(package), purpose, f"pip install {option}{package}")


def image_formats() -> Iterator[Finding]:
    """Examine which image and video files can be read."""
    from panformer_cli.data.image_formats import readable_suffixes
    from panformer_cli.data.opencv import cv2

    found = readable_suffixes()
    yield Finding("Extras", "image files", "ok", " ".join(sorted(suffix.removeprefix(".") for suffix in found)))
    lines = [line.split() for line in cv2.getBuildInformation().splitlines() if line.strip().startswith("FFMPEG:")]
    has_video = any(words[1:2] == ["YES"] for words in lines)
    yield Finding(
        "Extras",
        "video files",
        "ok" if has_video else "missing",
        "FFmpeg in OpenCV" if has_video else "OpenCV was built without FFmpeg",
        "" if has_video else "pip install --force-reinstall opencv-python",
    )
    yield from examined("Extras", "fast PNG codec", _png_codec)


def _png_codec() -> Iterator[Finding]:
    import_module("zlib_ng")
    yield Finding("Extras", "fast PNG codec", "ok", "zlib-ng")


def _where() -> str:
    try:
        return f"distribution {metadata.version('panformer')} is installed"
    except metadata.PackageNotFoundError:
        return "not installed; it runs from its source code"


def _package(requirement: Requirement) -> Iterator[Finding]:
    """Examine a required package: its version, and whether it can be imported."""
    name, minimum = requirement.name, requirement.minimum
    install = shlex.quote(f"{name}>={minimum}" if minimum else name)
    installed = requirement.installed()
    failed: Status = "warning" if requirement.marker else "failed"  # panformer also works where it is not available
    if installed is None:
        yield Finding("Versions", name, failed, "not installed", f"pip install {install}")
        return
    distribution, version = installed
    shown = version if distribution == name else f"{version} ({distribution})"
    if minimum and distribution == name and is_older(version, minimum):
        fix = f"pip install --upgrade {install}"
        yield Finding("Versions", name, failed, f"{shown}; expected {minimum} or later", fix)
        return
    try:
        import_module(requirement.module)
    except Exception as error:  # any type: a broken package can raise anything
        fix = _reinstall(requirement, error)
        yield Finding("Versions", name, failed, f"{shown} cannot be imported: {first_line(error)}", fix)
    else:
        yield Finding("Versions", name, "ok", shown)


def _reinstall(requirement: Requirement, error: Exception) -> str:
    """Return the command that installs a package again, or OpenCV without a desktop if its libraries are missing."""
    if requirement.module == "cv2" and ("libGL" in str(error) or "shared object" in str(error)):
        return "pip uninstall --yes opencv-python && pip install opencv-python-headless"
    return f"pip install --force-reinstall {shlex.quote(requirement.name + requirement.versions.replace(' ', ''))}"


def _optional(requirement: Requirement, purpose: str, install: str) -> Finding:
    """Return the finding about an optional package, which is not imported."""
    installed, name = requirement.installed(), requirement.name
    if installed is None:
        return Finding("Extras", name, "missing", f"not installed; for {purpose}", install)
    version, minimum = installed[1], requirement.minimum
    if minimum and is_older(version, minimum):
        return Finding("Extras", name, "warning", f"{version}; expected {minimum} or later", f"{install} --upgrade")
    return Finding("Extras", name, "ok", version)
