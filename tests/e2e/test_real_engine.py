"""A search on a real sglang on this machine; a CPU build with a tiny model will do.

Skipped where the variables are not set:

    TUNER_E2E_SGLANG        command that starts it, such as `sglang serve`
    TUNER_E2E_SGLANG_SPACE  space file with one pool: its model, the flags and environment this build needs
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tuner.launch.spaces import open_space

COMMAND = os.environ.get("TUNER_E2E_SGLANG", "")
SPACE = os.environ.get("TUNER_E2E_SGLANG_SPACE", "")

pytestmark = [
    pytest.mark.skipif(not (COMMAND and SPACE), reason="needs TUNER_E2E_SGLANG and TUNER_E2E_SGLANG_SPACE"),
    pytest.mark.timeout(3600),
]


@pytest.fixture
def home(folder):
    folder.space.write_text(Path(SPACE).read_text())
    return folder


def test_a_real_engine_is_started_loaded_and_stopped(home):
    """Nothing is simulated, the engine says the version the file says, and no process is left."""
    (pool,) = open_space(str(home.space)).spec.pools.values()
    # However the search ends: a busy machine may make every measurement invalid, and says so.
    child = home.begin(
        "search", "--space", "tiny.yaml", "--runtime", "local", "--engine-command", COMMAND, "--trials", "1", "--json"
    )
    assert child.wait(3000) in (0, 3, 4), home.err
    found = json.loads((home.path / "out").read_text())
    assert home.left() == {}
    assert found["simulated"] is False
    last = sum(found["trials"].values()) - 1
    shown = home.json("trial", "show", str(last), "--space", "tiny.yaml")
    assert shown["state"] in ("measured", "infeasible", "invalid"), shown["failure"]
    assert shown["effective"]["version"] == pool.engine.version
    assert shown["start_up_s"] > 0
    assert shown["levels"]
    assert not any(level["errors"] for level in shown["levels"])
