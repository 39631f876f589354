"""Step times of many configurations at once: the formulas of `RooflineSteps` over numpy arrays.

One row per configuration. Knows nothing but the folded coefficients; a test holds both forms together.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from tuner.model.steps import Coefficients

Column: TypeAlias = NDArray[Any]


class HasCoefficients(Protocol):
    """Step times that can say what they are made of."""

    @property
    def coefficients(self) -> Coefficients:
        """The folded constants."""


class StepTable:
    """Coefficients as columns; `rows` says which entry each configuration uses."""

    def __init__(self, entries: Sequence[Coefficients], rows: Sequence[int] | None = None) -> None:
        values = np.array(entries, dtype=np.float64).T
        self._k = Coefficients(*(values if rows is None else values[:, np.asarray(rows)]))

    @property
    def tokens_per_verify(self) -> Column:
        return np.asarray(self._k.tokens_per_verify)

    @property
    def request_overhead_s(self) -> Column:
        return np.asarray(self._k.request_overhead_s)

    def prefill_s(self, new_tokens: Column, context_tokens: Column, total_tokens: Column) -> Column:
        """`RooflineSteps.prefill_s`, row by row."""
        k = self._k
        total = np.maximum(new_tokens, total_tokens)
        attended = np.minimum(k.topk, context_tokens)
        return np.asarray(
            k.prefill_base_s
            + k.prefill_experts_s * self._coverage(total)
            + total * k.prefill_total_token_s
            + new_tokens * (k.prefill_token_s + k.prefill_attend_s * attended + k.prefill_index_s * context_tokens)
        )

    def decode_s(self, batch: Column, context_tokens: float) -> Column:
        """`RooflineSteps.decode_s`, row by row."""
        k = self._k
        total = batch * k.verify * k.ranks
        attended = np.minimum(k.topk, context_tokens)
        return np.asarray(
            np.where(batch <= k.graph_max, k.decode_base_s, k.eager_base_s)
            + k.decode_experts_s * self._spread(total)
            + k.draft_experts_s * self._coverage(batch * k.ranks)
            + total * k.decode_total_token_s
            + batch * (k.decode_seq_s + k.decode_attend_s * attended + k.decode_index_s * context_tokens)
        )

    def _coverage(self, tokens: Column) -> Column:
        return np.asarray(1.0 - 0.5 * (np.exp(-self._k.hot * tokens) + np.exp(-self._k.cold * tokens)))

    def _spread(self, tokens: Column) -> Column:
        share = self._coverage(tokens)
        return np.asarray(np.minimum(1.0, share + np.sqrt(self._k.ep_variance * share * (1.0 - share))))
