"""Every database write of a search goes through here: fenced, announced, and repeated while the database is away.

Knows nothing of what is written.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

import sqlalchemy.exc
from optuna.exceptions import StorageInternalError

from tuner.errors import RuntimeUnusable
from tuner.study.lock import Ownership

T = TypeVar("T")
OnWrite = Callable[[str], None]
"""Called with `before <write>` and `after <write>` around every write to the database."""

# Waits between attempts: a restarting PostgreSQL is back within a minute, a failover within ten.
_RETRY_S = (1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 120.0, 240.0)


class Writer:
    """Runs writes one at a time. Every write given to it must be safe to repeat."""

    def __init__(
        self,
        owner: Ownership,
        on_write: OnWrite | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._owner = owner
        self._on_write = on_write or (lambda _name: None)
        self._sleep = sleep

    def __call__(self, name: str, write: Callable[[], T]) -> T:
        """Do one write.

        Raises:
            OwnershipLost: a newer controller owns the study; nothing was written.
            RuntimeUnusable: the database stayed away for minutes.
        """
        self._on_write(f"before {name}")
        answer = self._persistently(name, write)
        self._on_write(f"after {name}")
        return answer

    def _persistently(self, name: str, write: Callable[[], T]) -> T:
        for wait_s in (*_RETRY_S, None):
            try:
                self._owner.check()
                return write()
            except (StorageInternalError, sqlalchemy.exc.OperationalError, sqlalchemy.exc.InterfaceError) as exc:
                if wait_s is None:
                    raise RuntimeUnusable(
                        f"the database did not take `{name}` for {sum(_RETRY_S) / 60:.0f} minutes "
                        f"({type(exc).__name__}); bring it back and run the same command again: nothing is lost"
                    ) from exc
                self._sleep(wait_s)
        raise AssertionError("the loop above returns or raises")
