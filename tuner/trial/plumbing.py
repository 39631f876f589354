"""What a trial adds to the measured command line so that it can be reached: address, port, metrics, cache report.

Only this differs from what is exported. The runner ships without `tuner.launch`, so these flags stand here.
"""

from __future__ import annotations

import random
import socket

HOST = "127.0.0.1"

# Below the ephemeral range (32768 and up): loading takes minutes, in which an outgoing connection could take a port
# from there. sglang takes further ports up to 1000 above its own.
_PORTS = (11000, 31000)
_TRIES = 200


def plumbing(port: int) -> tuple[str, ...]:
    """Flags appended to the measured ones; argparse takes the last of a repeated flag."""
    return ("--host", HOST, "--port", str(port), "--enable-metrics", "--enable-cache-report")


def free_port() -> int:
    """A port that nobody listens on now.

    Raises:
        OSError: none was found.
    """
    for _ in range(_TRIES):
        port = random.randrange(*_PORTS)  # noqa: S311 - not a secret
        with socket.socket() as probe:
            try:
                probe.bind((HOST, port))
            except OSError:
                continue
            return port
    raise OSError(f"no free port between {_PORTS[0]} and {_PORTS[1]} on {HOST}; see what listens there")
