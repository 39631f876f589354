"""YAML text -> plain data, with the place of every key and value. Knows nothing of what the data means.

Scalars are read by the YAML 1.2 core schema, so the traps of 1.1 cannot bite: `off`, `no`, `yes`, `on` are strings,
`1e-3` is a number, `12:30:00` is a string. Refused: duplicate keys, custom tags, keys that are not text, leading zeros,
integers beyond 64 bits, numbers that are not finite, and files that multiply themselves or nest without end.
"""

from __future__ import annotations

import math
import re
from collections.abc import Hashable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from tuner.errors import Problem, SpaceError

MAX_BYTES = 1 << 18  # 50 times a shipped space; pure-Python YAML reads about 100 KB/s
MAX_NODES = 20_000  # aliases included: a file that multiplies itself is refused, not expanded
MAX_DEPTH = 40
_TOO_DEEP = f"nested more than {MAX_DEPTH} levels deep"
_TOO_MANY = f"the file expands to more than {MAX_NODES} values"
_ENDLESS = "an alias that contains itself"
_MAX_INTEGER = 1 << 63
_TAG = "tag:yaml.org,2002:"

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
    """Resolves plain scalars by the core schema of YAML 1.2 instead of PyYAML's 1.1; PyYAML recurses, so depth ends."""

    depth = 0
    nodes = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        self.depth += 1
        self.nodes += 1
        if self.depth > MAX_DEPTH or self.nodes > MAX_NODES:
            what = _TOO_DEEP if self.depth > MAX_DEPTH else _TOO_MANY
            mark = self.peek_event().start_mark  # type: ignore[no-untyped-call] # missing in types-pyyaml
            raise yaml.composer.ComposerError(None, None, what, mark)
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node


_CoreLoader.yaml_implicit_resolvers = {}
for _tag, _pattern, _first in _CORE:
    _CoreLoader.add_implicit_resolver(_tag, re.compile(f"^{_pattern}$"), list(_first))


@dataclass
class Document:
    """Plain data and where it stands; `folder` holds the file.

    `marks[path]` is the value's (line, column), `key_marks[path]` its key's.
    """

    file: str
    data: Any = None
    marks: dict[Path_, tuple[int, int]] = field(default_factory=dict)
    key_marks: dict[Path_, tuple[int, int]] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    folder: Path = Path()

    def place(self, path: Path_, *, key: bool = False) -> tuple[int, int]:
        """Line and column of `path`, or of the nearest ancestor that stands in the file."""
        while path:
            found = (self.key_marks if key else self.marks).get(path) or self.marks.get(path)
            if found:
                return found
            path, key = path[:-1], False
        return self.marks.get((), (1, 1))

    def problem(self, path: Path_, message: str, *, key: bool = False) -> Problem:
        return self.problem_at(self.place(path, key=key), path, message)

    def problem_at(self, place: tuple[int, int], path: Path_, message: str) -> Problem:
        """A problem of `path` told at another place than its own; always one line, whatever the file holds."""
        dotted = ".".join(str(p) for p in path)
        text = f"{dotted}: {message}" if dotted else message
        return Problem(self.file, *place, " ".join(text.split()))


def read_document(path: Path, *, shown_as: str | None = None) -> Document:
    """Read a YAML file.

    Raises:
        SpaceError: the file is missing, empty, too large, not text, not YAML, or multiplies itself.
    """
    document = parse_document(_read_text(path, shown_as or str(path)), shown_as or str(path))
    document.folder = path.resolve().parent
    return document


def _read_text(path: Path, name: str) -> str:
    try:
        with path.open("rb") as opened:
            raw = opened.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise SpaceError([Problem(name, 0, 0, "no such file")]) from None
    except OSError as exc:
        raise SpaceError([Problem(name, 0, 0, f"cannot be read: {exc.strerror or exc}")]) from exc
    if len(raw) > MAX_BYTES:
        raise SpaceError([Problem(name, 0, 0, f"is larger than {MAX_BYTES} bytes; is this a space file?")])
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as exc:
        raise SpaceError([Problem(name, 0, 0, f"is not UTF-8 text (byte {exc.start}); is this a space file?")]) from exc
    if "\0" in text:
        raise SpaceError([Problem(name, 0, 0, "is a binary file; is this a space file?")])
    return text


def parse_document(text: str, name: str) -> Document:
    """Parse YAML text; see `read_document` for what is refused.

    Mistakes that leave the rest readable (a duplicate key, a leading zero) are left in `problems` of the document.
    """
    document = Document(name)
    root = _compose(text, document)
    if root is None:
        raise SpaceError([Problem(name, 0, 0, "is empty; see the shipped spaces for a start")])
    if not isinstance(root, yaml.MappingNode):
        raise SpaceError([Problem(name, 1, 1, "must be a mapping of keys to values at its top level")])
    reader = _Reader(document)
    document.data = reader.value(root, ())
    if reader.nodes > MAX_NODES:
        raise SpaceError(document.problems)
    return document


