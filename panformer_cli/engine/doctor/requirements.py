"""The packages that panformer declares, from its setup.cfg or from the metadata of the installed distribution."""

from __future__ import annotations

import re
from configparser import ConfigParser
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

SOURCE = Path(__file__).absolute().parents[3]
"""The folder that has setup.cfg, if panformer runs from its source code."""

_FOR_DEVELOPERS = {"dev", "docs", "test", "test-weights"}
"""Extras that are only used to develop panformer."""

_MODULES = {"opencv-python": "cv2", "pillow": "PIL", "pyyaml": "yaml", "scikit-learn": "sklearn"}
"""Names to import that are not those of the distribution."""

_VARIANTS = {"opencv-python": ("opencv-python-headless", "opencv-contrib-python", "opencv-contrib-python-headless")}
"""Other distributions with the same module."""


@dataclass(frozen=True)
class Requirement:
    """A package that panformer needs or can use.

    Attributes:
        name: Name of the distribution, as pip knows it.
        versions: Accepted versions, such as `>= 2.6`; empty for all.
        extra: Extra of panformer that needs it; empty for a package that is always needed.
        marker: On which systems it is installed; empty for all.
    """

    name: str
    versions: str = ""
    extra: str = ""
    marker: str = ""

    @classmethod
    def parse(cls, text: str, extra: str = "") -> Requirement:
        """Return the requirement that a line describes.

        >>> Requirement.parse("mlflow>=2.10; extra == 'mlflow'")
        Requirement(name='mlflow', versions='>=2.10', extra='mlflow', marker='')
        >>> Requirement.parse('zlib-ng >= 0.5 ; platform_machine in "x86_64"').marker
        'platform_machine in "x86_64"'
        """
        package, _, marker = (part.strip() for part in text.partition(";"))
        named = re.search(r"""(?:and\s+)?extra\s*==\s*["']([\w.-]+)["']""", marker)
        if named:
            extra, marker = named[1], marker.replace(named[0], "").strip()
        match = re.match(r"([\w.-]+)(?:\[[^]]*\])?\s*(.*)", package)
        assert match is not None, f"a requirement: {text!r}"
        return cls(match[1], match[2], extra, marker)

    @property
    def module(self) -> str:
        """The name to import."""
        return _MODULES.get(self.name.lower(), self.name.replace("-", "_"))

    @property
    def minimum(self) -> str:
        """The lowest accepted version; empty if there is none."""
        match = re.search(r">=\s*([\w.]+)", self.versions)
        return match[1] if match else ""

    def installed(self) -> tuple[str, str] | None:
        """Return name and version of the distribution, or of a variant of it; None if it is not installed."""
        for name in (self.name, *_VARIANTS.get(self.name.lower(), ())):
            try:
                return name, metadata.version(name)
            except metadata.PackageNotFoundError:
                continue
        return None


def declared() -> list[Requirement]:
    """Return what panformer requires, and what its extras for users require.

    setup.cfg has priority: the metadata of a source folder are those of the day on which it was installed.
    """
    found = _of_source() if (SOURCE / "setup.cfg").is_file() else _of_metadata()
    return [requirement for requirement in found if requirement.extra not in _FOR_DEVELOPERS]


def _of_source() -> list[Requirement]:
    parser = ConfigParser(interpolation=None)
    parser.read(SOURCE / "setup.cfg", encoding="utf-8")
    groups = {"": parser["options"]["install_requires"], **parser["options.extras_require"]}
    return [Requirement.parse(line, extra) for extra, text in groups.items() for line in _lines(text)]


def _lines(text: str) -> list[str]:
    return [line for line in map(str.strip, text.splitlines()) if line and not line.startswith("#")]


def _of_metadata() -> list[Requirement]:
    try:
        return [Requirement.parse(line) for line in metadata.requires("panformer") or []]
    except metadata.PackageNotFoundError:
        return []


def is_older(version: str, minimum: str) -> bool:
    """Return whether a version is lower than another one; only their numbers count.

    >>> is_older("2.5.1+cpu", "2.6"), is_older("2.10", "2.6"), is_older("1.0", "1.0.0"), is_older("1.0rc1", "1.0")
    (True, False, False, False)
    """
    first, second = _numbers(version), _numbers(minimum)
    length = max(len(first), len(second))
    return first + [0] * (length - len(first)) < second + [0] * (length - len(second))


def _numbers(version: str) -> list[int]:
    numbers = []
    for piece in version.partition("+")[0].split("."):
        match = re.match(r"\d+", piece)
        if match is None:
            break
        numbers.append(int(match[0]))
    return numbers
