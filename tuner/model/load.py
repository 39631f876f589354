"""What requests see of an engine under load, in closed form, as a function of its running batch.

Prefill has priority, so over time one request costs 1/rate = its share of a prefill step + output x decode step(B) /
(tokens per verify x B x schedulers). Waits come from the prefill queue and from the cap on running requests. The
running batch B is the parameter: it gives the rate without solving for it.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from tuner.model.memory import chunk_tokens, max_running
from tuner.model.protocol import StepTimes
from tuner.model.queueing import (
    length_cv2,
    length_p95,
    prefix_hit_share,
    queue_wait_s,
    residual_wait_s,
    slot_wait_s,
    waiting_share,
)
from tuner.model.settings import EngineSettings
from tuner.space.workload import Workload

_MISS_MATTERS = 0.05  # prefix misses above this share are what p95 sees
_CERTAIN_HIT = 0.999
_EVEN_STREAMS = 16  # constant arrivals, as if dealt out of so many: gaps vary by a quarter


class LoadPoint(NamedTuple):
    """One operating point: `rate` of the whole engine (first, so that points order by it), and what a request sees.

    `busy` is the share of time in prefill, `marginal` how much of a request's residence grows with the batch,
    `slots_bind` whether the tail waits longer for a place in the batch than for the prefill queue.
    """

    rate: float
    batch: float
    ttft_p50_s: float
    ttft_p95_s: float
    tpot_s: float
    tpot_p95_s: float
    e2e_p95_s: float
    cached_fraction: float
    busy: float
    marginal: float
    slots_bind: bool


class _Prompt(NamedTuple):
    """The mean prompt at one hit share: tokens to prefill and their mean context, p95 and unevenness, step times.

    A prefill step takes `lone_s` for one prompt, `marginal_s` for each further one, `most_s` for the `most` that fit.
    """

    new: float
    context: float
    new_p95: float
    cv2: float
    cached_fraction: float
    lone_s: float
    most: float
    most_s: float
    marginal_s: float


class LoadCurve:
    """Operating points of one configuration; `batch_cap` is the most requests one scheduler can run."""

    def __init__(self, steps: StepTimes, settings: EngineSettings, workload: Workload, kv_tokens: int) -> None:
        self._model = steps
        self._dp, self._ranks = settings.dp, settings.attn_dp
        self._workload, self._kv_tokens, self._caches = workload, kv_tokens, settings.radix_cache
        outputs = workload.output_tokens
        self._asked, self._out, self._out_p95 = (
            workload.input_tokens.mean_tokens,
            outputs.mean_tokens,
            length_p95(outputs),
        )
        self._shared = workload.cached_fraction * self._asked if settings.radix_cache else 0.0
        self._asked_cv2, self._out_cv2 = length_cv2(workload.input_tokens), length_cv2(outputs)
        self._stretch = length_p95(workload.input_tokens) / self._asked
        # the engine hands requests to its schedulers in turn: each sees every n-th arrival of a Poisson stream
        arrivals_cv2 = 1.0 if workload.arrivals == "poisson" else 0.0
        self._streams = settings.dp if workload.arrivals == "poisson" else _EVEN_STREAMS
        self._replica_cv2, self._slot_cv2 = arrivals_cv2 / settings.dp, arrivals_cv2 / settings.schedulers
        self._chunk = float(chunk_tokens(settings, workload.max_context_tokens))
        running = max_running(settings)
        by_kv = self._running_by_kv()
        self.batch_cap, self.kv_bound = max(1.0, min(float(running), by_kv)), by_kv < running
        self._fold_decode()
        hit = self._hit(self.batch_cap)
        self._steady = self._prompt(hit) if hit > _CERTAIN_HIT or self._shared == 0.0 else None

    def _fold_decode(self) -> None:
        """Decode step as a line through both ends; its slope is what one more request adds to everybody's step."""
        self._decode_context = self._asked + self._out / 2
        lone = self._model.decode_s(1, self._decode_context)
        self._full_step_s = self._model.decode_s(self.batch_cap, self._decode_context)
        self._step_slope = (self._full_step_s - lone) / max(1.0, self.batch_cap - 1)

    # ---- KV cache ---------------------------------------------------------------------------------------------

    def _running_by_kv(self) -> float:
        """Requests whose private tokens and whole answer fit one pool, beside the prefixes they pin.

        One copy of a prefix per group once all groups run, one per request before that.
        """
        shared, private = self._shared, self._asked - self._shared + self._out
        groups = self._workload.prefix_groups
        return max((self._kv_tokens - groups * shared) / private, self._kv_tokens / (private + shared))

    def _hit(self, batch: float) -> float:
        """Share of requests whose prefix is cached when `batch` requests run on the scheduler."""
        private = self._asked - self._shared
        free = self._kv_tokens - batch * (private + self._out / 2)
        return prefix_hit_share(free, batch, self._workload.prefix_groups, self._shared, private + self._out)

    # ---- prefill ----------------------------------------------------------------------------------------------

    def _prompt(self, hit: float) -> _Prompt:
        cached = hit * self._shared
        new = max(1.0, self._asked - cached)
        context = cached + new / 2
        missed = self._shared if 1 - hit > _MISS_MATTERS else 0.0
        most = self._ranks * max(1.0, self._chunk // new)
        lone_s, most_s = self._prefill_step_s(new, context, 1.0), self._prefill_step_s(new, context, most)
        return _Prompt(
            new=new,
            context=context,
            new_p95=max(new, min(self._asked, self._asked - self._shared + missed)) * self._stretch,
            cv2=self._asked_cv2 + hit * (1 - hit) * (self._shared / new) ** 2,
            cached_fraction=cached / self._asked,
            lone_s=lone_s,
            most=most,
            most_s=most_s,
            marginal_s=(most_s - lone_s) / (most - 1) if most > 1.0 else lone_s,
        )

    def _prefill_step_s(self, new: float, context: float, prompts: float) -> float:
        """Seconds to prefill `prompts` prompts together, spread over the attention-DP ranks of one replica."""
        busy = min(prompts, self._ranks)
        tokens = new * prompts / busy
        if tokens <= self._chunk:
            return self._model.prefill_s(tokens, context, new * prompts)
        chunks = math.ceil(tokens / self._chunk)
        return chunks * self._model.prefill_s(tokens / chunks, context, new * prompts / chunks)

    def _together(self, prompt: _Prompt, rate: float) -> tuple[float, float, float]:
        """Prompts that share a prefill step at this replica rate, its seconds, and the seconds of the median one.

        A step takes all that came during the one before, given at least one: x / (1 - e^-x) for Poisson arrivals of
        mean x, max(1, x) for even ones, between both for streams dealt out in turn. The seconds are a line from one
        prompt to the most that fit.
        """
        if prompt.most <= 1.0:
            return 1.0, prompt.lone_s, prompt.lone_s
        slope = prompt.marginal_s
        uneven = self._replica_cv2
        mean = rate * prompt.lone_s
        for _ in range(2):
            even = max(1.0, mean)
            count = min(prompt.most, even + uneven * (mean / -math.expm1(-mean) - even))
            seconds = prompt.lone_s + slope * (count - 1)
            mean = rate * seconds
        return count, seconds, prompt.lone_s + slope * (min(prompt.most, max(1.0, mean)) - 1)

    # ---- operating points -------------------------------------------------------------------------------------

    def at(self, batch: float) -> LoadPoint:
        """The point where `batch` requests run on each scheduler on average."""
        prompt = self._steady or self._prompt(self._hit(batch))
        step_s = self._model.decode_s(max(1.0, batch), self._decode_context)
        decode_s = self._out * step_s / (self._model.tokens_per_verify * batch * self._ranks)
        rate = 1.0 / (prompt.lone_s + decode_s)
        together, prefill_s, median_s = self._together(prompt, rate)
        rate = 1.0 / (prefill_s / together + decode_s)
        return self._seen(prompt, rate, batch, step_s, rate * prefill_s / together, prefill_s, median_s)

    def at_share(self, point: LoadPoint, share: float) -> LoadPoint:
        """About the point at `share` of the rate of `point`, by how the batch follows the rate.

        B = k a / (1 - k b) with residence a + b x batch and k = rate / (1 - prefill share): k and with it B shrink by
        more than the rate does. One secant step corrects for the decode step's bend.
        """
        k_share = share * (1 - point.busy) / (1 - share * point.busy)
        near = self.at(point.batch * k_share * (1 - point.marginal) / (1 - k_share * point.marginal))
        rise = point.rate - near.rate
        if rise <= 0:  # evicted prefixes bend the curve: no line through both points
            return near
        return self.at(point.batch - (point.batch - near.batch) * (1 - share) * point.rate / rise)

    def _seen(
        self,
        prompt: _Prompt,
        rate: float,
        batch: float,
        step_s: float,
        busy: float,
        prefill_s: float,
        median_prefill_s: float,
    ) -> LoadPoint:
        """What requests see at `rate` per replica, prefill `busy` for a share of the time: waits, stretch, tails."""
        gain = self._model.tokens_per_verify * (1 - busy)
        tpot = step_s / gain
        marginal = min(0.98, rate / self._ranks * self._out * self._step_slope / gain)
        unrest = self._unrest(prompt, rate / self._ranks / (1 - busy))
        spread = math.sqrt(batch / (1 - marginal) * (unrest + 1) / 2)
        free_rate = self.batch_cap * gain / (self._out * self._full_step_s) - rate / self._ranks
        slot = slot_wait_s((self.batch_cap - batch) / spread, free_rate, (unrest + self._out_cv2) / 2)
        longer = prefill_s * (prompt.new_p95 / prompt.new - 1)
        before_s = self._model.request_overhead_s + (1 - busy) * min(batch, 1.0) * step_s / 2
        queued = self._queued_s(prompt, rate, busy, prefill_s, 0.05)
        ttft_p95 = before_s + prefill_s + math.sqrt(queued * queued + slot * slot + longer * longer)
        tpot_p95 = tpot + self._step_slope * min(spread, max(0.0, self.batch_cap - batch)) / gain
        return LoadPoint(
            rate=rate * self._dp,
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
        )

    def _unrest(self, prompt: _Prompt, decode_rate: float) -> float:
        """How strongly arrivals shake the running batch, as a squared coefficient of variation.

        An arrival adds one request, and while its prompt is prefilled every scheduler of the replica misses the
        `decode_rate` at which it otherwise finishes requests: bursts fill the batch twice.
        """
        missed = decode_rate * prompt.marginal_s
        return self._slot_cv2 * ((1 + missed) ** 2 + (self._ranks - 1) * missed**2)

    def _queued_s(self, prompt: _Prompt, rate: float, busy: float, prefill_s: float, above: float) -> float:
        """The wait for prefill that a share `above` exceeds: behind others, or for the step under way to end."""
        service = prompt.most_s / prompt.most
        served = rate * service
        waiting = waiting_share(served, self._streams)
        wait = queue_wait_s(served, service, self._replica_cv2, prompt.cv2, waiting, above)
        if prompt.most <= 1.0:
            return wait
        return max(wait, residual_wait_s(waiting_share(busy, self._streams), prefill_s, above))
