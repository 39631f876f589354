"""Prompts of an exact token length from natural prose, as request bodies ready to send.

Lengths come from the server's own tokenizer: sentences and words are counted once, prompts are sums of them. The
shared prefix of a group comes first, then a part no other request has; a trace's hash ids become a text each. The
user's own prompts are sent as they are. Random token ids would be simpler and wrong:
drafts of speculative decoding are accepted as they are on text, not on noise. Knows no clock; sends nothing.
"""

from __future__ import annotations

import asyncio
import copy
import json
import random
import re
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from importlib.resources import files
from typing import Any

from tuner.probe.plan import PlannedRequest, RequestStream
from tuner.space.traffic import Traffic, message_texts
from tuner.space.workload import Workload

CountTokens = Callable[[Sequence[str]], Awaitable[list[int]]]

PREFIXES_KEPT = 256
"""Composed prefixes kept in memory: all groups of a fixed length, some of a varying one."""

_WORD_OR_MARK = re.compile(r"\w+|[^\w\s]")

BLOCKS_KEPT = 4096
"""The same for a trace's blocks of 512 tokens: 10 MB."""

CALIBRATION_TOKENS = 2000
"""Length of the text that checks that token counts add up."""


def corpus_sentences() -> list[str]:
    """The built-in prose, sentence by sentence, without the notes on its sources (lines that begin with #)."""
    text = files("tuner.probe").joinpath("corpus.txt").read_text("utf-8")
    prose = " ".join(line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#"))
    return [s for s in re.split(r"(?<=[.!?;])\s+", prose) if s]


@dataclass(frozen=True, slots=True)
class Lexicon:
    """Pieces of text with their token counts, each with the blank before it, as JSON string content.

    `scale` is tokens of a long text / sum of its pieces' counts: 1 where the tokenizer never merges across blanks.
    Not `exact`: the counts are estimates.
    """

    sentences: tuple[tuple[bytes, int], ...]
    words: tuple[tuple[bytes, int], ...]
    scale: float = 1.0
    exact: bool = True


async def estimated_tokens(texts: Sequence[str]) -> list[int]:
    """For engines that do not count: words and marks, which tokenizers of English prose mostly keep whole."""
    return [len(_WORD_OR_MARK.findall(text)) for text in texts]


async def learn_lexicon(count_tokens: CountTokens, sentences: Sequence[str] | None = None) -> Lexicon:
    """Ask the tokenizer for every sentence and every short word once, then check that the counts add up."""
    pieces = [f" {s}" for s in (sentences if sentences is not None else corpus_sentences())]
    words = [f" {w}" for w in sorted({w for p in pieces for w in p.split() if w.isalpha() and w.islower()})]
    counts = await count_tokens([*pieces, *words])
    counted = list(zip(pieces, counts[: len(pieces)], strict=True))
    single = [(w, n) for w, n in zip(words, counts[len(pieces) :], strict=True) if n == 1] or [
        min(zip(words, counts[len(pieces) :], strict=True), key=lambda pair: pair[1])
    ]
    sample, tokens = [], 0
    for text, n in counted:
        if tokens >= CALIBRATION_TOKENS:
            break
        sample.append(text)
        tokens += n
    (actual,) = await count_tokens(["".join(sample)])
    return Lexicon(
        tuple((_encoded(text), n) for text, n in counted if n > 0),
        tuple((_encoded(w), n) for w, n in single),
        actual / max(1, tokens),
    )


def _encoded(text: str) -> bytes:
    return json.dumps(text)[1:-1].encode()


def compose(lexicon: Lexicon, tokens: int, rng: random.Random) -> bytes:
    """Prose of `tokens` tokens as JSON string content: shuffled sentences, filled up with single-token words."""
    left = round(tokens / lexicon.scale)
    parts: list[bytes] = []
    while left > 0:
        text, count = rng.choice(lexicon.sentences)
        if count > left:
            break
        parts.append(text)
        left -= count
    while left > 0:
        text, count = rng.choice(lexicon.words)
        parts.append(text)
        left -= count
    return b"".join(parts)


BACKGROUND_PAUSE_S = 0.05


class BodyFactory:
    """Request bodies of one run. `overhead_tokens` is what the chat template adds to a prompt.

    `nonce` makes the unshared parts of this run differ from those of any other on the same server.
    """

    def __init__(
        self, workload: Workload, stream: RequestStream, lexicon: Lexicon, model: str, nonce: str = ""
    ) -> None:
        self._workload = workload
        self._stream = stream
        self._lexicon = lexicon
        self._model = model
        self._nonce = nonce
        self.overhead_tokens = 0
        self._prefixes: dict[tuple[int, int], bytes] = {}
        self._blocks: dict[tuple[int, int, int], bytes] = {}
        self._before, self._after = _around(workload, model)

    def rescale(self, factor: float) -> None:
        """Long prompts came out `factor` times as long as planned: plan accordingly from now on."""
        self._lexicon = replace(self._lexicon, scale=self._lexicon.scale * factor)
        self._prefixes.clear()
        self._blocks.clear()

    @property
    def exact(self) -> bool:
        """Whether every prompt has its planned length, not only their mean."""
        return self._lexicon.exact

    @property
    def model(self) -> str:
        return self._model

    @property
    def traffic(self) -> Traffic | None:
        return self._stream.traffic

    @property
    def path(self) -> str:
        return "/v1/chat/completions" if self._workload.endpoint == "chat" else "/v1/completions"

    def text(self, planned: PlannedRequest) -> bytes:
        """The prompt as JSON string content: the group's or blocks' shared head, then this request's own part."""
        rng = self._rng(f"own/{self._nonce}/{planned.index}")
        if planned.blocks:
            whole = max(1, planned.input_tokens - self.overhead_tokens)
            head, own = self.head(planned, whole)
            return head + compose(self._lexicon, own, rng)
        shared = planned.prefix_tokens if planned.row is None else 0
        own = planned.input_tokens - shared - self.overhead_tokens
        return self.prefix(planned.prefix_group, shared) + compose(self._lexicon, max(1, own), rng)

    def head(self, planned: PlannedRequest, tokens: int) -> tuple[bytes, int]:
        """The text of its blocks, up to `tokens`, and how many tokens are left after them."""
        size = self._block_tokens
        parts = []
        for block in planned.blocks:
            parts.append(self._block(planned.turn, block, min(size, tokens)))
            tokens -= min(size, tokens)
        return b"".join(parts), tokens

    @property
    def _block_tokens(self) -> int:
        traffic = self._stream.traffic
        return traffic.block_tokens if traffic is not None else 1

    def _block(self, turn: int, block: int, tokens: int) -> bytes:
        """One text per hash id and round: what a second round brings is not in the cache from the first."""
        known = self._blocks.get((turn, block, tokens))
        if known is None:
            known = compose(self._lexicon, tokens, self._rng(f"block/{self._nonce}/{turn}/{block}"))
            if len(self._blocks) >= BLOCKS_KEPT:
                self._blocks.pop(next(iter(self._blocks)))
            self._blocks[turn, block, tokens] = known
        return known

    def content(self, planned: PlannedRequest) -> bytes:
        """What stands in the body as messages or prompt, as JSON."""
        traffic = self._stream.traffic
        if traffic is None or traffic.kind != "file" or planned.row is None:
            return self._quoted(self.text(planned))
        row = traffic.rows[planned.row]
        prompt = row.prompt if planned.turn == 0 else _marked(row.prompt, row.own_from, f"({planned.turn}) ")
        if self._workload.endpoint == "chat" and isinstance(prompt, str):
            prompt = [{"role": "user", "content": prompt}]
        return json.dumps(prompt).encode()

    def _quoted(self, text: bytes) -> bytes:
        chat = self._workload.endpoint == "chat"
        return b'[{"role":"user","content":"%s"}]' % text if chat else b'"%s"' % text

    def prefix(self, group: int, tokens: int) -> bytes:
        """The first `tokens` of a group's shared text; shorter ones are heads of longer ones, sentence by sentence."""
        if tokens <= 0:
            return b""
        known = self._prefixes.get((group, tokens))
        if known is None:
            # One generator per group: the same sentences in the same order, whatever the length asked for.
            known = compose(self._lexicon, tokens, self._rng(f"prefix/{group}"))
            if len(self._prefixes) < PREFIXES_KEPT:
                self._prefixes[group, tokens] = known
        return known

    def body(self, text: bytes, output_tokens: int) -> bytes:
        """The whole JSON body around a prompt's text."""
        return self.around(self._quoted(text), output_tokens)

    def around(self, content: bytes, output_tokens: int) -> bytes:
        """The whole JSON body around messages or a prompt."""
        return b"".join((self._before, content, self._after, b"%d}" % output_tokens))

    def _rng(self, what: str) -> random.Random:
        return random.Random(f"{self._stream.seed}/text/{what}")  # noqa: S311 - prose, not secrets


def _around(workload: Workload, model: str) -> tuple[bytes, bytes]:
    """The JSON before and after the prompt; what follows the second is the number of tokens to answer with."""
    sampling = workload.sampling
    options = {
        "model": model,
        "stream": True,
        "stream_options": {"include_usage": True},
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "ignore_eos": sampling.ignore_eos,
    }
    if workload.endpoint == "chat":
        options["chat_template_kwargs"] = {"enable_thinking": sampling.thinking}
    opening = b'"messages":' if workload.endpoint == "chat" else b'"prompt":'
    return json.dumps(options)[:-1].encode() + b"," + opening, b',"max_tokens":'


def _marked(prompt: Any, own_from: int, mark: str) -> Any:
    """A prompt sent once more, with a mark where it begins to differ from the file's others.

    So nothing but what several of them share is in the cache from the round before.
    """
    if isinstance(prompt, str):
        return prompt[:own_from] + mark + prompt[own_from:]
    messages, at = copy.deepcopy(prompt), 0
    for message, (role, text, is_text) in zip(messages, message_texts(prompt), strict=True):
        at += len(role)
        if is_text and at + len(text) >= own_from:
            cut = max(0, own_from - at)
            message["content"] = text[:cut] + mark + text[cut:]
            break
        at += len(text)
    return messages


class BodyPool:
    """Prompt texts made ahead of the moment they are due, so that sending one is a copy and nothing else."""

    def __init__(self, factory: BodyFactory, stream: RequestStream, ahead: int = 64) -> None:
        self._factory = factory
        self._stream = stream
        self._ahead = ahead
        self._texts: dict[int, bytes] = {}
        self._next = 0
        self.late = 0
        """Requests whose text was not ready when they were due."""

    async def prepare(self, until: int) -> None:
        """Make all texts below index `until`, a few at a time so that the loop stays free."""
        while self._next < until:
            self._make()
            await asyncio.sleep(0)

    async def keep_ahead(self, taken: Callable[[], int]) -> None:
        """Run beside the load until cancelled; `taken` is the number of requests due so far."""
        while True:
            if self._next < taken() + self._ahead:
                self._make()
                await asyncio.sleep(0)
            else:
                await asyncio.sleep(BACKGROUND_PAUSE_S)

    def body(self, planned: PlannedRequest) -> bytes:
        text = self._texts.pop(planned.index, None)
        if text is None:
            self.late += 1
            text = self._factory.content(planned)
        return self._factory.around(text, planned.output_tokens)

    def _make(self) -> None:
        self._texts[self._next] = self._factory.content(self._stream.request(self._next))
        self._next += 1
