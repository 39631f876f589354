"""A stand-in tokenizer: pieces of up to four characters, a stable hash as the token id, text back as filler words.

Deterministic and fast; token counts of texts joined at a space add up. Knows no model's real vocabulary.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Hashable, Mapping, Sequence

from tuner.simulator.events import BLOCK_TOKENS

_PIECE = re.compile(r" ?\w{1,4}|[^\w\s]| |\s{1,4}")
_SPECIAL = 16
"""Ids below are the chat template's own."""
_ROLE_IDS = {"system": 1, "user": 2, "assistant": 3, "tool": 4}
_END_OF_PROMPT = 5
_MEMORY_LIMIT = 200_000

_WORDS = """the of and to in is that for it as was with be by on not he his but at are this have from or had an they
which one you were all her she there would their we him been has when who will no more if out so up said what its than
into them can only other time new some could these two may first then do any like my now over such our"""
WORDS = tuple(_WORDS.split())


class Tokenizer:
    """Encodes texts and chats into ids below `vocab`, and answers into words."""

    def __init__(self, vocab: int) -> None:
        self.vocab = vocab
        self._known: dict[str, int] = {}

    def encode(self, text: str) -> list[int]:
        known = self._known
        if len(known) > _MEMORY_LIMIT:
            known.clear()
        pieces = _PIECE.findall(text)
        try:
            return [known[piece] for piece in pieces]
        except KeyError:
            for piece in set(pieces) - known.keys():
                known[piece] = _SPECIAL + zlib.crc32(piece.encode()) % (self.vocab - _SPECIAL)
            return [known[piece] for piece in pieces]

    def encode_chat(self, messages: Sequence[Mapping[str, object]]) -> list[int]:
        """A template of one id per role, and one that asks for the answer."""
        ids: list[int] = []
        for message in messages:
            ids.append(_ROLE_IDS.get(str(message.get("role")), 2))
            ids.extend(self.encode(_text_of(message.get("content"))))
        return [*ids, _END_OF_PROMPT]


def _text_of(content: object) -> str:
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        return "".join(part.get("text") or "" for part in content if isinstance(part, dict))
    return ""


def block_hashes(ids: Sequence[int]) -> tuple[Hashable, ...]:
    """Chained ids of the full blocks of a prompt: equal exactly where the whole prompt up to there is equal."""
    chain, blocks = 0, []
    for start in range(0, len(ids) - BLOCK_TOKENS + 1, BLOCK_TOKENS):
        chain = hash((chain, *ids[start : start + BLOCK_TOKENS]))
        blocks.append(chain)
    return tuple(blocks)


def answer_text(seed: int, start: int, count: int) -> str:
    """Tokens `start` to `start + count` of an answer, one word each."""
    picks = ((seed + 31 * index + index * index) % len(WORDS) for index in range(start, start + count))
    return "".join(f" {WORDS[pick]}" for pick in picks)


def answer_ids(seed: int, count: int, vocab: int) -> list[int]:
    """Token ids that go with `answer_text` from the beginning."""
    return [_SPECIAL + (seed + 31 * index + index * index) % (vocab - _SPECIAL) for index in range(count)]
