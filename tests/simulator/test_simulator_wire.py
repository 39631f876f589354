"""The HTTP server over real loopback sockets, against captures of sglang 0.5.23."""

from __future__ import annotations

import asyncio
import contextlib
import json
from pathlib import Path

import httpx
import pytest

from tuner.simulator import server as server_module
from tuner.simulator.assemble import SimulatedEngine, simulated_engine
from tuner.simulator.events import Trap
from tuner.simulator.server import Address, Server

DATA = Path(__file__).parent / "data"
PROMPT = "The quick brown fox jumps over the lazy dog and then it returns the value of self. "
ARGV = [
    "--model-path",
    "amd/GLM-5.2-MXFP4",
    "--tp-size",
    "4",
    "--mem-fraction-static",
    "0.85",
    "--context-length",
    "8192",
]
PLUMBING = ["--served-model-name", "tiny-qwen3", "--enable-metrics", "--enable-cache-report"]


@contextlib.asynccontextmanager
async def serving(*extra, trap=None, warm_up_s=0.0, died=None):
    """A running server and a client; (server, client)."""
    sim = simulated_engine([*ARGV, *PLUMBING, *extra], accelerator="mi355x", architecture="glm-5.2", world=0, seed=1)
    assert isinstance(sim, SimulatedEngine)
    if trap:
        for replica in sim.engine._replicas:
            replica.trap = trap
    lines = [] if died is None else died
    server = Server(sim, Address("127.0.0.1", 0, "cmd", "0.5.23"), lines.append, lambda: lines.append("DEAD"))
    running = asyncio.create_task(server.run(warm_up_s))
    await until(lambda: server.port and (server.status == "ready" or warm_up_s))
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{server.port}", timeout=60, trust_env=False) as client:
        try:
            yield server, client
        finally:
            server._driver.abort_all()
            server.stop()
            await running


async def until(condition, timeout_s=60.0):
    for _ in range(int(timeout_s / 0.005)):
        if condition():
            return
        await asyncio.sleep(0.005)
    raise AssertionError("it did not come to that in time")


def fixture(name):
    return json.loads((DATA / f"{name}.body").read_text())


def events(text):
    """The data of every event of a stream, parsed, [DONE] as it stands."""
    found = [line[6:] for line in text.splitlines() if line.startswith("data: ")]
    return [data if data == "[DONE]" else json.loads(data) for data in found]


def shape(doc):
    """Keys in order, recursively, and the types of the leaves (numbers are one type)."""
    if isinstance(doc, dict):
        return [(key, shape(value)) for key, value in doc.items()]
    if isinstance(doc, list):
        return [shape(value) for value in doc]
    return "number" if isinstance(doc, (int, float)) and not isinstance(doc, bool) else type(doc).__name__


def post(path, body, *extra, **options):
    async def run():
        async with serving(*extra, **options) as (_, client):
            return await client.post(path, json=body)

    return asyncio.run(run())


@pytest.mark.parametrize(
    ("path", "body", "name"),
    [
        ("/v1/completions", {"prompt": PROMPT, "max_tokens": 16, "temperature": 0}, "completions"),
        ("/v1/completions", {"prompt": PROMPT, "max_tokens": 4, "n": 2}, "completions_n2"),
        ("/v1/completions", {"prompt": [PROMPT, "def main():"], "max_tokens": 4}, "completions_batch"),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": PROMPT}], "max_tokens": 16}, "chat"),
    ],
)
def test_whole_answers_have_the_keys_of_the_captures(path, body, name):
    answer = post(path, {"model": "tiny-qwen3"} | body)
    wanted = fixture(name)
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/json"
    got = answer.json()
    assert shape(got) == shape(wanted)
    assert got["model"] == "tiny-qwen3"
    counts = got["usage"]
    assert counts["completion_tokens"] == wanted["usage"]["completion_tokens"]
    assert counts["total_tokens"] == counts["prompt_tokens"] + counts["completion_tokens"]
    assert [c["finish_reason"] for c in got["choices"]] == [c["finish_reason"] for c in wanted["choices"]]


