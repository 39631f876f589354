"""How unevenly drafts are accepted: the spread of tokens per verify step between requests.

Knows no scheduler. A request keeps its pace: over its hundreds of steps, luck within a step evens out.
"""

from __future__ import annotations

import math
import random

BETWEEN_REQUESTS_SD = 0.10
"""Of the mean; assumed. Acceptance hangs on the text: with five drafts 3.6 tokens a step on coding, 5.0 on GSM8K."""
_STEP_VARIANCE = 2 / 3  # of what all-or-nothing steps of the same mean would have; 0.65 on GLM-5.2's curve at 3 drafts


def pace(key: str, mean: float, most: float, output_tokens: int) -> float:
    """Tokens a request gains per verify step over the `mean`; `most` is what one step can gain at best."""
    room = (mean - 1) * (most - mean)
    if room <= 0:
        return 1.0
    steps = max(1.0, output_tokens / mean)
    sd = math.hypot(BETWEEN_REQUESTS_SD, math.sqrt(_STEP_VARIANCE * room / steps) / mean)
    drawn = random.Random(key).gauss(1.0, sd)  # noqa: S311 - simulated luck
    return max(1.0, min(most, drawn * mean)) / mean
