"""Everything before the clock starts: tokenizer, chat overhead, warm-up, cache flush, shared prefixes.

After it the server is warm, holds the shared prefixes and nothing else of ours, and prompts have their planned length.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from tuner.probe.client import Order, StreamClient
from tuner.probe.control import EngineControl, EngineUnreachable, schedulers
from tuner.probe.events import RequestRecord
from tuner.probe.gates import Offered
from tuner.probe.plan import PlannedRequest, RequestStream
from tuner.probe.prompts import BodyFactory, estimated_tokens, learn_lexicon
from tuner.probe.summary import achieved_cached_share
from tuner.space.workload import Workload

WARM_UP_TOKENS = 64
"""Answer length of warm-up requests: long enough to touch every graph a decode batch uses."""

WARM_UP_PER_SHAPE = 2
PRIMERS = 4
"""Groups primed at once on a single scheduler. With several, one group at a time: a request for each of them."""

ESTIMATED = 4
"""So many prompts of estimated length tell how long they are on average."""

FOLLOWS = 2.0
"""A count further off than by this factor is not one of the prompt that was sent."""

OWN_TOKENS = 32
"""What a priming request adds to the prefix."""

CHECKED = 8
SHARE_TOLERANCE = 0.02
SCALE_TOLERANCE = 0.001


class NotReady(Exception):  # noqa: N818 - says what is the case
    """The engine could not be prepared; `kind` is a stable word for the failure."""

    def __init__(self, kind: str, message: str) -> None:
        self.kind = kind
        super().__init__(message)


@dataclass(slots=True)
class Bench:
    """A prepared server: who sends, what is sent, what the engine says it runs with, and what gave cause for doubt."""

    client: StreamClient
    bodies: BodyFactory
    info: dict[str, Any]
    warnings: list[str]
    offered: Offered | None = None


async def prepare(
    control: EngineControl,
    client_for: Callable[[str], StreamClient],
    workload: Workload,
    stream: RequestStream,
    *,
    nonce: str,
    progress: Callable[[str], None],
    model: str | None = None,
    estimate: bool = False,
) -> Bench:
    """Bring a running server to the state measurements start from.

    `estimate`: an engine that counts no tokens gets prompts whose lengths are right on average.

    Raises:
        NotReady: no tokenizer, or requests fail already now.
    """
    info, named = await _settings(control)
    model = model or named
    progress("learning the tokenizer")
    try:
        lexicon = await learn_lexicon(lambda texts: control.count_tokens(texts, model))
        warnings = []
    except EngineUnreachable as error:
        if not estimate:
            told = f"the engine does not count tokens, prompts cannot be sized: {error}"
            raise NotReady("no_tokenizer", told) from error
        lexicon = replace(await learn_lexicon(estimated_tokens), exact=False)
        warnings = ["no /v1/tokenize here: prompts have their length on average only, by the endpoint's usage"]
    bodies = BodyFactory(workload, stream, lexicon, model, nonce)
    bench = Bench(client_for(bodies.path), bodies, info, warnings)
    preparation = _Preparation(control, bench, workload, stream)
    progress("warming up")
    await preparation.measure_overhead()
    await preparation.warm_up()
    await preparation.flush()
    if stream.longest_prefix_tokens > 0:
        progress(f"priming {workload.prefix_groups} shared prefixes")
        await preparation.prime(times=schedulers(info))
        await preparation.check_cached_share()
    elif stream.traffic is not None and stream.traffic.kind == "trace":
        await preparation.check_blocks()
    return bench


async def _settings(control: EngineControl) -> tuple[dict[str, Any], str]:
    """What the engine says of itself; engines that say nothing can still be loaded."""
    try:
        info = await control.server_info()
    except EngineUnreachable:
        info = {}
    try:
        return info, await control.model_name()
    except EngineUnreachable:
        return info, str(info.get("served_model_name") or "default")


class _Preparation:
    def __init__(self, control: EngineControl, bench: Bench, workload: Workload, stream: RequestStream) -> None:
        self._control, self._bench, self._workload, self._stream = control, bench, workload, stream
        self._used = 0

    async def measure_overhead(self) -> None:
        """Tokens the chat template adds, and whether long prompts come out as long as planned."""
        bodies = self._bench.bodies
        for tokens in (min(200, self._workload.input_tokens.low), round(self._workload.input_tokens.mean_tokens)):
            asked = max(tokens, 2)
            samples = 1 if bodies.exact else ESTIMATED
            plans = [self._plan(asked, output_tokens=1, prefix_tokens=0) for _ in range(samples)]
            counted = sum([(await self._send(planned)).input_tokens for planned in plans]) / samples
            if tokens <= 400:
                bodies.overhead_tokens += round(counted - asked)
            elif not 1 / FOLLOWS < counted / asked < FOLLOWS:
                told = f"the engine counts {counted:,.0f} tokens in prompts of about {asked:,}"
                raise NotReady("no_tokenizer", f"{told}: its usage does not follow them, they cannot be sized")
            elif abs(counted - asked) > SCALE_TOLERANCE * tokens:
                bodies.rescale(counted / asked)

    async def warm_up(self) -> None:
        lengths = sorted({self._workload.input_tokens.low, self._workload.input_tokens.high})
        answer = min(WARM_UP_TOKENS, max(1, self._workload.output_tokens.low))
        for length in lengths:
            plans = [self._plan(length, answer, 0) for _ in range(WARM_UP_PER_SHAPE)]
            await asyncio.gather(*(self._send(p) for p in plans))

    async def flush(self) -> None:
        """Requests that have just ended may still count as running: ask again a few times."""
        for _ in range(10):
            try:
                if await self._control.flush_cache():
                    return
            except EngineUnreachable:
                break
            await asyncio.sleep(0.3)
        self._bench.warnings.append("the prefix cache could not be flushed before the measurement")

    async def prime(self, times: int) -> None:
        """Send every shared prefix once to each scheduler: they are taken in turn, and each has a cache of its own."""
        gate = asyncio.Semaphore(PRIMERS if times == 1 else 1)
        longest = self._stream.longest_prefix_tokens

        async def one(group: int) -> None:
            async with gate:
                plans = [self._plan(longest + OWN_TOKENS, 1, longest, group=group) for _ in range(times)]
                await asyncio.gather(*(self._send(p) for p in plans))

        await asyncio.gather(*(one(group) for group in range(max(1, self._workload.prefix_groups))))

    async def check_cached_share(self) -> None:
        """A lower share than offered is an outcome of this configuration (a small KV pool, scattered replicas)."""
        records, prefixes = [], []
        for index in range(CHECKED):
            like = self._stream.request(index)
            records.append(
                await self._send(self._plan(like.input_tokens, 1, like.prefix_tokens, group=like.prefix_group))
            )
            prefixes.append(self._bench.bodies.prefix(like.prefix_group, like.prefix_tokens))
        await self._check_offered(prefixes, sum(r.input_tokens for r in records))
        share, offered = achieved_cached_share(records), self._workload.cached_fraction
        if not self._bench.client.cached_told:
            self._bench.warnings.append("cached tokens are not reported (sglang does with --enable-cache-report)")
        elif abs(share - offered) > SHARE_TOLERANCE:
            self._bench.warnings.append(
                f"cached share of the first {CHECKED} requests is {share:.2f}, offered {offered:.2f}"
            )

    async def check_blocks(self) -> None:
        """Of a trace's first prompts that begin as earlier ones did: whether as much of their text is shared."""
        bodies, rows = self._bench.bodies, self._stream.traffic.rows if self._stream.traffic else ()
        sharing = [self._stream.request(i) for i, row in enumerate(rows) if row.shared_tokens][:CHECKED]
        if not sharing:
            return
        heads = [bodies.head(r, min(r.prefix_tokens, r.input_tokens - bodies.overhead_tokens))[0] for r in sharing]
        texts = [_plain(text) for text in (*heads, *map(bodies.text, sharing))]
        try:
            counts = await self._control.count_tokens(texts, bodies.model)
        except EngineUnreachable:
            return
        shared, whole = sum(counts[: len(heads)]), sum(counts[len(heads) :]) + len(heads) * bodies.overhead_tokens
        wanted = sum(r.prefix_tokens for r in sharing) / sum(r.input_tokens for r in sharing)
        self._bench.offered = Offered(wanted, shared / max(1, whole))

    async def _check_offered(self, prefixes: list[bytes], input_tokens: int) -> None:
        """What was offered is ours to get right: the shared heads by the tokenizer, the whole by usage."""
        texts = [_plain(prefix) for prefix in prefixes]
        try:
            counts = await self._control.count_tokens(texts, self._bench.bodies.model)
        except EngineUnreachable:
            return
        self._bench.offered = Offered(self._workload.cached_fraction, sum(counts) / max(1, input_tokens))

    def _plan(self, input_tokens: int, output_tokens: int, prefix_tokens: int, group: int = 0) -> PlannedRequest:
        """A request outside the measured sequence: negative indexes are never planned there."""
        self._used += 1
        return PlannedRequest(-self._used, input_tokens, output_tokens, group, prefix_tokens)

    async def _send(self, planned: PlannedRequest) -> RequestRecord:
        bench = self._bench
        body = bench.bodies.body(bench.bodies.text(planned), planned.output_tokens)
        record = await bench.client.send(Order(planned.index, -1, time.perf_counter(), body))
        if record.error is not None:
            said = f"{record.error}: {bench.client.messages.get(record.error, '')}".rstrip(": ")
            more = "; the load client sends no key" if record.error in ("http_401", "http_403") else ""
            raise NotReady("first_requests", f"a request before the load failed with {said}{more}")
        return record


def _plain(text: bytes) -> str:
    """JSON string content as text."""
    return str(json.loads(b'"' + text + b'"'))
