"""One trial as one self-contained process: TrialSpec in, TrialResult out."""
