"""YAML text -> plain data, with the place of every key and value. Knows nothing of what the data means.

Scalars are read by the YAML 1.2 core schema, so the traps of 1.1 cannot bite: `off`, `no`, `yes`, `on` are strings,
`1e-3` is a number, `12:30:00` is a string. Duplicate keys, custom tags and keys that are not strings are refused.
"""

from __future__ import annotations

import re
from collections.abc import Hashable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from tuner.errors import Problem, SpaceError

MAX_BYTES = 1 << 20
MAX_NODES = 50_000  # aliases included: a file that multiplies itself is refused, not expanded

Path_ = tuple[Hashable, ...]

_CORE = (
    ("tag:yaml.org,2002:bool", r"(?:true|True|TRUE|false|False|FALSE)", "tTfF"),
    ("tag:yaml.org,2002:null", r"(?:~|null|Null|NULL|)", ["~", "n", "N", ""]),
    ("tag:yaml.org,2002:int", r"(?:[-+]?[0-9][0-9_]*|0o[0-7]+|0x[0-9a-fA-F]+)", "-+0123456789"),
    (
        "tag:yaml.org,2002:float",
        r"(?:[-+]?(?:\.[0-9]+|[0-9][0-9_]*(?:\.[0-9_]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))",
        "-+0123456789.",
    ),
    ("tag:yaml.org,2002:merge", r"(?:<<)", "<"),
)


class _CoreLoader(yaml.SafeLoader):
    """Resolves plain scalars by the core schema of YAML 1.2 instead of PyYAML's 1.1."""


_CoreLoader.yaml_implicit_resolvers = {}
for _tag, _pattern, _first in _CORE:
    _CoreLoader.add_implicit_resolver(_tag, re.compile(f"^{_pattern}$"), list(_first))


@dataclass
class Document:
    """Plain data and where it stands. `marks[path]` is the value's (line, column), `key_marks[path]` its key's."""

    file: str
    data: Any = None
    marks: dict[Path_, tuple[int, int]] = field(default_factory=dict)
    key_marks: dict[Path_, tuple[int, int]] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)

    def place(self, path: Path_, *, key: bool = False) -> tuple[int, int]:
        """Line and column of `path`, or of the nearest ancestor that stands in the file."""
        while path:
            found = (self.key_marks if key else self.marks).get(path) or self.marks.get(path)
            if found:
                return found
            path, key = path[:-1], False
        return self.marks.get((), (1, 1))

    def problem(self, path: Path_, message: str, *, key: bool = False) -> Problem:
        line, column = self.place(path, key=key)
        dotted = ".".join(str(p) for p in path)
        return Problem(self.file, line, column, f"{dotted}: {message}" if dotted else message)


def read_document(path: Path, *, shown_as: str | None = None) -> Document:
    """Read a YAML file.

    Raises:
        SpaceError: the file is missing, empty, too large, not text, not YAML, or has duplicate keys.
    """
    return parse_document(_read_text(path, shown_as or str(path)), shown_as or str(path))


def _read_text(path: Path, name: str) -> str:
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        raise SpaceError([Problem(name, 0, 0, "no such file")]) from None
    except OSError as exc:
        raise SpaceError([Problem(name, 0, 0, f"cannot be read: {exc.strerror}")]) from exc
    if len(raw) > MAX_BYTES:
        raise SpaceError([Problem(name, 0, 0, f"is {len(raw)} bytes; a space file has at most {MAX_BYTES}")])
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as exc:
        raise SpaceError([Problem(name, 0, 0, f"is not UTF-8 text (byte {exc.start}); is this a space file?")]) from exc
    if "\0" in text:
        raise SpaceError([Problem(name, 0, 0, "is a binary file; is this a space file?")])
    return text