@pytest.mark.parametrize(
    ("path", "body", "name"),
    [
        ("/v1/completions", {"prompt": PROMPT, "max_tokens": 12}, "stream_completions"),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": PROMPT}], "max_tokens": 12}, "stream_chat"),
        (
            "/v1/completions",
            {
                "prompt": PROMPT,
                "max_tokens": 4,
                "stream_options": {"include_usage": True, "continuous_usage_stats": True},
            },
            "stream_completions_contusage",
        ),
    ],
)
def test_streams_have_the_events_of_the_captures_in_their_order(path, body, name):
    """Chunks may carry several tokens, so runs of equal shapes count as one."""
    asked = {"model": "tiny-qwen3", "stream": True, "stream_options": {"include_usage": True}} | body
    answer = post(path, asked)
    wanted, got = events((DATA / f"{name}.sse").read_text()), events(answer.text)

    def outline(stream):
        shapes = [shape(event) for event in stream]
        return [kind for i, kind in enumerate(shapes) if i == 0 or kind != shapes[i - 1]]

    assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert outline(got) == outline(wanted)
    assert got[-1] == "[DONE]"
    assert got[-2]["usage"]["completion_tokens"] == body["max_tokens"]
    assert got[-3]["choices"][0]["finish_reason"] == "length"


def test_usage_is_left_out_of_a_stream_unless_asked_for():
    body = {"prompt": PROMPT, "max_tokens": 4, "stream": True}
    got = events(post("/v1/completions", body).text)
    assert all(event["choices"] for event in got[:-1])
    assert got[-1] == "[DONE]"


def test_a_stream_carries_the_text_of_the_tokens_it_counts():
    body = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 40, "stream": True}
    got = events(post("/v1/chat/completions", body).text)
    text = "".join(e["choices"][0]["delta"].get("content") or "" for e in got[:-1])
    assert got[0]["choices"][0]["delta"] == {"reasoning_content": None, "role": "assistant", "content": ""}
    assert len(text.split()) == 40


def test_speculation_sends_several_tokens_per_chunk():
    draft = ["--speculative-algorithm", "EAGLE", "--speculative-num-steps", "3", "--speculative-eagle-topk", "1"]
    body = {"prompt": PROMPT, "max_tokens": 60, "stream": True}
    chunks = len(events(post("/v1/completions", body, *draft).text)) - 1
    assert 5 < chunks < 40


@pytest.mark.parametrize(
    ("body", "name"),
    [
        ({"prompt": PROMPT, "max_tokens": 0}, "completions_max0"),
        ({"prompt": PROMPT, "max_tokens": -5}, "err_neg_max"),
        ({"prompt": PROMPT, "max_tokens": 4, "min_tokens": 9}, "completions_min_gt_max"),
        ({"prompt": PROMPT, "max_tokens": "lots"}, "err_bad_type"),
        ({"max_tokens": 4}, "err_missing_prompt"),
        ({"prompt": PROMPT, "max_tokens": 4, "temperature": -1}, "err_temp"),
        ({"prompt": PROMPT, "max_tokens": 4, "top_p": 3}, "err_topp"),
        ({"prompt": "", "max_tokens": 4}, "err_empty_prompt"),
        ({"prompt": [7] * 9000, "max_tokens": 4}, "err_too_long"),
        ({"prompt": [7] * 30, "max_tokens": 100000, "ignore_eos": True}, "err_max_tokens_huge"),
        ({"prompt": [7] * 9000, "max_tokens": 4, "stream": True}, "err_too_long"),
    ],
)
def test_bad_requests_are_refused_in_sglangs_words(body, name):
    answer = post("/v1/completions", {"model": "tiny-qwen3"} | body)
    assert answer.status_code == 400
    assert answer.json() == fixture(name)


def test_other_malformed_requests():
    async def run():
        async with serving() as (_, client):
            jsonish = {"content-type": "application/json"}
            answers = [
                await client.post("/v1/completions", content=b'{"model": "x", ', headers=jsonish),
                await client.post("/v1/completions", content=b"[1]", headers=jsonish),
                await client.post(
                    "/v1/completions", content=b'{"prompt":"hi"}', headers={"content-type": "text/plain"}
                ),
                await client.post("/v1/chat/completions", json={"messages": []}),
                await client.get("/nope"),
                await client.get("/v1/completions"),
                await client.post("/v1/completions", json={"prompt": [["a", 1]]}),
                await client.post("/v1/completions", json={"prompt": "x", "max_tokens": 1.5}),
                await client.post("/generate", json={}),
            ]
            return [(a.status_code, a) for a in answers]

    answers = asyncio.run(run())
    assert [status for status, _ in answers] == [400, 400, 400, 400, 404, 405, 400, 400, 400]
    bad_json, wanted = answers[0][1].json(), fixture("err_bad_json")
    assert {k: v for k, v in bad_json.items() if k != "message"} == {k: v for k, v in wanted.items() if k != "message"}
    assert "JSON decode error" in bad_json["message"]
    assert answers[2][1].json() == fixture("err_bad_ctype")
    assert answers[3][1].json() == fixture("err_empty_messages")
    assert answers[4][1].json() == fixture("err_404")
    assert answers[5][1].json() == fixture("err_405")
    assert answers[5][1].headers["allow"] == "POST"


