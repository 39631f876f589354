"""How one sglang version spells its launch flags, and what it accepts.

Users may write a flag by its newest name ("canonical") or by an older one; the dialect maps it to what the pinned
engine understands. Knows no deployment and no hardware.
"""

from __future__ import annotations

import difflib
import functools
from collections.abc import Mapping
from dataclasses import dataclass

from tuner.errors import UsageError
from tuner.launch.flags import EXPECTS, READERS, Flag, VersionKey, flag_table, version_key
from tuner.space.config import Scalar

# (canonical name, older name, last version for which the older one is written). Both existed for a while; the switch
# is made where the newer one is known to work: sglang 0.5.13 brought --dsa-*, 0.5.20 refuses --cuda-graph-max-bs as
# an ambiguous prefix. Seen in the parsers of the sampled wheels.
_RENAMES: tuple[tuple[str, str, VersionKey], ...] = (
    ("dsa-prefill-backend", "nsa-prefill-backend", (0, 5, 12)),
    ("dsa-decode-backend", "nsa-decode-backend", (0, 5, 12)),
    ("cuda-graph-max-bs-decode", "cuda-graph-max-bs", (0, 5, 18)),
    ("cuda-graph-bs-decode", "cuda-graph-bs", (0, 5, 18)),
    ("cuda-graph-max-bs-prefill", "piecewise-cuda-graph-max-tokens", (0, 5, 13)),
    ("cuda-graph-bs-prefill", "piecewise-cuda-graph-tokens", (0, 5, 13)),
    ("disable-prefill-cuda-graph", "disable-piecewise-cuda-graph", (0, 5, 13)),
)
_OLD_SPELLING = {canonical: (old, until) for canonical, old, until in _RENAMES}

# `--attn-dp-size N` replaced `--dp-size N --enable-dp-attention` (sglang 0.5.22, the first sampled version with it).
_ATTN_DP_SIZE_SINCE: VersionKey = (0, 5, 22)

# `python3 -m sglang.launch_server` warns in favour of `sglang serve` in every sampled wheel, 0.5.10.post1 included,
# so no known dialect needs the older program; a pool that does gives its own `command`.
_PROGRAM = ("sglang", "serve")

_ATTENTION_BACKENDS = ("attention-backend", "prefill-attention-backend", "decode-attention-backend")

_LAYOUT = "the layout decides it; set it under `space.layout`"
_PLUMBING = "it is plumbing that the runner and the export render for their target"
_ONE_NODE = "a trial is one engine on one node"
_SECRET = "a secret on a command line ends up in logs; reference it as an environment variable from a Secret"  # noqa: S105 - a message
_RESERVED: dict[str, str] = {
    **dict.fromkeys(("tp-size", "dp-size", "attn-dp-size", "enable-dp-attention", "ep-size", "tp", "dp"), _LAYOUT),
    "pp-size": "layouts have no pipeline parallelism, and GPUs are counted as tp x dp",
    "model-path": "the checkpoint is the `model` of a weights bundle",
    **dict.fromkeys(("host", "port", "served-model-name", "enable-metrics", "enable-cache-report"), _PLUMBING),
    **dict.fromkeys(("fastapi-root-path", "ssl-keyfile", "ssl-certfile", "ssl-ca-certs"), _PLUMBING),
    **dict.fromkeys(("grpc-mode", "smg-grpc-mode", "use-ray"), "the probe measures the engine's own HTTP server"),
    **dict.fromkeys(("nnodes", "node-rank", "dist-init-addr", "base-gpu-id", "gpu-id-step"), _ONE_NODE),
    **dict.fromkeys(("disaggregation-mode", "encoder-only"), f"{_ONE_NODE}: no disaggregation yet"),
    **dict.fromkeys(("api-key", "admin-api-key", "ssl-keyfile-password"), _SECRET),
    "log-requests": "it writes prompts into the log, and logs are kept with the trial",
    "config": "flags hidden in a file cannot be checked or exported; write them under `args`",
}


@functools.cache
def _canonical_names() -> dict[str, str]:
    """Every known spelling -> its canonical name, where the two differ."""
    table = flag_table().flags
    names = {alias: flag.name for flag in table.values() for alias in flag.aliases}
    return names | {old: canonical for canonical, old, _ in _RENAMES}


def canonical(name: str) -> str:
    """`expert-parallel-size` -> `ep-size`, `nsa-decode-backend` -> `dsa-decode-backend`; unknown names stay."""
    bare = name.removeprefix("--")
    return _canonical_names().get(bare, bare)


def reserved_flag(name: str) -> str | None:
    """Who owns a flag that space files must not set, and what to do instead; None: users may set it."""
    owner = _RESERVED.get(canonical(name))
    return f"`{name}` is not set in a space file: {owner}" if owner else None


