"""Store the scores of each corruption and severity in a file, so that an interrupted evaluation can resume."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from panformer_cli.data.corruptions.frost_texture import frost_source
from panformer_cli.errors import PanformerError
from panformer_cli.storage.files import write_json
from panformer_cli.storage.plain_json import parse as parse_json

Scores = dict[str, Any]
"""`pq` in percent, and possibly other metrics."""


@dataclass(frozen=True)
class ResultStore:
    """Scores that were already computed: one JSON file for each corruption and severity.

    Attributes:
        folder: Folder of the files.
        settings: What the scores depend on, such as checkpoint, annotation and precision; ready for JSON.
        writes: Whether this process writes the files; all processes read them.
    """

    folder: Path
    settings: dict[str, Any]
    writes: bool = True

    def of_settings(self, **more: Any) -> ResultStore:
        """Return the same store with `more` settings."""
        return replace(self, settings={**self.settings, **more})

    def read(self, corruption: str, severity: int) -> Scores | None:
        """Return the scores; None if they have not been computed yet.

        Raises:
            PanformerError: The file is corrupt, or its scores were computed with other settings.
        """
        path = self._path(corruption, severity)
        try:
            content = parse_json(path.read_bytes())
            stored, scores = dict(content["settings"]), dict(content["figures"])
            float(scores["pq"])
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise PanformerError(f"{path} is corrupt ({error!r}); delete it and rerun the command") from error
        expected = self._settings(corruption)
        for key in sorted(stored.keys() | expected.keys()):
            if stored.get(key) != expected.get(key):
                raise PanformerError(
                    f"{path} was computed with {key} {stored.get(key)!r}, not {expected.get(key)!r}; "
                    "choose another folder, or delete the results in this one"
                )
        return scores

    def write(self, corruption: str, severity: int, scores: Scores) -> None:
        """Save the scores."""
        if self.writes:
            content = {"settings": self._settings(corruption), "figures": scores}
            write_json(self._path(corruption, severity), content)

    def _path(self, corruption: str, severity: int) -> Path:
        return self.folder / (f"{corruption}_{severity}.json" if severity else f"{corruption}.json")

    def _settings(self, corruption: str) -> dict[str, Any]:
        return {**self.settings, **({"frost": frost_source()} if corruption == "frost" else {})}
