"""YAML as this project reads it: the core rules of YAML 1.2, no key twice, and the line where things stand; or JSON."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml

from ..processing.errors import ConfigurationError


class _Loader(yaml.SafeLoader):
    """PyYAML follows YAML 1.1, where `1:0` (an OpenCL device) is 60, `no` is false and `1e-3` is a string."""

    yaml_implicit_resolvers: dict = {}  # noqa: RUF012 - PyYAML's own attribute, here without the rules of 1.1

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        seen = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise yaml.constructor.ConstructorError(None, None, "a key must be text", key.start_mark)
            if key.value in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key.value!r} stands here a second time", key.start_mark
                )
            seen.add(key.value)
        return super().construct_mapping(node, deep)


for _tag, _pattern, _first in (
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("int", r"[-+]?(0|[1-9][0-9]*)|0x[0-9a-fA-F]+", "-+0123456789"),
    ("float", r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.inf|\.nan", "-+.0123456789"),
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("merge", r"<<", "<"),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(f"^(?:{_pattern})$"), list(_first))


class YamlFile:
    """The contents of one file in YAML, or in JSON if it is called `.json`, and where in it each of them stands.

    Raises
    ------
    ConfigurationError
        No such file, neither YAML nor JSON, or a key that stands twice in a mapping; with line and column.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        try:
            text = self.path.read_text(encoding="utf-8")
        except FileNotFoundError:
            raise ConfigurationError(f"{self.path}: there is no such file; give the path of a YAML file") from None
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
            raise ConfigurationError(f"{self.path}: cannot be read: {reason}") from None
        self._text, self._composed = text, None
        if self.path.suffix.lower() == ".json":
            self.contents: Any = self._json()
            return
        try:
            self._composed = yaml.compose(text, Loader=_Loader)
            self.contents = yaml.load(text, Loader=_Loader)
        except yaml.YAMLError as error:
            raise ConfigurationError(f"{self.path}{_place(error)}: not valid YAML: {_problem(error)}") from None
        except (ValueError, RecursionError) as error:  # a number of thousands of digits, thousands of brackets
            raise ConfigurationError(f"{self.path}: not valid YAML: {error}") from None

    def _json(self) -> Any:
        """Not read as YAML, which takes seconds for the configuration of a whole beamline."""

        def no_key_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
            names = [key for key, _ in pairs]
            twice = next((key for key in names if names.count(key) > 1), None) if len(set(names)) < len(names) else None
            if twice is not None:
                raise ConfigurationError(f"{self.path}: not valid JSON: the key {twice!r} stands twice in one object")
            return dict(pairs)

        try:
            return json.loads(self._text, object_pairs_hook=no_key_twice)
        except json.JSONDecodeError as error:
            where = f"{self.path}:{error.lineno}:{error.colno}"
            raise ConfigurationError(f"{where}: not valid JSON: {error.msg}") from None
        except (ValueError, RecursionError) as error:  # a number of thousands of digits, thousands of brackets
            raise ConfigurationError(f"{self.path}: not valid JSON: {error}") from None

    def _root(self) -> yaml.Node | None:
        if self._composed is None:
            with suppress(yaml.YAMLError, RecursionError):  # nearly all JSON is YAML; tabs are not
                self._composed = yaml.compose(self._text.replace("\t", " "), Loader=_Loader)
        return self._composed

    def line(self, keys: Sequence[str | int]) -> int:
        """Line (from 1) of the entry that a path of keys and list indices leads to, as far as it exists."""
        node, line = self._root(), 1
        for key in keys:
            if isinstance(node, yaml.MappingNode):
                entries = [(k, v) for k, v in node.value if k.value == str(key)]
                if not entries:
                    break
                at, node = entries[0]
                line = at.start_mark.line + 1
            elif isinstance(node, yaml.SequenceNode) and isinstance(key, int) and key < len(node.value):
                node = node.value[key]
                line = node.start_mark.line + 1
            else:
                break
        return line

    def value(self, keys: Sequence[str | int]) -> Any:
        """What a path of keys and list indices leads to; an empty mapping if nothing is there."""
        found = self.contents
        for key in keys:
            if isinstance(found, Mapping):
                found = next((value for name, value in found.items() if str(name) == str(key)), {})
            elif isinstance(found, list) and isinstance(key, int) and key < len(found):
                found = found[key]
            else:
                return {}
        return found


def _place(error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None)
    return f":{mark.line + 1}:{mark.column + 1}" if mark else ""


def _problem(error: yaml.YAMLError) -> str:
    return str(getattr(error, "problem", None) or error).splitlines()[0]
