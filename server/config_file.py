"""The configuration file: a short reader of YAML that never says what stands in the file, which may
hold keys.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection
from pathlib import Path
from typing import Any, Final, NoReturn

import yaml

MAX_BYTES: Final = 1 << 18
NEAR: Final = 0.75
"""A name at least this much like a setting's is a slip of the pen, and may be shown."""


class ConfigError(ValueError):
    """Settings that cannot be used; the message is one line and holds no key."""


def nearest(name: str, known: Collection[str]) -> str | None:
    """The known name that was meant, if any is much like it."""
    found = difflib.get_close_matches(name, known, 1, NEAR)
    return found[0] if found else None


def filed(path: Path, known: Collection[str]) -> dict[str, tuple[Any, int]]:
    """Values of a file of lines ``name: value``, each with the number of its line.

    Args:
        path: the file.
        known: the names there are; none of them may be there twice.

    Raises:
        ConfigError: a file that cannot be used. Tells positions, and names that are much like a
            known one.
    """
    text = _text(path)
    try:
        root = _composed(path, text)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line, column = (mark.line, mark.column) if mark else (0, 0)
        lines = text.splitlines()
        tabs = line < len(lines) and "\t" in lines[line][: column + 1]
        _refuse(path, line, column, ": a tab cannot indent" if tabs else "")
    except yaml.YAMLError:  # a character that no YAML has
        raise ConfigError(f"{path} is not YAML: it holds characters that are not text") from None
    if root is None:
        return {}
    if not isinstance(root, yaml.MappingNode):
        raise ConfigError(f"{path}: expected lines of the form 'name: value'")
    found: dict[str, tuple[Any, int]] = {}
    for key, node in root.value:
        line = key.start_mark.line
        if not isinstance(key, yaml.ScalarNode):
            _refuse(path, line, key.start_mark.column, ": expected a name")
        name = key.value
        if name not in known:
            near = nearest(name, known)
            said = f"{name} is not a setting; did you mean {near}?" if near else "not a setting"
            raise ConfigError(f"{path}, line {line + 1}: {said}")
        if name in found:
            raise ConfigError(f"{path}, line {line + 1}: {name} is set twice")
        found[name] = (_value(path, name, node), line + 1)
    return found


def _text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from None
    except ValueError:  # a null in the name
        raise ConfigError("cannot read the configuration file: no such name") from None
    if len(data) > MAX_BYTES:
        raise ConfigError(f"{path} has more than {MAX_BYTES} bytes")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise ConfigError(f"{path} is not YAML in UTF-8") from None


def _composed(path: Path, text: str) -> yaml.Node | None:
    """The document. Settings are values and lists of them, so nothing nests deeper than a mapping
    in a list; nothing is named by an anchor or made by a tag.
    """
    depth = documents = 0
    for event in yaml.parse(text, yaml.SafeLoader):
        mark = event.start_mark
        wrong = ""
        if isinstance(event, yaml.DocumentStartEvent):
            documents += 1
            wrong = "a second document" if documents > 1 else ""
        elif isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
            wrong = "no anchors and aliases are taken"
        elif getattr(event, "tag", None):
            wrong = "no tags are taken"
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            wrong = wrong or ("nested too deeply" if depth > 3 else "")
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        if wrong:
            _refuse(path, mark.line, mark.column, f": {wrong}")
    return yaml.compose(text, yaml.SafeLoader)


def _value(path: Path, name: str, node: yaml.Node) -> Any:
    """A value, a list, or a mapping, of which nothing is taken and nothing is looked at."""
    if isinstance(node, yaml.MappingNode):
        return {}
    if isinstance(node, yaml.SequenceNode):
        return [_value(path, name, each) for each in node.value]
    loader = yaml.SafeLoader("")
    try:
        return loader.construct_object(node)
    except (ValueError, yaml.YAMLError):  # 2026-13-45, or a number of thousands of digits
        _refuse(path, node.start_mark.line, node.start_mark.column, f": no value for {name}")
    finally:
        loader.dispose()


def _refuse(path: Path, line: int, column: int, why: str) -> NoReturn:
    place = f"line {line + 1}, column {column + 1}"
    raise ConfigError(f"{path} is not YAML of the form 'name: value': {place}{why}") from None
