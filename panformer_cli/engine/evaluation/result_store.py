"""Figures of a measurement of many parts, kept as they come, so that it can go on where it stopped."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from panformer_cli.data.corruptions.frost_texture import frost_source
from panformer_cli.errors import PanformerError
from panformer_cli.storage.files import write_json
from panformer_cli.storage.plain_json import parse as parse_json

Figures = dict[str, Any]
"""`pq` in percent, and whatever else is worth keeping beside it."""


@dataclass(frozen=True)
class ResultStore:
    """Figures that are measured already: one JSON for each corruption and severity.

    settings: whatever the figures depend on, as JSON knows it: checkpoint, annotation, precision.
    writes: whether this process writes the files; all read them.
    """

    folder: Path
    settings: dict[str, Any]
    writes: bool = True

    def of_settings(self, **more: Any) -> ResultStore:
        """The same store; the figures depend on `more` besides."""
        return replace(self, settings={**self.settings, **more})

    def read(self, corruption: str, severity: int) -> Figures | None:
        """The figures; None where they are not measured yet.

        Raises:
            PanformerError: the file is damaged, or its figures were measured with other settings.
        """
        path = self._path(corruption, severity)
        try:
            content = parse_json(path.read_bytes())
            stored, figures = dict(content["settings"]), dict(content["figures"])
            float(figures["pq"])
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise PanformerError(f"{path} is damaged ({error!r}); delete it, and it will be measured again") from error
        wanted = self._settings(corruption)
        for key in sorted(stored.keys() | wanted.keys()):
            if stored.get(key) != wanted.get(key):
                raise PanformerError(
                    f"{path} was measured with {key} {stored.get(key)!r}, not {wanted.get(key)!r}; "
                    "choose another folder, or delete this one's figures"
                )
        return figures

    def write(self, corruption: str, severity: int, figures: Figures) -> None:
        """Keep the figures."""
        if self.writes:
            content = {"settings": self._settings(corruption), "figures": figures}
            write_json(self._path(corruption, severity), content)

    def _path(self, corruption: str, severity: int) -> Path:
        return self.folder / (f"{corruption}_{severity}.json" if severity else f"{corruption}.json")

    def _settings(self, corruption: str) -> dict[str, Any]:
        return {**self.settings, **({"frost": frost_source()} if corruption == "frost" else {})}
