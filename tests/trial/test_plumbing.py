from __future__ import annotations

import socket

from tuner.trial.plumbing import free_port, plumbing


def test_plumbing_is_loopback_metrics_and_cache_report():
    assert plumbing(31001) == ("--host", "127.0.0.1", "--port", "31001", "--enable-metrics", "--enable-cache-report")


def test_a_free_port_can_be_bound_and_is_below_the_ephemeral_range():
    port = free_port()
    with socket.socket() as server:
        server.bind(("127.0.0.1", port))
    assert 1024 < port + 1000 < 32768
