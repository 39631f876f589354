"""A stand-in for `sglang serve`: its log lines, its paths, its streams, and its ways to fail. Standard library only.

`python fake_engine.py --port N [--host H] [switches]`; unknown flags are ignored, as the trial appends its plumbing.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

SLEEPER = "import signal,time; [signal.signal(s, signal.SIG_IGN) for s in (1, 2, 15)]; time.sleep(600)"


def parse() -> argparse.Namespace:
    """Switches; what is unknown is the trial's plumbing."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--die-with", default="", help="file to print to stderr before dying")
    parser.add_argument("--die-code", type=int, default=1, help="exit code, or minus a signal to send itself")
    parser.add_argument("--die-at", choices=["never", "start", "weights", "request"], default="never")
    parser.add_argument("--die-after-requests", type=int, default=1)
    parser.add_argument("--hang-after-requests", type=int, default=0, help="then no answer, and no connection closed")
    parser.add_argument("--flood-mib", type=int, default=0, help="so much log before the weights")
    parser.add_argument("--never-ready", action="store_true")
    parser.add_argument("--ignore-term", action="store_true")
    parser.add_argument(
        "--family", action="store_true", help="grandchildren deaf to SIGTERM, in and out of the session"
    )
    parser.add_argument("--pids", default="", help="file that lists the pids of this family")
    parser.add_argument("--token-s", type=float, default=0.002)
    parser.add_argument("--slots", type=int, default=16, help="requests that run at once; others wait")
    parser.add_argument("--simulated", action="store_true")
    parser.add_argument("--echo-env", default="", help="print this variable into the log")
    return parser.parse_known_args()[0]


def log(text: str) -> None:
    """One line as sglang writes it."""
    sys.stderr.write(f"[{time.strftime('%Y-%m-%d %H:%M:%S')}] {text}\n")
    sys.stderr.flush()


def die(options: argparse.Namespace) -> None:
    """Say what a dying engine says, and die."""
    if options.die_with:
        sys.stderr.write(Path(options.die_with).read_text(errors="replace"))
        sys.stderr.flush()
    if options.die_code < 0:
        os.kill(os.getpid(), -options.die_code)
    os._exit(options.die_code)


