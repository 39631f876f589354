"""The engine's log as evidence: milestones and progress while it grows, a short redacted tail when it is over.

Knows what sglang prints (0.5.x); knows no failure kinds.
"""

from __future__ import annotations

import os
import re
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tuner.space.secrets import looks_secret
from tuner.trial.log_ring import older

Milestone = Literal["launch", "weights", "memory", "graphs", "warmup", "ready"]

# What a result carries: the termination message and study attributes are small.
TAIL_BYTES = 4000
# What classification reads: a traceback under a py-spy dump under a list of leaked functions fits.
EVIDENCE_BYTES = 256 * 1024
_LINE_CHARS = 500

# A log that grows faster than we look must not cost memory: the middle of such a burst is skipped.
_READ_BYTES = 1024 * 1024

_MILESTONES: tuple[tuple[str, Milestone, str], ...] = (
    ("The server is fired up and ready to roll!", "ready", "fired up"),
    ("Load weight begin", "weights", "loading weights"),
    ("Load weight end", "memory", "weights loaded"),
    ("Memory pool end", "graphs", "memory pools allocated"),
    ("max_total_num_tokens=", "warmup", "capacity known"),
)
_GRAPHS = re.compile(r"Capture .*graph.* begin", re.IGNORECASE)
_SHARDS = re.compile(r"Loading safetensors checkpoint shards:\s+(\d+)% Completed")
_CAPTURING = re.compile(r"Capturing batches[^:]*:\s+(\d+)%")
_CAPACITY = re.compile(r"max_total_num_tokens=(\d+)")
_ORDER: tuple[Milestone, ...] = ("launch", "weights", "memory", "graphs", "warmup", "ready")

# Lines that may quote a request: request logging (--log-requests), its dumps, and Python's echo of a value.
_QUOTES_A_REQUEST = re.compile(
    r"\b(?:Receive: obj=|Finish: obj=|GenerateReqInput\(|ChatCompletionRequest\(|CompletionRequest\("
    r"|input_ids=|origin_input_text|prompt=)|['\"](?:prompt|messages|text|content|input_ids|input_text)['\"]\s*:"
)
# `name=value`, `'name': 'value'`, `--name value`, `['--name', 'value']`: what names the value, then the value.
_NAME = re.compile(r"""(?P<flag>--[\w-]+)['"]?,?\s+|(?P<field>[A-Za-z_][\w-]*)['"]?\s*[=:]\s*""")
_VALUE = re.compile(r"""'[^']*'|"[^"]*"|[^\s,'")}\]]+""")
_NO_SECRET = re.compile(r"""['"]?(?:None|null|True|False|true|false|[\d.]*)['"]?""")
_SECRETS = (
    re.compile(r"(?i)(authorization:\s*\S+\s+|bearer\s+)[\w.~+/-]{8,}=*"),
    re.compile(r"()\bhf_[A-Za-z0-9]{8,}"),
    re.compile(r"(://)[^/\s:@]+:[^/\s@]+(?=@)"),
)
# A bug tracker's worth of leaked functions, and argparse's usage text, say nothing about the failure.
_NOISE = re.compile(r"^\s*(?:- leaked |nanobind: |- \.\.\. skipped|See https://nanobind|usage: |\[-|\{[\w-]+,)")


@dataclass(frozen=True, slots=True)
class Progress:
    """What one line says: how far the start is, and a text for people ("" if it is not worth one)."""

    milestone: Milestone | None
    text: str = ""


def progress_of(line: str) -> Progress:
    """What this line tells of the start; most tell nothing."""
    if (capacity := _CAPACITY.search(line)) and "server_args" not in line:
        return Progress("warmup", f"KV cache holds {capacity[1]} tokens")
    for signature, milestone, text in _MILESTONES:
        if signature in line and signature != "max_total_num_tokens=":
            return Progress(milestone, text)
    if _GRAPHS.search(line):
        return Progress("graphs", "capturing graphs")
    if shards := _SHARDS.search(line):
        return Progress(None, f"loading weights {int(shards[1]) // 10 * 10} %")
    if batches := _CAPTURING.search(line):
        return Progress(None, f"capturing graphs {int(batches[1]) // 10 * 10} %")
    return Progress(None)


