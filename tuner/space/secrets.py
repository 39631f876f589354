"""What looks like a secret: the one rule for exports, logs and results.

Judges names alone, never values: `looks_secret`. Python 3.10, standard library.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

# Wherever it stands in a name, also at the end of a word: PGPASSWORD, CLIENT_SECRET_BASE.
_ANYWHERE = re.compile(r"(?:APIKEY|CREDENTIALS?|PASSPHRASE|PASSWD|PASSWORD|SECRETS?)$")
# Only as the last word: HF_TOKEN and --api-key are secrets, --speculative-token-map and MAX_TOKENS are not.
_AT_THE_END = frozenset({"AUTH", "AUTHORIZATION", "BEARER", "KEY", "PAT", "TOKEN"})
# These make a key a secret whatever follows: AWS_ACCESS_KEY_ID, WATERMARK_KEY_B.
_KEYS = re.compile(r"(?:^|_)(?:ACCESS|API|PRIVATE|WATERMARK)_?KEY(?:_|$)")

_CAMEL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")
# A shorter value is a word that may stand anywhere ("true", "none"): replacing it would garble whole logs.
_VALUE_CHARS = 8


def looks_secret(name: str) -> bool:
    """Whether an environment variable, a flag or a field of this name would hold a secret."""
    words = [word for word in re.split(r"[^A-Z0-9]+", _CAMEL.sub("_", name).upper()) if word]
    while len(words) > 1 and words[-1].isdigit():  # HF_TOKEN_2
        words.pop()
    if not words:
        return False
    return words[-1] in _AT_THE_END or any(map(_ANYWHERE.search, words)) or bool(_KEYS.search("_".join(words)))


def secret_values(env: Mapping[str, str]) -> tuple[str, ...]:
    """Values that must not appear in any text, the longest first: those of variables whose names say so."""
    found = {value for name, value in env.items() if len(value) >= _VALUE_CHARS and looks_secret(name)}
    return tuple(sorted(found, key=lambda value: (-len(value), value)))


def masked(value: Any, secrets: Sequence[str]) -> Any:
    """The document without these secrets, wherever in its texts they stand. Keys are ours and stay."""
    if isinstance(value, str):
        for secret in secrets:
            value = value.replace(secret, "***")
        return value
    if isinstance(value, Mapping):
        return {key: masked(item, secrets) for key, item in value.items()}
    return [masked(item, secrets) for item in value] if isinstance(value, (list, tuple)) else value