def flood(size_mib: int) -> None:
    """The same warning, as fast as it goes."""
    text = b"[2026-01-01 00:00:00] a warning that repeats and repeats and says nothing at all\n"
    block = text * (2**20 // len(text))
    for _ in range(size_mib):
        sys.stderr.buffer.write(block)
    sys.stderr.flush()


def start_family(options: argparse.Namespace) -> None:
    """One child in our group, one in a session of its own, one whose parent is gone (double fork)."""
    pids = [os.getpid()]
    pids.append(subprocess.Popen([sys.executable, "-c", SLEEPER]).pid)
    pids.append(subprocess.Popen([sys.executable, "-c", SLEEPER], start_new_session=True).pid)
    forker = (
        "import subprocess,sys; "
        f"p = subprocess.Popen([sys.executable, '-c', {SLEEPER!r}], "
        "start_new_session=True, stdout=subprocess.DEVNULL); print(p.pid)"
    )
    done = subprocess.run([sys.executable, "-c", forker], stdout=subprocess.PIPE, text=True, check=True)
    pids.append(int(done.stdout))
    write_pids(options, pids)


def write_pids(options: argparse.Namespace, pids: list[int]) -> None:
    """Tell the test who belongs to this engine."""
    if options.pids:
        draft = Path(options.pids + ".new")
        draft.write_text(json.dumps(pids))
        draft.replace(options.pids)


class Server:
    """The paths a trial and its load ask for."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.requests = 0
        self.slots = asyncio.Semaphore(options.slots)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                method, path, headers = self.parse_head(head)
                body = await reader.readexactly(int(headers.get("content-length", 0)))
                await self.answer(method, path, body, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    def hangs(self) -> bool:
        return 0 < self.options.hang_after_requests < self.requests

    @staticmethod
    def parse_head(head: bytes) -> tuple[str, str, dict[str, str]]:
        first, *rest = head.decode().split("\r\n")
        method, path, _ = first.split(" ")
        pairs = (line.split(":", 1) for line in rest if ":" in line)
        return method, path.split("?")[0], {k.strip().lower(): v.strip() for k, v in pairs}

    async def answer(self, method: str, path: str, body: bytes, writer: asyncio.StreamWriter) -> None:
        if path in ("/health", "/health_generate"):
            self.send(writer, 503 if self.options.never_ready or self.hangs() else 200, b"")
        elif path in ("/server_info", "/get_server_info"):
            self.send_json(writer, self.info())
        elif path in ("/v1/completions", "/v1/chat/completions"):
            async with self.slots:
                await self.generate(path, json.loads(body), writer)
        elif path == "/v1/models":
            self.send_json(writer, {"object": "list", "data": [{"id": "fake", "max_model_len": 8192}]})
        elif path == "/v1/tokenize":
            texts = json.loads(body)["prompt"]
            self.send_json(writer, {"count": [len(text.split()) for text in texts]})
        elif path == "/metrics":
            self.send(writer, 200, b"# HELP sglang:num_running_reqs n\nsglang:num_running_reqs 0.0\n")
        elif path in ("/flush_cache", "/abort_request"):
            self.send(writer, 200, b"")
        else:
            self.send_json(writer, {"detail": "Not Found"}, 404)

    def info(self) -> dict[str, object]:
        info: dict[str, object] = {
            "version": "0.5.23",
            "tp_size": 1,
            "max_running_requests": self.options.slots,
            "api_key": "k-123456789",
        }
        info["internal_states"] = [
            {"effective_max_running_requests_per_dp": self.options.slots, "memory_usage": {"weight": 1.0}}
        ]
        if self.options.simulated:
            info["simulated"] = True
        return info

    async def generate(self, path: str, request: dict[str, object], writer: asyncio.StreamWriter) -> None:
        self.requests += 1
        if self.hangs():
            await asyncio.sleep(600)
        if self.options.die_at == "request" and self.requests >= self.options.die_after_requests:
            die(self.options)
        tokens = int(request.get("max_tokens") or request.get("max_completion_tokens") or 16)
        chat = path.endswith("chat/completions")
        text = request.get("prompt") or "".join(str(m["content"]) for m in request.get("messages", []))
        usage = {"prompt_tokens": max(1, len(str(text).split())), "completion_tokens": tokens}
        usage |= {"total_tokens": sum(usage.values()), "prompt_tokens_details": {"cached_tokens": 0}}
        if not request.get("stream"):
            await asyncio.sleep(self.options.token_s)
            choice = {"message": {"role": "assistant", "content": "a"}} if chat else {"text": "a"}
            self.send_json(writer, {"choices": [choice | {"index": 0, "finish_reason": "length"}], "usage": usage})
            return
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
        if chat:
            self.event(
                writer,
                {"choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}]},
            )
        for i in range(tokens):
            await asyncio.sleep(self.options.token_s)
            end = "length" if i == tokens - 1 else None
            choice = {"delta": {"content": "a "}} if chat else {"text": "a "}
            self.event(writer, {"choices": [choice | {"index": 0, "finish_reason": end}], "usage": None})
            await writer.drain()
        self.event(writer, {"choices": [], "usage": usage})
        self.chunk(writer, b"data: [DONE]\n\n")
        self.chunk(writer, b"")

    def event(self, writer: asyncio.StreamWriter, value: dict[str, object]) -> None:
        self.chunk(
            writer, b"data: " + json.dumps({"id": "x", "object": "chunk", "model": "fake"} | value).encode() + b"\n\n"
        )

    @staticmethod
    def chunk(writer: asyncio.StreamWriter, data: bytes) -> None:
        writer.write(b"%x\r\n%s\r\n" % (len(data), data))

    def send_json(self, writer: asyncio.StreamWriter, value: object, status: int = 200) -> None:
        self.send(writer, status, json.dumps(value).encode())

    @staticmethod
    def send(writer: asyncio.StreamWriter, status: int, body: bytes) -> None:
        head = f"HTTP/1.1 {status} X\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
        writer.write(head.encode() + body)


async def run(options: argparse.Namespace) -> None:
    """Serve until SIGTERM."""
    server = await asyncio.start_server(Server(options).serve, options.host, options.port, limit=2**24)
    if not options.never_ready:
        log("The server is fired up and ready to roll!")
    loop = asyncio.get_running_loop()
    if not options.ignore_term:
        loop.add_signal_handler(signal.SIGTERM, lambda: os._exit(0))
    async with server:
        await server.serve_forever()


def main() -> None:
    """Start as sglang starts, log line by log line."""
    options = parse()
    if options.ignore_term:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if options.echo_env:
        log(f"{options.echo_env}={os.environ.get(options.echo_env)}")
    if options.family:
        start_family(options)
    else:
        write_pids(options, [os.getpid()])
    if options.die_at == "start":
        die(options)
    flood(options.flood_mib)
    log("Load weight begin. avail mem=20.59 GB")
    if options.die_at == "weights":
        die(options)
    log("Load weight end. elapsed=0.27 s, type=Fake, avail mem=20.63 GB, mem usage=-0.03 GB.")
    log("Memory pool end. avail mem=20.58 GB")
    log("max_total_num_tokens=65536, chunked_prefill_size=4096, max_running_requests=16, context_len=8192")
    asyncio.run(run(options))


if __name__ == "__main__":
    main()