def format_value(value: Scalar) -> str:
    """The one text of a value on every command line; floats keep the shortest text that reads back the same."""
    return repr(value) if isinstance(value, float) else str(value)


@dataclass(frozen=True, slots=True)
class Dialect:
    """What sglang `version` accepts. `flags` holds the spellings that version has; made by `dialect(version)`."""

    version: str
    key: VersionKey
    flags: Mapping[str, Flag]
    program: tuple[str, ...] = _PROGRAM

    @property
    def spells_attn_dp_size(self) -> bool:
        """True: `--attn-dp-size N`; False: `--dp-size N --enable-dp-attention`."""
        return self.key >= _ATTN_DP_SIZE_SINCE

    def spell(self, name: str) -> str | None:
        """This version's spelling of a flag, without dashes; None where it has none."""
        wanted = canonical(name)
        old, until = _OLD_SPELLING.get(wanted, ("", (0, 0, 0)))
        if self.key <= until:
            wanted = old
        return wanted if wanted in self.flags else None

    def also_called(self, spelling: str) -> tuple[str, ...]:
        """The other names of a renamed flag that this version takes too: one of them is a deprecated alias."""
        pairs = [(new, old) for new, old, _ in _RENAMES if spelling in (new, old)]
        return tuple(name for pair in pairs for name in pair if name != spelling and name in self.flags)

    def spell_value(self, name: str, value: Scalar) -> Scalar:
        """Up to 0.5.12 the attention backend `dsa` was called `nsa`."""
        if canonical(name) not in _ATTENTION_BACKENDS or value != "dsa":
            return value
        allowed = self.flags[canonical(name)].choices_in(self.key) or ()
        return "nsa" if "dsa" not in allowed else value

    def check_flag(self, name: str, value: object) -> str | None:
        """Why this version would refuse `--name value`, with the nearest thing it has; None when it would not.

        A `value` of None is not known yet (an expression): only the name is looked at.
        """
        spelling = self.spell(name)
        if spelling is None:
            return self._unknown(name)
        if value is None:
            return None
        flag = self.flags[spelling]
        if not flag.takes_value:
            return None if isinstance(value, bool) else f"`{name}` takes no value, only true or false; got {value!r}"
        if isinstance(value, bool) or not isinstance(value, int | float | str):
            return f"`{name}` needs {EXPECTS.get(flag.kind, 'one value')}; got {str(value).lower()}"
        text = format_value(self.spell_value(name, value))
        items = text.split() if flag.nargs else [text]
        problems = (self._check_item(name, flag, item) for item in items)
        return next((problem for problem in problems if problem), None)

    def _check_item(self, name: str, flag: Flag, text: str) -> str | None:
        try:
            READERS.get(flag.kind, str)(text)
        except ValueError:
            return f"`{name}` needs {EXPECTS[flag.kind]}; got {text!r}"
        if text.startswith("-") and flag.kind not in ("int", "float"):
            return f"`{name}`: {text!r} would be read as another flag"
        allowed = flag.choices_in(self.key)
        if allowed is None or text in allowed:
            return None
        near = difflib.get_close_matches(text, allowed, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        return f"`{name}`: sglang {self.version} has no choice {text!r}{hint} (one of {', '.join(allowed)})"

    def _unknown(self, name: str) -> str:
        elsewhere = flag_table().flags.get(canonical(name))
        if elsewhere is not None:
            when = f"it came with {_text(elsewhere.first)}"
            if elsewhere.last is not None and self.key > elsewhere.last:
                when = f"it was last seen in {_text(elsewhere.last)}"
            return f"`{name}` is no flag of sglang {self.version}: {when}"
        near = difflib.get_close_matches(name.replace("_", "-"), self._writable(), n=1)
        hint = f"; did you mean `{near[0]}`?" if near else ""
        return f"`{name}` is no flag of sglang {self.version}{hint}"

    def _writable(self) -> list[str]:
        """Names a user may write, canonical ones for renamed flags."""
        return sorted({canonical(spelling) for spelling in self.flags})


def _text(key: VersionKey) -> str:
    return ".".join(map(str, key))


@functools.cache
def dialect(version: str) -> Dialect:
    """The dialect of an engine version; a version newer than the newest known one speaks the newest dialect.

    Raises:
        UsageError: the version cannot be read, or is older than the oldest known one.
    """
    key, table = version_key(version), flag_table()
    if key is None:
        raise UsageError(f"engine version {version!r} cannot be read: write it like 0.5.16 or 0.5.13.post1")
    if key < table.oldest:
        raise UsageError(
            f"sglang {version} is older than {_text(table.oldest)}, the oldest version whose flags are known: "
            "use a newer image"
        )
    key = min(key, table.newest)
    return Dialect(version, key, {name: flag for name, flag in table.flags.items() if flag.exists_in(key)})