def test_generate_answers_like_the_capture():
    async def run():
        async with serving() as (_, client):
            body = {"text": PROMPT, "sampling_params": {"max_new_tokens": 6}}
            whole = await client.post("/generate", json=body)
            ids = await client.post(
                "/generate", json={"input_ids": [5, 6, 7], "sampling_params": {"max_new_tokens": 2}}
            )
            stream = await client.post("/generate", json={**body, "stream": True})
            return whole.json(), ids.json(), events(stream.text)

    whole, ids, stream = asyncio.run(run())
    assert list(whole) == list(fixture("generate"))
    assert set(whole["meta_info"]) <= set(fixture("generate")["meta_info"])
    assert whole["meta_info"]["finish_reason"] == {"type": "length", "length": 6}
    assert ids["meta_info"]["prompt_tokens"] == 3
    assert len(ids["output_ids"]) == 2
    assert stream[-1] == "[DONE]"
    assert stream[0]["meta_info"]["finish_reason"] is None
    assert stream[-2]["text"].startswith(stream[0]["text"])
    assert stream[-2]["meta_info"]["completion_tokens"] == 6


def test_repeated_and_shared_prompts_are_cached_until_flushed():
    async def run():
        shared, found = PROMPT * 40, []
        async with serving() as (_, client):
            for prompt in (shared, shared, shared + "and something else", "Not " + shared):
                answer = await client.post("/v1/completions", json={"prompt": prompt, "max_tokens": 2})
                found.append(answer.json()["usage"])
            flushed = await client.post("/flush_cache")
            again = await client.post("/v1/completions", json={"prompt": shared, "max_tokens": 2})
            text = (await client.get("/metrics")).text
        return found, flushed, again.json()["usage"], text

    (cold, warm, longer, other), flushed, again, metrics = asyncio.run(run())
    full = (cold["prompt_tokens"] - 1) // 64 * 64
    cached = [u["prompt_tokens_details"]["cached_tokens"] for u in (cold, warm, longer, other, again)]
    assert cached[:2] == [0, full]
    assert full <= cached[2] < longer["prompt_tokens"]
    assert cached[3:] == [0, 0]
    assert flushed.text == (DATA / "flush_cache.body").read_text()
    labels = 'cache_source="device",engine_type="unified",model_name="tiny-qwen3"'
    assert f"sglang:cached_tokens_total{{{labels}}} {sum(cached)}" in metrics


def test_without_cache_report_cached_tokens_are_not_told():
    async def run():
        async with serving() as (server, client):
            server._generation._limits = type(server._generation._limits)(8192, 100_000, False)
            return (await client.post("/v1/completions", json={"prompt": PROMPT})).json()

    assert asyncio.run(run())["usage"]["prompt_tokens_details"] is None


def test_a_full_queue_is_503_whole_and_200_with_an_error_event_streamed():
    async def run():
        async with serving("--max-running-requests", "1", "--max-queued-requests", "1") as (server, client):
            slow = {"prompt": PROMPT, "max_tokens": 4000}
            busy = [asyncio.create_task(client.post("/v1/completions", json=slow)) for _ in range(2)]
            # One runs and one waits, as far as the engine is concerned.
            await until(lambda: (c := server._sim.engine.counters()).running == 1 and c.queued == 1)
            body = {"prompt": PROMPT, "max_tokens": 4}
            whole = await client.post("/v1/completions", json=body)
            native = await client.post("/generate", json={"text": PROMPT})
            options = {"stream": True, "stream_options": {"include_usage": True}}
            stream = await client.post("/v1/completions", json=body | options)
            flushed = await client.post("/flush_cache")
            await client.post("/abort_request", json={"abort_all": True})
            return whole, native, stream, flushed, [(await task).json() for task in busy]

    whole, native, stream, flushed, aborted = asyncio.run(run())
    assert whole.status_code == native.status_code == 503
    assert whole.json()["message"] == "The request queue is full."
    assert stream.status_code == 200
    wanted = events((DATA / "stream_queue_full.txt").read_text())
    got = events(stream.text)
    assert got[0] == wanted[0]
    assert [shape(event) for event in got] == [shape(event) for event in wanted[:3]]
    assert got[1]["usage"]["total_tokens"] == 0
    assert flushed.status_code == 400
    assert flushed.text.startswith("Flush cache failed.")
    assert [a["choices"][0]["finish_reason"] for a in aborted] == ["abort", "abort"]


