"""The engine in real time: what it tells its server beside the answers."""

from __future__ import annotations

import asyncio

from tuner.model.settings import EngineSettings
from tuner.simulator.driver import Driver
from tuner.simulator.engine import Engine, SimRequest
from tuner.simulator.startup_log import retracted


class Steps:
    tokens_per_verify = 1.0
    request_overhead_s = 0.0

    def prefill_s(self, new_tokens, context_tokens, total_tokens=0):
        return 1e-4

    def decode_s(self, batch, context_tokens):
        return 1e-4


def test_retractions_are_told_with_their_number():
    """Two answers of 60 tokens into a pool of 100: admitted together, one has to go back."""
    settings = EngineSettings(tp=1, precision="fp8", page_size=1, schedule_conservativeness=0.01)
    told = []

    async def run():
        driver = Driver(Engine(settings, Steps(), 100, 1, 0.0), 1, print, told.append)
        requests = [SimRequest(name, 10, 60) for name in ("a", "b")]

        async def serve(request):
            return [update.kind async for update in driver.generate(request, streaming=False)]

        ended = await asyncio.wait_for(asyncio.gather(*map(serve, requests)), 60)
        driver.close()
        return ended

    assert asyncio.run(run()) == [["finished"], ["finished"]]
    assert sum(told) >= 1
    assert "KV cache pool is full. Retract requests." in retracted(told[0])