def milestone_of(log: str) -> Milestone:
    """How far an engine with this log had come."""
    reached: Milestone = "launch"
    for line in log.splitlines():
        reached = later(reached, progress_of(line).milestone)
    return reached


def later(one: Milestone, other: Milestone | None) -> Milestone:
    """The further of two milestones: a draft model loads its weights after the target's memory is there."""
    return one if other is None or _ORDER.index(one) >= _ORDER.index(other) else other


class LogFollower:
    """Reads what a growing log gained since the last look, line by line, also while its file is put aside."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._inode = 0
        self._offset = 0
        self._rest = b""
        self.milestone: Milestone = "launch"
        self.text = ""
        self.retractions = 0

    def look(self) -> list[str]:
        """Read on; returns the new progress texts, each once, in order."""
        texts = []
        for line in self._lines():
            self.retractions += "Retract requests" in line
            progress = progress_of(line)
            self.milestone = later(self.milestone, progress.milestone)
            if progress.text and progress.text != self.text:
                self.text = progress.text
                texts.append(progress.text)
        return texts

    def _lines(self) -> list[str]:
        # Progress bars redraw one line with carriage returns.
        *whole, self._rest = (self._rest + self._gained()).replace(b"\r", b"\n").split(b"\n")
        self._rest = self._rest[-_READ_BYTES:]
        return [line.decode(errors="replace") for line in whole]

    def _gained(self) -> bytes:
        gained = b""
        for path in (*older(self._path), self._path):
            with suppress(OSError), path.open("rb") as file:
                state = os.fstat(file.fileno())
                if path == self._path and state.st_ino != self._inode:
                    self._inode, self._offset = state.st_ino, 0
                if state.st_ino == self._inode:
                    if state.st_size - self._offset > _READ_BYTES:
                        gained, self._rest, self._offset = b"", b"", state.st_size - _READ_BYTES
                    file.seek(self._offset)
                    new = file.read(_READ_BYTES)
                    self._offset += len(new)
                    gained += new
        return gained


def read_end(path: Path, size_bytes: int = EVIDENCE_BYTES) -> str:
    """The end of a log as it is, from a line's start; "" if there is none."""
    data, inode, left_out = b"", 0, False
    for part in (path, *reversed(older(path))):
        with suppress(OSError), part.open("rb") as file:
            state = os.fstat(file.fileno())
            if state.st_ino == inode:  # put aside between our two looks
                continue
            inode = state.st_ino
            room = size_bytes - len(data)
            left_out = state.st_size > room
            file.seek(max(0, state.st_size - room))
            data = file.read(room) + data
        if left_out:
            break
    text = data.decode(errors="replace")
    return text.partition("\n")[2] if left_out else text


def redact(line: str, secrets: tuple[str, ...] = ()) -> str:
    """The line without keys, tokens and these secrets; a line that may quote a request is replaced as a whole."""
    if _QUOTES_A_REQUEST.search(line):
        return "[a line that quotes a request was left out]"
    for pattern in _SECRETS:
        line = pattern.sub(r"\g<1>***", line)
    line = _mask_named(line)
    for secret in secrets:
        line = line.replace(secret, "***")
    return line if len(line) <= _LINE_CHARS else f"{line[:_LINE_CHARS]}..."


def _mask_named(line: str) -> str:
    """The line without the values that secret names are given."""
    parts: list[str] = []
    at = 0
    for name in _NAME.finditer(line):
        if name.start() < at or not looks_secret(name["flag"] or name["field"]):
            continue
        value = _VALUE.match(line, name.end())
        if value and not _NO_SECRET.fullmatch(value[0]):
            parts += (line[at : name.end()], "***")
            at = value.end()
    return "".join(parts) + line[at:]


def short_tail(log: str, secrets: tuple[str, ...] = (), size_bytes: int = TAIL_BYTES) -> str:
    """The last lines that fit, redacted, without the noise some libraries print when they die."""
    kept: list[str] = []
    room = size_bytes
    for line in reversed(log.replace("\r", "\n").splitlines()):
        if not line.strip() or _NOISE.match(line):
            continue
        clean = redact(line, secrets)
        room -= len(clean.encode()) + 1
        if room < 0:
            break
        kept.append(clean)
    return "\n".join(reversed(kept))
