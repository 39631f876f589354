"""The errors this project raises, sorted by what the caller must do; each knows its exit code.

TunerError
├─ UsageError            exit 2: the user can fix it (space file, option, storage address)
│  └─ SpaceError         the same, with every problem's file:line:column
├─ NothingFeasible       exit 3: no configuration tried meets the limits
└─ RuntimeUnusable       exit 5: nothing can run; the study is intact and can be resumed

A bad configuration, a lost node or a doubtful measurement is not an exception: it is a `TrialResult`.
"""

from __future__ import annotations

from dataclasses import dataclass

EXIT_OK = 0
EXIT_USAGE = 2
EXIT_NOTHING_FEASIBLE = 3
EXIT_UNCONFIRMED = 4
EXIT_RUNTIME_UNUSABLE = 5
EXIT_INTERRUPTED = 130


class TunerError(Exception):
    """Base of all errors meant for the user: one line that names the thing, the cause and the next step."""

    exit_code = EXIT_USAGE


class UsageError(TunerError):
    """Bad input; nothing was changed."""


@dataclass(frozen=True)
class Problem:
    """One mistake in a file. `line` and `column` count from 1; 0 where the file as a whole is meant."""

    file: str
    line: int
    column: int
    message: str

    def __str__(self) -> str:
        place = f":{self.line}:{self.column}" if self.line else ""
        return f"{self.file}{place}: {self.message}"


class SpaceError(UsageError):
    """A space file with all its problems at once, in the order of the file."""

    def __init__(self, problems: list[Problem]) -> None:
        self.problems = sorted(problems, key=lambda p: (p.line, p.column))
        super().__init__("\n".join(str(p) for p in self.problems))


class NothingFeasible(TunerError):  # noqa: N818 - a finding, not a fault
    """No configuration tried meets the limits."""

    exit_code = EXIT_NOTHING_FEASIBLE


class RuntimeUnusable(TunerError):  # noqa: N818 - reads as the state it reports
    """Nothing can run (no cluster, no permission, no such pool); the study is intact."""

    exit_code = EXIT_RUNTIME_UNUSABLE
