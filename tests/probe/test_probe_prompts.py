from __future__ import annotations

import asyncio
import json
import random
import re

import pytest

from tuner.probe.plan import PlannedRequest, RequestStream
from tuner.probe.prompts import BodyFactory, BodyPool, Lexicon, compose, corpus_sentences, learn_lexicon
from tuner.space.workload import Length, Sampling, Workload


def pieces(text: str) -> int:
    """A tokenizer's stand-in: a token per four letters of a word, one per mark."""
    return sum(-(-len(w) // 4) if w.isalnum() else 1 for w in re.findall(r"\w+|[^\w\s]", text))


def lexicon_with(count=pieces) -> tuple[Lexicon, list[int]]:
    calls: list[int] = []

    async def count_tokens(texts):
        calls.append(len(texts))
        return [count(t) for t in texts]

    return asyncio.run(learn_lexicon(count_tokens)), calls


LEXICON, CALLS = lexicon_with()


def a_workload(**kwargs) -> Workload:
    fields = {"input_tokens": Length.fixed(2000), "output_tokens": Length.fixed(50), "cached_fraction": 0.6}
    return Workload(**(fields | kwargs))


def a_factory(workload: Workload | None = None, seed: int = 1, nonce: str = "") -> BodyFactory:
    workload = workload or a_workload()
    return BodyFactory(workload, RequestStream(workload, seed), LEXICON, "tiny", nonce)


def decoded(text: bytes) -> str:
    return json.loads(b'"' + text + b'"')


def test_the_corpus_is_prose_without_its_notes():
    sentences = corpus_sentences()
    assert len(sentences) > 300
    assert sum(map(len, sentences)) > 40_000
    assert not any("#" in s for s in sentences)
    assert sentences[0].startswith("Alice was beginning")


def test_the_tokenizer_is_asked_twice():
    assert len(CALLS) == 2
    assert LEXICON.scale == pytest.approx(1.0)


@pytest.mark.parametrize("tokens", [1, 2, 17, 500, 12_000, 20_000])
def test_prompts_have_their_exact_length(tokens):
    text = decoded(compose(LEXICON, tokens, random.Random(tokens)))
    assert pieces(text) == tokens


def test_a_tokenizer_that_merges_across_blanks_is_allowed_for():
    """Long texts take 10 % fewer tokens than their pieces: half a per cent is kept all the same."""
    merging, _ = lexicon_with(lambda text: pieces(text) if len(text) < 1000 else round(0.9 * pieces(text)))
    assert merging.scale == pytest.approx(0.9, abs=0.001)
    text = decoded(compose(merging, 20_000, random.Random(1)))
    assert 0.9 * pieces(text) == pytest.approx(20_000, rel=0.005)


def test_a_tokenizer_without_single_token_words_still_works():
    coarse, _ = lexicon_with(lambda text: 2 * pieces(text))
    assert 2 * pieces(decoded(compose(coarse, 1001, random.Random(1)))) in (1001, 1002)


def test_the_prefix_comes_first_and_is_shared_within_its_group():
    factory = a_factory()
    texts = [factory.text(PlannedRequest(i, 2000, 50, i % 2, 1200)) for i in range(4)]
    prefixes = [factory.prefix(g, 1200) for g in (0, 1)]
    assert all(t.startswith(prefixes[i % 2]) for i, t in enumerate(texts))
    assert prefixes[0] != prefixes[1]
    assert all(pieces(decoded(t)) == 2000 for t in texts)
    assert len({t[len(prefixes[i % 2]) :][:40] for i, t in enumerate(texts)}) == 4
    assert factory.prefix(0, 0) == b""


def test_shorter_prefixes_are_heads_of_longer_ones():
    factory = a_factory()
    short, long = factory.prefix(3, 800), factory.prefix(3, 1500)
    common = next(i for i, (a, b) in enumerate(zip(short, long, strict=False)) if a != b)
    assert common > 0.9 * len(short)


def test_texts_depend_on_seed_index_and_nonce_alone():
    planned = PlannedRequest(7, 500, 50, 0, 100)
    assert a_factory().text(planned) == a_factory().text(planned)
    assert a_factory(nonce="b").text(planned) != a_factory().text(planned)
    assert a_factory(seed=2).text(planned) != a_factory().text(planned)
    assert a_factory(nonce="b").prefix(0, 100) == a_factory().prefix(0, 100)


def test_the_chat_templates_tokens_are_taken_off():
    factory = a_factory()
    factory.overhead_tokens = 13
    assert pieces(decoded(factory.text(PlannedRequest(0, 2000, 50, 0, 1200)))) == 1987


def test_rescaling_changes_what_is_planned_from_now_on():
    factory = a_factory()
    before = len(factory.prefix(0, 1000))
    factory.rescale(1.25)
    assert len(factory.prefix(0, 1000)) == pytest.approx(before / 1.25, rel=0.05)


@pytest.mark.parametrize("endpoint", ["chat", "completions"])
def test_bodies_are_what_the_workload_says(endpoint):
    workload = a_workload(endpoint=endpoint, sampling=Sampling(0.7, 0.9, ignore_eos=False, thinking=False))
    factory = a_factory(workload)
    body = json.loads(factory.body(b' a \\"quoted\\" word', 50))
    common = {
        "model": "tiny", "stream": True, "stream_options": {"include_usage": True}, "temperature": 0.7, "top_p": 0.9,
        "ignore_eos": False, "max_tokens": 50,
    }  # fmt: skip
    text = ' a "quoted" word'
    if endpoint == "chat":
        extra = {
            "messages": [{"role": "user", "content": text}],
            "chat_template_kwargs": {"enable_thinking": False},
        }
        assert factory.path == "/v1/chat/completions"
    else:
        extra = {"prompt": text}
        assert factory.path == "/v1/completions"
    assert body == common | extra


def test_a_pool_makes_texts_ahead_and_counts_those_it_had_to_make_late():
    workload = a_workload(input_tokens=Length.fixed(100))
    stream = RequestStream(workload, 1)
    factory = a_factory(workload)

    async def main():
        pool = BodyPool(factory, stream, ahead=10)
        await pool.prepare(5)
        taken = 5
        bodies = [pool.body(stream.request(i)) for i in range(5)]
        assert pool.late == 0
        making = asyncio.create_task(pool.keep_ahead(lambda: taken))
        while pool._next < 15:  # noqa: ASYNC110 - the pool counts, nobody tells
            await asyncio.sleep(0)
        await asyncio.sleep(0.02)
        assert pool._next == 15
        bodies += [pool.body(stream.request(i)) for i in range(5, 16)]
        making.cancel()
        await asyncio.gather(making, return_exceptions=True)
        return pool, bodies

    pool, bodies = asyncio.run(main())
    assert pool.late == 1
    assert bodies == [factory.body(factory.text(stream.request(i)), 50) for i in range(16)]
