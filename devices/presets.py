"""Named settings of all four devices: saved, listed, loaded."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable
from typing import Any

from ..acquisition.settings import RunSettings
from ..processing.errors import ConfigurationError
from .pipeline import Pipeline

# saving_next_number counts on with every file: an old number would overwrite files or stop the next run;
# saving_file belongs to the command line
NOT_IN_PRESETS = {"saving_next_number", "saving_file"}
MAX_NAME = 100


class SavedSettings:
    """The presets of a server, as the lines of the property `Presets`: one JSON object each."""

    def __init__(self, lines: Iterable[str] = ()) -> None:
        self._presets: dict[str, dict[str, Any]] = {}
        for line in lines:
            try:
                preset = json.loads(line)
                self._presets[preset["name"]] = {"live": dict(preset["live"]), "run": dict(preset["run"])}
            except (ValueError, KeyError, TypeError) as error:
                raise ConfigurationError(f"property Presets: {line[:80]!r} is no preset ({error})") from None

    @property
    def names(self) -> list[str]:
        return sorted(self._presets)

    @property
    def lines(self) -> list[str]:
        return [json.dumps({"name": name} | self._presets[name], sort_keys=True) for name in self.names]

    def with_saved(self, name: str, pipeline: Pipeline) -> SavedSettings:
        """These presets and one more, made of the settings in force."""
        name = name.strip()
        if not name or len(name) > MAX_NAME or not name.isprintable():
            raise ConfigurationError(f"name = {name!r}: accepted are 1 to {MAX_NAME} printable characters")
        run = {
            field.name: pipeline.setting(field.name)
            for field in dataclasses.fields(RunSettings)
            if field.name not in NOT_IN_PRESETS
        }
        presets = SavedSettings()
        live = pipeline.parameters.current.values.to_dict()
        presets._presets = self._presets | {name: {"live": live, "run": run}}
        return presets

    def load(self, name: str, pipeline: Pipeline) -> None:
        """Put a preset into force; everything is checked before anything changes."""
        name = name.strip()
        if name not in self._presets:
            known = ", ".join(self.names) or "none yet; SaveSettings makes them"
            raise ConfigurationError(f"name = {name!r}: there is no such preset; accepted is one of: {known}")
        live, run = self._presets[name]["live"], self._presets[name]["run"]
        unknown = set(run) - {field.name for field in dataclasses.fields(RunSettings)}
        if unknown:
            raise ConfigurationError(f"preset {name!r} has unknown settings: {', '.join(sorted(unknown))}")
        put_into_force(pipeline, live, run)


def put_into_force(pipeline: Pipeline, live: dict[str, Any], run: dict[str, Any]) -> None:
    """Change many settings at once; everything is checked before anything changes."""
    pipeline.parameters.current.values.replace(**live)  # a check only
    changes = {key: value for key, value in run.items() if value != pipeline.setting(key)}
    if changes:  # so that live settings alone can be changed while frames flow
        pipeline.configure(**changes)
    pipeline.update(**live)
