"""The serving engine as a child process: started in a session of its own, with its output in a capped log.

Knows no protocol and no failure kinds.
"""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from tuner.trial.family import ProcessFamily
from tuner.trial.log_ring import LogRing


class EngineProcess(ProcessFamily):
    """A running engine. `secrets` are values that must not get into its log."""

    def __init__(
        self, argv: Sequence[str], env: Mapping[str, str], log_path: Path, *, mark: str, secrets: Sequence[str] = ()
    ) -> None:
        self.log_path = log_path
        self._log = LogRing(log_path, secrets=secrets)
        try:
            super().__init__(
                argv, env, mark=mark, stdin=subprocess.DEVNULL, stdout=self._log.write_end, stderr=subprocess.STDOUT
            )
        except BaseException:
            self._log.abandon()
            raise
        self._log.start()

    def flush_log(self) -> None:
        """Wait until what the engine has printed so far can be read."""
        self._log.flush()

    def stop(self, drain_s: float) -> list[int]:
        stuck = super().stop(drain_s)
        self._log.close()
        return stuck

    def kill(self) -> list[int]:
        stuck = super().kill()
        self._log.close()
        return stuck
