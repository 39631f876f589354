"""The two questions a trial asks the engine beside the load: do you generate, and what do you run with.

Knows sglang's paths. Never follows the environment's proxies: the engine is on loopback.
"""

from __future__ import annotations

from typing import Any

import httpx

# The handler runs a generation of one token, sleeps at least 1 s and waits for it up to 20 s
# (SGLANG_HEALTH_CHECK_TIMEOUT); a first generation may compile kernels, so it is simply asked again.
_GENERATE_S = 30.0
_INFO_S = 30.0


class HttpEngine:
    """An engine's control paths."""

    def __init__(self, base_url: str) -> None:
        self.base_url = base_url
        self._client = httpx.AsyncClient(base_url=base_url, trust_env=False)

    async def generates(self) -> bool:
        """Whether it generated a token just now; False also while nothing listens yet."""
        try:
            answer = await self._client.get("/health_generate", timeout=_GENERATE_S)
        except httpx.HTTPError:
            return False
        return answer.status_code == httpx.codes.OK

    async def server_info(self) -> dict[str, Any]:
        """The engine's own account of its configuration; {} if it gives none."""
        try:
            answer = await self._client.get("/server_info", timeout=_INFO_S)
            if answer.status_code == httpx.codes.NOT_FOUND:
                answer = await self._client.get("/get_server_info", timeout=_INFO_S)  # its name before 0.5.x
            info = answer.json()
        except (httpx.HTTPError, ValueError):
            return {}
        return info if isinstance(info, dict) else {}

    async def close(self) -> None:
        await self._client.aclose()