def test_aborting_a_stream_ends_it_with_usage_and_done():
    async def run():
        async with serving() as (server, client):
            body = {"prompt": PROMPT, "max_tokens": 4000, "stream": True, "stream_options": {"include_usage": True}}
            task = asyncio.create_task(client.post("/v1/completions", json=body))
            await until(lambda: server._sim.engine.counters().generated_tokens > 3)
            await client.post("/abort_request", json={"rid": "unknown"})
            assert not task.done()
            await client.post("/abort_request", json={"abort_all": True})
            return events((await task).text)

    got = asyncio.run(run())
    assert got[-3]["choices"][0]["finish_reason"] == "abort"
    assert 0 < got[-2]["usage"]["completion_tokens"] < 4000
    assert got[-1] == "[DONE]"


def test_a_client_that_leaves_aborts_its_request():
    async def run():
        async with serving() as (server, client):
            body = {"prompt": PROMPT, "max_tokens": 8000, "stream": True}
            async with client.stream("POST", "/v1/completions", json=body) as answer:
                await anext(answer.aiter_lines())
                assert server._sim.engine.counters().running == 1
            await until(lambda: server._sim.engine.counters().aborted == 1)
            task = asyncio.create_task(client.post("/v1/completions", json=body | {"stream": False}))
            await until(lambda: server._sim.engine.counters().running == 1)
            task.cancel()
            await until(lambda: server._sim.engine.counters().aborted == 2)
            return server._sim.engine.counters()

    counters = asyncio.run(run())
    assert (counters.running, counters.aborted, counters.kv_tokens) == (0, 2, 0)


def test_health_is_503_while_starting_and_a_generation_later_200(monkeypatch):
    monkeypatch.setattr(server_module, "HEALTH_ANSWER_S", 0.01)

    async def run():
        async with serving(warm_up_s=2.0) as (server, client):
            early = [
                (await client.get(path)).status_code for path in ("/health", "/health_generate", "/ready", "/v1/models")
            ]
            await until(lambda: server.status == "ready")
            late = [(await client.get(path)).status_code for path in ("/health", "/health_generate", "/ready", "/ping")]
            server.stop()
            await asyncio.sleep(0)
            return early, late

    assert asyncio.run(run()) == ([503, 503, 503, 200], [200] * 4)


def test_draining_answers_503_and_lets_requests_finish():
    async def run():
        async with serving() as (server, client):
            task = asyncio.create_task(client.post("/v1/completions", json={"prompt": PROMPT, "max_tokens": 150}))
            await until(lambda: server._sim.engine.counters().running == 1)
            server.stop()
            await until(lambda: server.status != "ready")
            health = (await client.get("/health")).status_code
            return health, (await task).json()["usage"]["completion_tokens"]

    assert asyncio.run(run()) == (503, 150)


def test_a_hang_answers_nothing_any_more(monkeypatch):
    monkeypatch.setattr(server_module, "HEALTH_TIMEOUT_S", 0.05)

    async def run():
        async with serving(trap=Trap("hang", 2048)) as (_, client):
            short = await client.post("/v1/completions", json={"prompt": PROMPT, "max_tokens": 2})
            with pytest.raises(httpx.ReadTimeout):
                await client.post("/v1/completions", json={"prompt": [9] * 3000, "max_tokens": 2}, timeout=0.5)
            return short.status_code, (await client.get("/health")).status_code

    assert asyncio.run(run()) == (200, 503)


@pytest.mark.parametrize(
    ("prompt", "trap", "sign"),
    [
        ([9] * 500, Trap("crash_first_request", 64), "illegal memory access"),
        ([9] * 500, Trap("oom_runtime", 400), "out of memory. Tried to allocate"),
        ([9, 10_000_000], None, "IndexError: index out of range in self"),
    ],
)
def test_a_crash_leaves_its_traceback_and_ends_the_process(prompt, trap, sign):
    """A token id outside the vocabulary kills sglang too."""
    died: list[str] = []

    async def run():
        async with serving(trap=trap, died=died) as (_, client):
            task = asyncio.create_task(client.post("/v1/completions", json={"prompt": prompt, "max_tokens": 2}))
            await until(lambda: "DEAD" in died)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    asyncio.run(run())
    assert "DEAD" in died
    tail = "\n".join(died[: died.index("DEAD")][-2:])
    assert "Scheduler hit an exception: Traceback" in tail
    assert sign in tail
    assert "Received sigquit from a child process" in tail


