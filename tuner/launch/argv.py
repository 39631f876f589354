"""A deployment as a command line: the measured arguments, byte for byte, and the plumbing apart from them.

Knows spellings through a `Dialect`; decides nothing about hardware. Every flag is spelled in full, every value is an
item of its own, and the order is fixed, so that equal deployments give equal bytes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tuner.errors import UsageError
from tuner.launch.dialect import Dialect, canonical, dialect, format_value, reserved_flag
from tuner.space.config import Layout, Scalar
from tuner.space.deployment import Deployment

PORT_PLACEHOLDER = "{port}"
"""Stands for the port in a `TrialSpec`'s argv: the runner picks a free one and calls `fill_port`."""

# The engine draws a random seed when none is given; a fixed one makes repeated probes comparable.
RANDOM_SEED = 42

# After the layout, in this order; then whatever else was asked for, by name; the seed last.
_FIRST = (
    "kv-cache-dtype",
    "mem-fraction-static",
    "chunked-prefill-size",
    "max-running-requests",
    "cuda-graph-max-bs-decode",
    "speculative-algorithm",
    "speculative-num-steps",
    "speculative-eagle-topk",
    "speculative-num-draft-tokens",
)
_DECODE_GRAPHS_DECIDED = ("cuda-graph-bs-decode", "disable-decode-cuda-graph", "disable-cuda-graph")


@dataclass(frozen=True, slots=True)
class Command:
    """What to start: `args` are the measured arguments without the program, `env` joins the engine's environment."""

    program: tuple[str, ...]
    args: tuple[str, ...]
    env: Mapping[str, str]
    engine_version: str

    @property
    def argv(self) -> tuple[str, ...]:
        """Program and measured arguments, no plumbing."""
        return self.program + self.args


def measured_flags(deployment: Deployment) -> dict[str, Scalar]:
    """Canonical flag -> value of everything measured, in the order it is rendered, derived flags filled in.

    Attention DP is always `attn-dp-size` here; `render` respells it. A seed with `only` gets nothing but what it names.
    """
    given = {canonical(name): value for name, value in deployment.flags.items()}
    fixed = {"model-path": deployment.model, **_layout_flags(deployment.config.layout)}
    if deployment.config.only:
        wanted = {_ONLY.get(name, canonical(name)) for name in deployment.config.only}
        return {name: value for name, value in (fixed | given).items() if name in wanted}
    _derive_speculation(given)
    _derive_graph_cap(given, deployment.config.layout.attn_dp)
    seed = given.pop("random-seed", RANDOM_SEED)
    flags: dict[str, Scalar] = dict(fixed)
    for name in _FIRST:
        if name in given:
            flags[name] = given.pop(name)
    flags.update(sorted(given.items()))
    flags["random-seed"] = seed
    return flags


_ONLY = {"model": "model-path", "tp": "tp-size", "dp": "dp-size", "attn_dp": "attn-dp-size", "ep": "ep-size"}


def _layout_flags(layout: Layout) -> dict[str, Scalar]:
    return {"tp-size": layout.tp, "dp-size": layout.dp, "attn-dp-size": layout.attn_dp, "ep-size": layout.ep}


def _derive_speculation(given: dict[str, Scalar]) -> None:
    """The whole triple: with one branch the engine forces draft tokens to steps + 1 anyway."""
    steps = given.get("speculative-num-steps")
    if isinstance(steps, int) and given.setdefault("speculative-eagle-topk", 1) == 1:
        given.setdefault("speculative-num-draft-tokens", steps + 1)


def _derive_graph_cap(given: dict[str, Scalar], attn_dp: int) -> None:
    """Decode graphs are captured per attention-DP rank, but the engine clamps its default to the global number."""
    running = given.get("max-running-requests")
    if isinstance(running, int) and not any(given.get(name) for name in _DECODE_GRAPHS_DECIDED):
        given.setdefault("cuda-graph-max-bs-decode", max(1, -(-running // attn_dp)))


def render(deployment: Deployment) -> Command:
    """The command line of a deployment in its engine's dialect.

    Raises:
        UsageError: a flag or value that this engine version does not have, or a flag that users may not set.
    """
    owned = next(filter(None, map(reserved_flag, deployment.flags)), None)
    if owned:
        raise UsageError(owned)
    speaks = dialect(deployment.engine_version)
    args = spelled(speaks, measured_flags(deployment))
    return Command(deployment.command or speaks.program, args, dict(deployment.env), deployment.engine_version)


def spelled(speaks: Dialect, flags: Mapping[str, Scalar]) -> tuple[str, ...]:
    """Canonical flags as arguments of one dialect, in the order given."""
    args: list[str] = []
    for name, value in (flags if speaks.spells_attn_dp_size else _old_attention_dp(flags)).items():
        args += _spelled_flag(speaks, name, value)
    return tuple(args)


def _old_attention_dp(flags: Mapping[str, Scalar]) -> dict[str, Scalar]:
    """`--attn-dp-size N` as `--dp-size N --enable-dp-attention`, in place."""
    groups = flags.get("attn-dp-size", 1)
    if groups != 1 and flags.get("dp-size", 1) != 1:
        raise UsageError(f"dp {flags['dp-size']} with attention dp {groups}: sglang has no such layout; set one to 1")
    old: dict[str, Scalar] = {}
    for name, value in flags.items():
        if name == "attn-dp-size":
            if groups != 1:
                old |= {"dp-size": groups, "enable-dp-attention": True}
        else:
            old[name] = value
    return old


def _spelled_flag(speaks: Dialect, name: str, value: Scalar) -> list[str]:
    problem = speaks.check_flag(name, value)
    spelling = speaks.spell(name)
    if problem or spelling is None:
        raise UsageError(problem or name)
    flag = speaks.flags[spelling]
    if not flag.takes_value:
        if value is True:
            return [f"--{spelling}"]
        return [f"--no-{spelling}"] if flag.kind == "optional-bool" else []
    text = format_value(speaks.spell_value(name, value))
    return [f"--{spelling}", *(text.split() if flag.nargs else [text])]


def plumbing(speaks: Dialect, *, host: str, port: int | str, served_model_name: str | None = None) -> tuple[str, ...]:
    """What a target needs to reach and watch the engine; not part of what was measured."""
    flags: dict[str, Scalar] = {"enable-metrics": True, "enable-cache-report": True}
    if served_model_name is not None:
        flags["served-model-name"] = served_model_name
    return ("--host", host, "--port", str(port), *spelled(speaks, flags))


def with_plumbing(command: Command, host: str, port: int | str = PORT_PLACEHOLDER) -> tuple[str, ...]:
    """The full argv: program, measured arguments, plumbing."""
    return command.argv + plumbing(dialect(command.engine_version), host=host, port=port)


def fill_port(argv: Sequence[str], port: int) -> tuple[str, ...]:
    """An argv with the port the runner picked."""
    return tuple(str(port) if item == PORT_PLACEHOLDER else item for item in argv)