def parse_document(text: str, name: str) -> Document:
    """Parse YAML text; see `read_document` for what is refused."""
    document = Document(name)
    try:
        root = yaml.compose(text, Loader=_CoreLoader)
    except yaml.MarkedYAMLError as exc:
        mark = exc.problem_mark or exc.context_mark
        line, column = (mark.line + 1, mark.column + 1) if mark else (0, 0)
        what = exc.problem or exc.context or "not YAML"
        raise SpaceError([Problem(name, line, column, f"not valid YAML: {what}")]) from exc
    except yaml.YAMLError as exc:
        raise SpaceError([Problem(name, 0, 0, f"not valid YAML: {str(exc).splitlines()[0]}")]) from exc
    if root is None:
        raise SpaceError([Problem(name, 0, 0, "is empty; see the shipped spaces for a start")])
    if not isinstance(root, yaml.MappingNode):
        raise SpaceError([Problem(name, 1, 1, "must be a mapping of keys to values at its top level")])
    document.data = _Reader(document).value(root, ())
    if document.problems:
        raise SpaceError(document.problems)
    return document


class _Reader:
    """Walks the node graph once, building data and marks, and collecting problems."""

    def __init__(self, document: Document) -> None:
        self.document = document
        self.loader = _CoreLoader("")
        self.nodes = 0
        self.open: set[int] = set()

    def value(self, node: yaml.Node, path: Path_) -> Any:
        mark = node.start_mark
        self.document.marks[path] = (mark.line + 1, mark.column + 1)
        self.nodes += 1
        if self.nodes > MAX_NODES:
            if self.nodes == MAX_NODES + 1:
                self._problem(path, f"the file expands to more than {MAX_NODES} values")
            return None
        if id(node) in self.open:
            self._problem(path, "an alias that contains itself")
            return None
        self.open.add(id(node))
        try:
            if isinstance(node, yaml.MappingNode):
                return self._mapping(node, path)
            if isinstance(node, yaml.SequenceNode):
                return [self.value(item, (*path, i)) for i, item in enumerate(node.value)]
            return self._scalar(node, path)
        finally:
            self.open.discard(id(node))

    def _mapping(self, node: yaml.MappingNode, path: Path_) -> dict[str, Any]:
        out: dict[str, Any] = {}
        merged: dict[str, Any] = {}
        for key_node, value_node in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                merged |= self._merged(value_node, path)
                continue
            key = key_node.value
            here = (*path, key)
            mark = key_node.start_mark
            place = (mark.line + 1, mark.column + 1)
            if key_node.tag != "tag:yaml.org,2002:str" or not isinstance(key, str):
                self.document.key_marks.setdefault(here, place)
                self._problem(here, f'a key must be text; write "{key}" in quotes', key=True)
                continue
            if key in out:
                first = self.document.key_marks[here][0]
                self.document.problems.append(
                    Problem(self.document.file, *place, f"duplicate key `{key}` (first on line {first})")
                )
                continue
            self.document.key_marks[here] = place
            out[key] = self.value(value_node, here)
        return merged | out

    def _merged(self, node: yaml.Node, path: Path_) -> dict[str, Any]:
        if isinstance(node, yaml.MappingNode):
            found = self.value(node, path)
            return found if isinstance(found, dict) else {}
        self._problem(path, "`<<` takes one mapping (an alias such as *common)")
        return {}

    def _scalar(self, node: yaml.Node, path: Path_) -> Any:
        text = str(node.value)
        kind = node.tag.rpartition(":")[2]
        if kind == "str":
            return text
        if kind == "null":
            return None
        if kind == "bool":
            return text.lower() == "true"
        if kind == "int":
            return self._integer(text, path)
        if kind == "float":
            return _float(text)
        self._problem(path, f"the tag {node.tag} is not allowed in a space file")
        return None

    def _integer(self, text: str, path: Path_) -> int:
        digits = text.replace("_", "")
        if re.fullmatch(r"[-+]?0[0-9]+", digits):
            self._problem(path, f"`{text}` has a leading zero; YAML versions disagree on its value: drop the zero")
            return 0
        return int(digits, 0)

    def _problem(self, path: Path_, message: str, *, key: bool = False) -> None:
        self.document.problems.append(self.document.problem(path, message, key=key))


def _float(text: str) -> float:
    lowered = text.lower().replace("_", "")
    return float(lowered.replace(".inf", "inf").replace(".nan", "nan"))
