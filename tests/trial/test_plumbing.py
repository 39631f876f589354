from __future__ import annotations

import socket

from tuner.trial.plumbing import effective_of, free_port, plumbing


def test_plumbing_is_loopback_metrics_and_cache_report():
    assert plumbing(31001) == ("--host", "127.0.0.1", "--port", "31001", "--enable-metrics", "--enable-cache-report")


def test_a_free_port_can_be_bound_and_is_below_the_ephemeral_range():
    port = free_port()
    with socket.socket() as server:
        server.bind(("127.0.0.1", port))
    assert 1024 < port + 1000 < 32768


INFO = {
    "version": "0.5.23",
    "tp_size": 8,
    "dp_size": 2,
    "api_key": "hidden",
    "max_running_requests": 32,
    "quantization": None,
    "internal_states": [{"effective_max_running_requests_per_dp": 16, "memory_usage": {"weight": 1.5}}] * 2,
}


def test_effective_keeps_what_matters_and_no_keys():
    effective = effective_of(INFO)
    assert effective == {
        "version": "0.5.23",
        "tp_size": 8,
        "dp_size": 2,
        "max_running_requests": 32,
        "memory_usage": {"weight": 1.5},
    }


def test_an_engine_without_memory_figures_is_taken_as_it_is():
    assert effective_of({"version": "0.5.23", "internal_states": [{"memory_usage": None}]}) == {"version": "0.5.23"}
    assert effective_of({"internal_states": "?"}) == {}
