"""`python -m tuner.simulator` as a real child process: start, serve, drain, and the ways it dies."""

from __future__ import annotations

import json
import os
import queue
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx
import pytest

import tuner
from tuner.simulator.serve import main

ROOT = str(Path(tuner.__file__).parents[1])
FIT = ["--model-path", "amd/GLM-5.2-MXFP4", "--tp-size", "4", "--mem-fraction-static", "0.85", "--port", "0"]


class Child:
    """The process, its stderr line by line, and its exit code."""

    def __init__(self, *argv):
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tuner.simulator", *argv],
            env={**os.environ, "PYTHONPATH": ROOT},
            stderr=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.lines = []
        self._queue = queue.Queue()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self):
        for line in self.process.stderr:
            self._queue.put(line.rstrip("\n"))

    def wait_for(self, sign, timeout_s=60.0):
        deadline = time.monotonic() + timeout_s
        while True:
            line = self._queue.get(timeout=max(0.01, deadline - time.monotonic()))
            self.lines.append(line)
            if sign in line:
                return line

    def end(self):
        code = self.process.wait(60)
        self._reader.join(60)
        while not self._queue.empty():
            self.lines.append(self._queue.get())
        return code

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.kill()
        self.end()
        self.process.stderr.close()
        self.process.stdout.close()


def start(*argv, scale="0"):
    return Child("--accelerator", "mi355x", "--startup-scale", scale, *argv)


def ready(child):
    line = child.wait_for("Uvicorn running on")
    child.wait_for("The server is fired up and ready to roll!")
    return re.search(r"http://[\d.:]+", line)[0]


def test_it_starts_serves_and_drains_on_sigterm():
    with start("--", "sglang", "serve", *FIT) as child:
        url = ready(child)
        body = {"prompt": "hello", "max_tokens": 80, "stream": True, "stream_options": {"include_usage": True}}
        with (
            httpx.Client(timeout=60, trust_env=False) as client,
            client.stream("POST", f"{url}/v1/completions", json=body) as answer,
        ):
            lines = answer.iter_lines()
            next(lines)
            child.process.send_signal(signal.SIGTERM)
            told = [line for line in lines if line.startswith("data: ")]
        assert child.end() == 0
        assert json.loads(told[-2].removeprefix("data: "))["usage"]["completion_tokens"] == 80
        log = "\n".join(child.lines)
    signs = ("server_args=", "Load weight begin", "Load weight end", "Memory pool end", "Capture cuda graph begin")
    signs += ("Capture cuda graph end", "max_total_num_tokens=", "Uvicorn running", "ready to roll", "Shutting down")
    places = [log.index(sign) for sign in signs]
    assert places == sorted(places)
    assert "{" not in re.sub(r"server_args=\{.*\}", "", log)


def test_nothing_listens_before_the_start_up_is_over():
    """Scaled to about four seconds: refused at first, then 503 during the warm-up, then ready."""
    with httpx.Client(timeout=60, trust_env=False) as client, start(*FIT[:-1], str(free_port()), scale="0.01") as child:
        url = f"http://127.0.0.1:{child.process.args[-1]}"
        child.wait_for("Load weight begin")
        with pytest.raises(httpx.ConnectError):
            client.get(f"{url}/health")
        child.wait_for("Uvicorn running on")
        assert client.get(f"{url}/health").status_code == 503
        child.wait_for("ready to roll")
        assert client.get(f"{url}/health").status_code == 200


def free_port():
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.mark.parametrize(
    ("argv", "code", "sign"),
    [
        ([*FIT, "--no-such-flag", "1"], 2, "sglang serve: error: unrecognized arguments: --no-such-flag 1"),
        ([*FIT, "--chunked-prefill-size", "1000"], 1, "AssertionError: chunked_prefill_size 1000 must be divisible"),
        ([*FIT, "--mem-fraction-static", "0.3"], -signal.SIGKILL, "Not enough memory. Please try to increase"),
        ([*FIT, "--tp-size", "3"], -signal.SIGKILL, "AssertionError: 154880 is not divisible by 3"),
        (["--fail", "checkpoint", *FIT], -signal.SIGKILL, "loaded_weight.shape="),
    ],
)
def test_failed_starts_end_with_sglangs_codes(argv, code, sign):
    with start(*argv) as child:
        assert child.end() == code
        assert any(sign in line for line in child.lines)


def test_a_crash_under_load_kills_the_process_and_cuts_the_connection():
    with start(*FIT, "--chunked-prefill-size", "131072") as child, httpx.Client(timeout=60, trust_env=False) as client:
        url = ready(child)
        ids = [list(range(20 + i, 40_020 + i)) for i in range(6)]
        with pytest.raises(httpx.RemoteProtocolError):
            client.post(f"{url}/v1/completions", json={"prompt": ids, "max_tokens": 5})
        assert child.end() == -signal.SIGKILL
        assert "Received sigquit from a child process" in child.lines[-1]
        assert any("torch.OutOfMemoryError: HIP out of memory" in line for line in child.lines)


def test_a_hang_that_was_asked_for_ends_by_the_watchdog():
    argv = ("--fail", "hang", *FIT, "--watchdog-timeout", "1")
    with start(*argv) as child, httpx.Client(timeout=60, trust_env=False) as client:
        url = ready(child)
        assert client.post(f"{url}/v1/completions", json={"prompt": "hello", "max_tokens": 1}).status_code == 200
        with pytest.raises(httpx.RemoteProtocolError):
            client.post(f"{url}/v1/completions", json={"prompt": list(range(4000)), "max_tokens": 5})
        assert child.end() == -signal.SIGKILL
        assert any("watchdog timeout (self.watchdog_timeout=1" in line for line in child.lines)


def test_a_taken_port_ends_with_code_1():
    with start(*FIT) as first:
        port = ready(first).rsplit(":", 1)[1]
        with start(*FIT[:-1], port) as second:
            assert second.end() == 1
            assert any("error while attempting to bind on address" in line for line in second.lines)


@pytest.mark.parametrize(
    ("argv", "code", "sign"),
    [
        (["--help"], 0, "usage: tuner engine"),
        (["--model-path", "m"], 2, "--accelerator is needed"),
        (["--accelerator", "mi355"], 2, "did you mean 'mi355x'"),
        (["--accelerator", "mi355x", "--world", "x"], 2, "--world needs a number"),
        (["--accelerator", "mi355x", "--fail", "oom", *FIT], 2, "--fail oom: no such failure"),
        (["--accelerator", "mi355x", "--startup-scale", "0"], 2, "sglang serve: error: "),
        (["--accelerator", "mi355x", "--startup-scale", "0", *FIT, "--ep", "8"], 1, "ValueError: "),
    ],
)
def test_the_command_explains_itself(argv, code, sign, capsys):
    assert main(argv) == code
    shown = capsys.readouterr()
    assert sign in shown.out + shown.err
