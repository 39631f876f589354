"""What a study's figures say: intervals, effects, baselines, sums. Pure; nothing here knows HTML."""