def _compose(text: str, document: Document) -> yaml.Node | None:
    try:
        return yaml.compose(text, Loader=_CoreLoader)
    except yaml.MarkedYAMLError as exc:
        mark = exc.problem_mark or exc.context_mark
        place = (mark.line + 1, mark.column + 1) if mark else (0, 0)
        what = ", ".join(part for part in (exc.context, exc.problem) if part) or "unreadable"
        raise SpaceError([document.problem_at(place, (), f"not valid YAML: {what}")]) from exc
    except yaml.reader.ReaderError as exc:
        before = text[: exc.position]
        place = (before.count("\n") + 1, len(before) - before.rfind("\n"))
        what = f"the character U+{ord(text[exc.position]):04X} is not allowed"
        raise SpaceError([document.problem_at(place, (), f"not valid YAML: {what}")]) from exc
    except (
        yaml.YAMLError,
        ValueError,
        OverflowError,
    ) as exc:  # the latter: an escape such as "\UFFFFFFFF" in PyYAML's scanner
        raise SpaceError([document.problem_at((0, 0), (), f"not valid YAML: {exc}")]) from exc


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
                self._problem(path, _TOO_MANY)
            return None
        if id(node) in self.open:
            self._problem(path, _ENDLESS, key=True)
            return None
        if len(self.open) == MAX_DEPTH:
            self._problem(path, _TOO_DEEP)
            return None
        self.open.add(id(node))
        try:
            if isinstance(node, yaml.MappingNode) and node.tag == f"{_TAG}map":
                return self._mapping(node, path)
            if isinstance(node, yaml.SequenceNode) and node.tag == f"{_TAG}seq":
                return [self.value(item, (*path, i)) for i, item in enumerate(node.value)]
            return self._scalar(node, path)
        finally:
            self.open.discard(id(node))

    def _mapping(self, node: yaml.MappingNode, path: Path_) -> dict[str, Any]:
        merged = self._merged(node, path)
        out: dict[str, Any] = {}
        for key_node, value_node in node.value:
            if key_node.tag == f"{_TAG}merge":
                continue
            place = (key_node.start_mark.line + 1, key_node.start_mark.column + 1)
            key = key_node.value
            if key_node.tag != f"{_TAG}str" or not isinstance(key, str):
                shown = f'; write "{key}" in quotes' if isinstance(key, str) and key else ""
                here = (*path, key) if isinstance(key, str) else path
                self._problem_at(place, here, f"a key must be text{shown}")
            elif key in out:
                first = self.document.key_marks[*path, key][0]
                self._problem_at(place, (*path, key), f"duplicate key `{key}` (first on line {first})")
            elif not _is_text(key):
                self._problem_at(place, path, "a key holds half a surrogate pair, which is no text")
            else:
                self.document.key_marks[*path, key] = place
                out[key] = self.value(value_node, (*path, key))
        return merged | out

    def _merged(self, node: yaml.MappingNode, path: Path_) -> dict[str, Any]:
        """What `<<` brings in; read first, so that the mapping's own values and places win."""
        found: Any = {}
        own_place = self.document.marks[path]
        merges = [(k, v) for k, v in node.value if k.tag == f"{_TAG}merge"]
        for i, (key_node, value_node) in enumerate(merges):
            place = (key_node.start_mark.line + 1, key_node.start_mark.column + 1)
            if i:
                self._problem_at(place, path, "duplicate key `<<`")
            elif id(value_node) in self.open:
                self._problem_at(place, path, _ENDLESS)
            elif isinstance(value_node, yaml.MappingNode):
                found = self.value(value_node, path)
            else:
                self._problem_at(place, path, "`<<` takes one mapping (an alias such as *common)")
        self.document.marks[path] = own_place
        return found if isinstance(found, dict) else {}

    def _scalar(self, node: yaml.Node, path: Path_) -> Any:
        kind = node.tag.removeprefix(_TAG) if isinstance(node, yaml.ScalarNode) else ""
        text = str(node.value) if kind else ""
        if kind == "str":
            if not _is_text(text):
                self._problem(path, "holds half a surrogate pair, which is no text")
            return text
        if kind == "null" and text.lower() in ("", "~", "null"):
            return None
        if kind == "bool" and text.lower() in ("true", "false"):
            return text.lower() == "true"
        if kind in ("int", "float"):
            return self._number(text, path, kind)
        shown = node.tag.replace(_TAG, "!!")
        self._problem(path, f"the tag {shown} is not allowed here; a space file holds plain values")
        return None

    def _number(self, text: str, path: Path_, kind: str) -> float | None:
        digits = text.lower().replace("_", "")
        if kind == "int" and re.fullmatch(r"[-+]?0[0-9]+", digits):
            self._problem(path, f"`{text}` has a leading zero; YAML versions disagree on its value: drop the zero")
            return None
        try:
            number = int(digits, 0) if kind == "int" else float(digits.replace(".inf", "inf").replace(".nan", "nan"))
        except ValueError:  # an explicit !!int on a word, or digits beyond what Python converts
            self._problem(path, f"`{_shortened(text)}` is not a number")
            return None
        if isinstance(number, float) and not math.isfinite(number):
            self._problem(path, f"`{_shortened(text)}` is not a finite number")
        elif isinstance(number, int) and abs(number) >= _MAX_INTEGER:
            self._problem(path, f"`{_shortened(text)}` is beyond 64 bits")
        else:
            return number
        return None

    def _problem(self, path: Path_, message: str, *, key: bool = False) -> None:
        self.document.problems.append(self.document.problem(path, message, key=key))

    def _problem_at(self, place: tuple[int, int], path: Path_, message: str) -> None:
        self.document.problems.append(self.document.problem_at(place, path, message))


def _is_text(text: str) -> bool:
    return not any("\ud800" <= c <= "\udfff" for c in text)


def _shortened(text: str) -> str:
    return text if len(text) <= 40 else f"{text[:36]}..."
