"""What requests see of an engine under load, in closed form, as a function of its running batch.

Prefill has priority, so over time one request costs 1/rate = its share of a prefill step + output x decode step(B) /
(tokens per verify x B x schedulers). Waits come from the prefill queue and from the cap on running requests. The
running batch B is the parameter: it gives the rate without solving for it.

All figures are columns, one row per configuration of the same architecture and traffic.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from tuner.model.memory import chunk_tokens, max_running
from tuner.model.queueing import (
    length_p95,
    prefix_hit_share,
    queue_wait_s,
    residual_wait_s,
    slot_wait_s,
    waiting_share,
)
from tuner.model.settings import EngineSettings
from tuner.model.table import Column, StepTable
from tuner.space.workload import Workload

_MISS_MATTERS = 0.05  # prefix misses above this share are what p95 sees
_EVEN_STREAMS = 16  # constant arrivals, as if dealt out of so many: gaps vary by a quarter
_TINY = 1e-12


class LoadPoint(NamedTuple):
    """One operating point: `rate` of the whole engine, and what a request sees.

    `busy` is the share of time in prefill, `marginal` how much of a request's residence grows with the batch,
    `slots_bind` whether the tail waits longer for a place in the batch than for the prefill queue. `prefill_s` is the
    median prefill step, `step_s` a decode step.
    """

    rate: Column
    batch: Column
    ttft_p50_s: Column
    ttft_p95_s: Column
    tpot_s: Column
    tpot_p95_s: Column
    e2e_p95_s: Column
    cached_fraction: Column
    busy: Column
    marginal: Column
    slots_bind: Column
    prefill_s: Column
    step_s: Column

    def where(self, mask: Column, other: LoadPoint) -> LoadPoint:
        """This point in rows of `mask`, the other one elsewhere."""
        return LoadPoint(*(np.where(mask, a, b) for a, b in zip(self, other, strict=True)))


class _Prompt(NamedTuple):
    """The mean prompt at one hit share: tokens to prefill and their mean context, p95 and unevenness, step times.

    A prefill step takes `lone_s` for one prompt, `marginal_s` for each further one, `most_s` for the `most` that fit.
    """

    new: Column
    new_p95: Column
    cv2: Column
    cached_fraction: Column
    lone_s: Column
    most: Column
    most_s: Column
    marginal_s: Column


class LoadCurves:
    """Operating points of many configurations; `batch_cap` is the most requests one scheduler can run."""

    def __init__(
        self, table: StepTable, settings: Sequence[EngineSettings], workload: Workload, kv_tokens: Sequence[int]
    ) -> None:
        self._model, self._workload = table, workload
        self._dp, self._ranks = _column(settings, lambda s: s.dp), _column(settings, lambda s: s.attn_dp)
        self._kv_tokens = np.asarray(kv_tokens, dtype=np.float64)
        outputs = workload.output_tokens
        self._asked, self._out = workload.input_tokens.mean_tokens, outputs.mean_tokens
        self._out_p95 = length_p95(outputs)
        cached = _column(settings, lambda s: s.radix_cache)
        self._shared = cached * (workload.cached_fraction * self._asked)
        self._asked_cv2, self._out_cv2 = workload.input_tokens.cv2, outputs.cv2
        self._stretch = length_p95(workload.input_tokens) / self._asked
        self._fold_routing(settings)
        self._chunk = _column(settings, lambda s: chunk_tokens(s, workload.max_context_tokens))
        self._mixed = _column(settings, lambda s: s.mixed_chunk)
        running, by_kv = _column(settings, max_running), self._running_by_kv()
        self.batch_cap = np.maximum(1.0, np.minimum(running, by_kv))
        self.kv_bound = by_kv < running
        self._fold_decode()

    def _fold_routing(self, settings: Sequence[EngineSettings]) -> None:
        """What one scheduler gets of the traffic: its prefix groups, and how unevenly its requests come.

        Dealt out in turn, it sees every n-th arrival of all groups. A sticky router gives it every n-th group, whose
        requests come at random; the scheduler with the most groups is the first to be full (`_skew` x the mean load).
        """
        sticky = _column(settings, lambda s: s.routing == "sticky") * (self._shared > 0)
        groups = np.full_like(self._dp, self._workload.prefix_groups)
        own = np.ceil(groups / self.schedulers)
        self._groups = np.where(sticky, own, groups)
        self._skew = np.where(sticky, own * self.schedulers / groups, 1.0)
        cv2 = self._workload.arrivals_cv2
        even = self._workload.arrivals == "constant"
        in_turn, at_random = (_EVEN_STREAMS, 1.0 - 1.0 / self.schedulers) if even else (self._dp, cv2)
        self._streams = np.where(sticky * at_random, 1, in_turn)
        self._replica_cv2 = np.where(sticky, at_random, cv2 / self._dp)
        self._slot_cv2 = self._replica_cv2 / np.where(sticky, 1.0, self._ranks)

    @property
    def schedulers(self) -> Column:
        return self._dp * self._ranks

    def _fold_decode(self) -> None:
        """Decode step as a line through both ends; its slope is what one more request adds to everybody's step."""
        self._decode_context = self._asked + self._out / 2
        lone = self._model.decode_s(np.ones_like(self._dp), self._decode_context)
        self._full_step_s = self._model.decode_s(self.batch_cap, self._decode_context)
        self._step_slope = (self._full_step_s - lone) / np.maximum(1.0, self.batch_cap - 1)

    # ---- KV cache ---------------------------------------------------------------------------------------------

    def _running_by_kv(self) -> Column:
        """Requests whose private tokens and whole answer fit one pool, beside the prefixes they pin.

        One copy of a prefix per group once all groups run, one per request before that.
        """
        shared, private = self._shared, self._asked - self._shared + self._out
        groups = self._groups
        return np.maximum((self._kv_tokens - groups * shared) / private, self._kv_tokens / (private + shared))

    def _hit(self, batch: Column) -> Column:
        """Share of requests whose prefix is cached when `batch` requests run on the scheduler."""
        private = self._asked - self._shared
        free = self._kv_tokens - batch * (private + self._out / 2)
        return prefix_hit_share(free, batch, self._groups, self._shared, private + self._out)

    # ---- prefill ----------------------------------------------------------------------------------------------

    def _prompt(self, hit: Column) -> _Prompt:
        cached = hit * self._shared
        new = np.maximum(1.0, self._asked - cached)
        context = cached + new / 2
        missed = np.where(1 - hit > _MISS_MATTERS, self._shared, 0.0)
        most = self._ranks * np.maximum(1.0, self._chunk // new)
        lone_s = self._prefill_step_s(new, context, np.ones_like(new))
        most_s = self._prefill_step_s(new, context, most)
        return _Prompt(
            new=new,
            new_p95=np.maximum(new, np.minimum(self._asked, self._asked - self._shared + missed)) * self._stretch,
            cv2=self._asked_cv2 + hit * (1 - hit) * (self._shared / new) ** 2,
            cached_fraction=cached / self._asked,
            lone_s=lone_s,
            most=most,
            most_s=most_s,
            marginal_s=np.where(most > 1.0, (most_s - lone_s) / np.maximum(1.0, most - 1), lone_s),
        )

    def _prefill_step_s(self, new: Column, context: Column, prompts: Column) -> Column:
        """Seconds to prefill `prompts` prompts together, spread over the attention-DP ranks of one replica."""
        busy = np.minimum(prompts, self._ranks)
        tokens = new * prompts / busy
        chunks = np.ceil(tokens / self._chunk)
        return chunks * self._model.prefill_s(tokens / chunks, context, new * prompts / chunks)

    def _together(self, prompt: _Prompt, rate: Column) -> tuple[Column, Column, Column]:
        """Prompts that share a prefill step at this replica rate, its seconds, and the seconds of the median one.

        A step takes all that came during the one before, given at least one: x / (1 - e^-x) for Poisson arrivals of
        mean x, max(1, x) for even ones, between both for streams dealt out in turn. The seconds are a line from one
        prompt to the most that fit.
        """
        mean = rate * prompt.lone_s
        count = seconds = prompt.lone_s
        for _ in range(2):
            even = np.maximum(1.0, mean)
            clumped = mean / np.maximum(_TINY, -np.expm1(-mean))
            count = np.minimum(prompt.most, even + self._replica_cv2 * (clumped - even))
            count = np.where(prompt.most > 1.0, count, 1.0)
            seconds = prompt.lone_s + prompt.marginal_s * (count - 1)
            mean = rate * seconds
        median = np.minimum(prompt.most, np.maximum(1.0, mean))
        return count, seconds, prompt.lone_s + np.where(prompt.most > 1.0, prompt.marginal_s * (median - 1), 0.0)

    # ---- operating points -------------------------------------------------------------------------------------

    def at(self, batch: Column) -> LoadPoint:
        """The point where `batch` requests run on each scheduler on average (sticky: on the busiest)."""
        prompt = self._prompt(self._hit(batch))
        step_s = self._model.decode_s(np.maximum(1.0, batch), self._decode_context)
        decoded = self._decoded(prompt, batch)
        decode_s = decoded * step_s / (self._model.tokens_per_verify * batch * self._ranks)
        rate = 1.0 / (prompt.lone_s + decode_s)
        together, prefill_s, median_s = self._together(prompt, rate)
        rate = 1.0 / (prefill_s / together + decode_s)
        return self._seen(prompt, rate, batch, step_s, rate * prefill_s / together, prefill_s, median_s)

    def _decoded(self, prompt: _Prompt, batch: Column) -> Column:
        """Tokens a request gains in decode steps: all of them, unless mixed chunks bring one in every prefill step."""
        steps = batch * self._ranks * np.ceil(prompt.new / self._chunk)
        return np.asarray(np.maximum(0.1 * self._out, self._out - self._mixed * steps))

    def at_share(self, point: LoadPoint, share: float) -> LoadPoint:
        """About the point at `share` of the rate of `point`, by how the batch follows the rate.

        B = k a / (1 - k b) with residence a + b x batch and k = rate / (1 - prefill share): k and with it B shrink by
        more than the rate does. One secant step corrects for the decode step's bend.
        """
        k_share = share * (1 - point.busy) / (1 - share * point.busy)
        near = self.at(point.batch * k_share * (1 - point.marginal) / (1 - k_share * point.marginal))
        rise = point.rate - near.rate
        bent = rise <= 0  # evicted prefixes bend the curve: no line through both points
        step = (point.batch - near.batch) * (1 - share) * point.rate / np.where(bent, 1.0, rise)
        return near.where(bent, self.at(np.where(bent, near.batch, np.maximum(_TINY, point.batch - step))))

    def at_rate(self, rate: float) -> LoadPoint:
        """The point at `rate` of the whole engine; the one at the batch cap where the engine cannot serve that."""
        low, high = np.full_like(self._dp, 1e-3), self.batch_cap
        for _ in range(30):
            middle = np.sqrt(low * high)
            below = self.at(middle).rate < rate
            low, high = np.where(below, middle, low), np.where(below, high, middle)
        return self.at(high)

    def closed(self, concurrency: float) -> LoadPoint:
        """The point a closed loop settles at with `concurrency` requests in flight over the whole engine.

        A finished request is replaced at once. Everybody waits while a prompt is prefilled, so decode steps run with
        all requests that have a place; whoever has none waits for one to end. A prefill step takes the prompts of the
        requests that ended in the same decode step: x / (1 - e^-x) of them for x ends a step.
        """
        each = concurrency / self.schedulers * self._skew
        batch = np.clip(each, 1.0, self.batch_cap)
        prompt = self._prompt(self._hit(batch))
        step_s = self._model.decode_s(batch, self._decode_context)
        gain = self._model.tokens_per_verify
        placed = np.minimum(each, self.batch_cap) * self._ranks
        ends = placed * gain / self._out
        count = np.minimum(prompt.most, ends / np.maximum(_TINY, -np.expm1(-ends)))
        prefill_s = prompt.lone_s + prompt.marginal_s * (count - 1)
        others_s = np.maximum(0.0, placed - 1.0) * prefill_s / count  # everybody's prompt comes by once
        ahead_s = self._model.request_overhead_s + step_s / 2
        decoded = self._decoded(prompt, batch)
        rate = placed / (ahead_s + prefill_s + others_s + decoded * step_s / gain)
        point = self._seen(prompt, rate, batch, step_s, rate * prefill_s / count, prefill_s, prefill_s)
        queued_s = np.maximum(0.0, each - self.batch_cap) * self._ranks / rate
        first_s = ahead_s + prefill_s + queued_s
        tpot = (decoded * step_s / gain + others_s) / self._out
        # with 5 % or more of a prompt's time another one went first
        slow = np.where(placed * prefill_s * ends / count > 0.05 * step_s, 0.5 * ends / (ends + 1) * prompt.lone_s, 0.0)
        return point._replace(
            rate=rate * self._dp / self._skew,
            ttft_p50_s=first_s,
            ttft_p95_s=first_s + slow + prefill_s * (prompt.new_p95 / prompt.new - 1),
            tpot_s=tpot,
            tpot_p95_s=tpot,
            e2e_p95_s=first_s + (self._out_p95 - 1) * tpot,
        )

    def _seen(
        self,
        prompt: _Prompt,
        rate: Column,
        batch: Column,
        step_s: Column,
        busy: Column,
        prefill_s: Column,
        median_prefill_s: Column,
    ) -> LoadPoint:
        """What requests see at `rate` per replica, prefill `busy` for a share of the time: waits, stretch, tails."""
        decoded = self._decoded(prompt, batch) / self._out
        gain = self._model.tokens_per_verify * np.maximum(_TINY, 1 - busy) / decoded
        tpot = step_s / gain
        marginal = np.minimum(0.98, rate / self._ranks * self._out * self._step_slope / gain)
        unrest = self._unrest(prompt, rate / self._ranks / np.maximum(_TINY, 1 - busy))
        spread = np.sqrt(batch / (1 - marginal) * (unrest + 1) / 2)
        free_rate = self.batch_cap * gain / (self._out * self._full_step_s) - rate / self._ranks
        slot = slot_wait_s((self.batch_cap - batch) / spread, free_rate, (unrest + self._out_cv2) / 2)
        longer = prefill_s * (prompt.new_p95 / prompt.new - 1)
        before_s = self._model.request_overhead_s + (1 - busy) * np.minimum(batch, 1.0) * step_s / 2
        queued = self._queued_s(prompt, rate, busy, prefill_s, 0.05)
        ttft_p95 = before_s + prefill_s + np.sqrt(queued * queued + slot * slot + longer * longer)
        tpot_p95 = tpot + self._step_slope * np.minimum(spread, np.maximum(0.0, self.batch_cap - batch)) / gain
        return LoadPoint(
            rate=rate * self._dp / self._skew,
            batch=batch,
            ttft_p50_s=before_s + median_prefill_s + self._queued_s(prompt, rate, busy, prefill_s, 0.5),
            ttft_p95_s=ttft_p95,
            tpot_s=tpot,
            tpot_p95_s=tpot_p95,
            e2e_p95_s=ttft_p95 + (self._out_p95 - 1) * tpot_p95,
            cached_fraction=prompt.cached_fraction,
            busy=busy,
            marginal=marginal,
            slots_bind=slot > queued,
            prefill_s=median_prefill_s,
            step_s=step_s,
        )

    def _unrest(self, prompt: _Prompt, decode_rate: Column) -> Column:
        """How strongly arrivals shake the running batch, as a squared coefficient of variation.

        An arrival adds one request, and while its prompt is prefilled every scheduler of the replica misses the
        `decode_rate` at which it otherwise finishes requests: bursts fill the batch twice.
        """
        missed = decode_rate * prompt.marginal_s
        return np.asarray(self._slot_cv2 * ((1 + missed) ** 2 + (self._ranks - 1) * missed**2))

    def _queued_s(self, prompt: _Prompt, rate: Column, busy: Column, prefill_s: Column, above: float) -> Column:
        """The wait for prefill that a share `above` exceeds: behind others, or for the step under way to end."""
        service = prompt.most_s / prompt.most
        served = rate * service
        waiting = waiting_share(served, self._streams)
        wait = queue_wait_s(served, service, self._replica_cv2, prompt.cv2, waiting, above)
        residual = residual_wait_s(waiting_share(busy, self._streams), prefill_s, above)
        return np.asarray(np.where(prompt.most <= 1.0, wait, np.maximum(wait, residual)))


def _column(settings: Sequence[EngineSettings], of: Callable[[EngineSettings], float]) -> Column:
    return np.array([of(s) for s in settings], dtype=np.float64)
