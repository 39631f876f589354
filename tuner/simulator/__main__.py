"""`python -m tuner.simulator`: the simulated engine's process."""

from __future__ import annotations

import sys

from tuner.simulator.serve import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