def test_the_engine_tells_what_it_runs_with():
    async def run():
        async with serving("--max-running-requests", "32", "--tp-size", "8", "--attn-dp-size", "2") as (_, client):
            info = (await client.get("/get_server_info")).json()
            assert info == (await client.get("/server_info")).json()
            model = (await client.get("/model_info")).json()
            return info, model, (await client.get("/v1/models")).json()

    info, model, models = asyncio.run(run())
    assert (info["tp_size"], info["attn_dp_size"], info["chunked_prefill_size"]) == (8, 2, 8192)
    assert info["simulated"] is True
    assert info["version"] == "0.5.23"
    assert [s["effective_max_running_requests_per_dp"] for s in info["internal_states"]] == [16, 16]
    assert info["internal_states"][0]["memory_usage"]["token_capacity"] == info["max_total_num_tokens"] > 100_000
    assert info["max_req_input_len"] == 8186
    assert model["served_model_name"] == "tiny-qwen3"
    assert shape(models) == shape(fixture("v1_models"))
    assert models["data"][0]["max_model_len"] == 8192


def test_metrics_count_what_was_served():
    async def run():
        async with serving() as (_, client):
            await client.post("/v1/completions", json={"prompt": [7] * 100, "max_tokens": 5})
            answer = await client.get("/metrics")
            return answer.headers["content-type"], answer.text

    kind, text = asyncio.run(run())
    values = {line.split("{")[0]: float(line.rsplit(" ", 1)[1]) for line in text.splitlines() if line[0] != "#"}
    assert kind.startswith("text/plain; version=0.0.4")
    assert values["sglang:prompt_tokens_total"] == 100
    assert values["sglang:generation_tokens_total"] == 5
    assert values["sglang:num_requests_total"] == 1
    assert values["sglang:time_to_first_token_seconds_count"] == 1
    assert values["sglang:e2e_request_latency_seconds_bucket"] == 1
    assert values["sglang:num_running_reqs"] == 0


def test_tokenize_agrees_with_the_usage():
    async def run():
        async with serving() as (_, client):
            one = (await client.post("/v1/tokenize", json={"model": "m", "prompt": PROMPT})).json()
            two = (await client.post("/tokenize", json={"prompt": [PROMPT, "a b"]})).json()
            message = [{"role": "user", "content": PROMPT}]
            chat = (await client.post("/v1/tokenize", json={"messages": message})).json()
            used = (await client.post("/v1/completions", json={"prompt": PROMPT})).json()["usage"]
            said = (await client.post("/v1/chat/completions", json={"messages": message, "max_tokens": 1})).json()[
                "usage"
            ]
            return one, two, chat, used, said

    one, two, chat, used, said = asyncio.run(run())
    assert list(one) == ["tokens", "count", "max_model_len"]
    assert one["count"] == len(one["tokens"]) == used["prompt_tokens"]
    assert two["count"] == [one["count"], 2]
    assert chat["count"] == said["prompt_tokens"]
    assert used["completion_tokens"] == 16


def test_a_chat_without_max_tokens_ends_by_itself():
    answer = post(
        "/v1/chat/completions",
        {"messages": [{"role": "user", "content": [9] * 3}, {"role": "x"}]},
        "--context-length",
        "100",
    )
    choice = answer.json()["choices"][0]
    assert choice["finish_reason"] == "stop"
    assert answer.json()["usage"]["completion_tokens"] == 100 - answer.json()["usage"]["prompt_tokens"]


def test_connections_are_kept_and_refused_bytes_are_answered_400():
    async def run():
        async with serving() as (server, client):
            for _ in range(3):
                await client.get("/ping")
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
            writer.write(
                b"GET /ping HTTP/1.1\r\nhost: x\r\n\r\nGET /ready HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"
            )
            both = await asyncio.wait_for(reader.read(), 60)
            writer.close()
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
            writer.write(b"nonsense\r\n\r\n")
            bad = await asyncio.wait_for(reader.read(), 60)
            writer.close()
            return both, bad

    both, bad = asyncio.run(run())
    assert both.count(b"HTTP/1.1 200 OK") == 2
    assert both.endswith(b"Connection: close\r\n\r\n")
    assert bad.startswith(b"HTTP/1.1 400")
