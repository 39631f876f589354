"""The shape of a space file as pydantic models: types, ranges, unknown keys. Meaning is checked in `tuner.space.load`.

The JSON Schema in `search_spaces/space.schema.json` is what `python -m tuner.space.schema` prints.
"""

from __future__ import annotations

import json
import math
import sys
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Discriminator, Field, Tag, model_validator

from tuner.space.definitions import AcceleratorSpec, ArchitectureSpec
from tuner.space.fields import (
    CHOICE,
    DIMENSION,
    NAME,
    PARAMETER,
    EngineVersion,
    Env,
    Flags,
    FlagValue,
    Model,
    NotNegative,
    Plain,
    Positive,
    Seconds,
    Share,
    Text,
    Tokens,
    increasing,
    read_number,
)
from tuner.space.numeric import MAX_VALUES, Numeric, ParamSpec, expand, kind_of

_DRAFT = "https://json-schema.org/draft/2020-12/schema"


# --- pools


class Engine(Model):
    """Which serving engine, and which release of it: the release decides how flags are spelt."""

    kind: Literal["sglang"] = "sglang"
    version: EngineVersion
    command: list[Text] = Field(default_factory=list, description="program to start instead of sglang's own")


class Autoscale(Model):
    """The pool may scale from zero: an unschedulable trial waits this long."""

    wait: Seconds


class Volume(Model):
    """Where files live: a PersistentVolumeClaim or a folder of the node."""

    pvc: Text | None = None
    host_path: Text | None = None

    @model_validator(mode="after")
    def _one(self) -> Volume:
        if (self.pvc is None) == (self.host_path is None):
            raise ValueError("give exactly one of pvc and host_path")
        return self


class Files(Model):
    """Where the user's own files (prompts, traces) lie; trials see them read-only."""

    pvc: Text | None = None
    host_path: Text | None = None
    secret: Text | None = None
    config_map: Text | None = None

    @model_validator(mode="after")
    def _one(self) -> Files:
        if [self.pvc, self.host_path, self.secret, self.config_map].count(None) != 3:
            raise ValueError("give exactly one of pvc, host_path, secret and config_map")
        return self


class Pool(Model):
    """One kind of node, its price, and what every trial on it needs."""

    accelerator: Text
    engine: Engine
    image: Plain
    usd_per_gpu_hour: Positive
    exclusive: Annotated[bool, Field(description="a trial holds every GPU of its node, whatever it uses")] = True
    autoscale: Autoscale | None = None
    gpus_per_node: Annotated[int, Field(ge=1, le=64)] = 8
    max_nodes: Annotated[int, Field(ge=1, le=1000)] = 1
    billing: Literal["node", "gpu"] = "node"
    node_selector: dict[str, str] = Field(default_factory=dict)
    tolerations: list[dict[str, Any]] = Field(default_factory=list)
    image_pull_secrets: list[Text] = Field(default_factory=list)
    priority_class: Text | None = None
    context: Annotated[Text, Field(description="kubeconfig context of the pool's cluster")] | None = None
    namespace: Annotated[str, Field(pattern=NAME, max_length=63, description="where its trials run")] | None = None
    queue: (
        Annotated[str, Field(pattern=NAME, max_length=63, description="Kueue LocalQueue that admits trials")] | None
    ) = None
    model_cache: Volume | None = None
    compile_cache: Volume | None = None
    files: Files | None = None
    pod_patch: dict[str, Any] = Field(default_factory=dict)
    env: Env = Field(default_factory=dict)
    args: Flags = Field(default_factory=dict)


# --- workload and objective


class Uniform(Model):
    """Every length between the two ends, equally often."""

    uniform: Annotated[list[Tokens], Field(min_length=2, max_length=2), AfterValidator(increasing)]


class LognormalShape(Model):
    """Median in tokens, standard deviation of the logarithm, and the ends it is clipped to."""

    median: Tokens
    sigma: Annotated[float, Field(gt=0, le=3), BeforeValidator(read_number)]
    min: Tokens = 1
    max: Tokens

    @model_validator(mode="after")
    def _ordered(self) -> LognormalShape:
        if not self.min <= self.median <= self.max:
            raise ValueError("min <= median <= max must hold")
        return self


class Lognormal(Model):
    """Lengths whose logarithm is normal."""

    lognormal: LognormalShape


def _length_kind(value: Any) -> str:
    return kind_of(value, ("uniform", "lognormal"), "number")


LengthSpec = Annotated[
    Annotated[Tokens, Tag("number")] | Annotated[Uniform, Tag("uniform")] | Annotated[Lognormal, Tag("lognormal")],
    Discriminator(_length_kind),
]


class SamplingSpec(Model):
    """How answers are drawn."""

    temperature: Annotated[float, Field(ge=0, le=2), BeforeValidator(read_number)] = 1.0
    top_p: Annotated[float, Field(gt=0, le=1), BeforeValidator(read_number)] = 0.95
    ignore_eos: bool = True
    thinking: bool = True


class Prompts(Model):
    """Where prompts come from: the corpus that ships with the tuner, your own prompts, or a trace (JSON Lines).

    Names are relative to the space file. `block_tokens` are the tokens one of a trace's hash ids stands for.
    """

    corpus: Literal["builtin"] | None = None
    file: Plain | None = None
    trace: Plain | None = None
    block_tokens: Annotated[int, Field(ge=1, le=65_536)] = 512

    @model_validator(mode="after")
    def _one(self) -> Prompts:
        if len([source for source in (self.corpus, self.file, self.trace) if source is not None]) > 1:
            raise ValueError("give one of corpus, file and trace")
        if "block_tokens" in self.model_fields_set and self.trace is None:
            raise ValueError("block_tokens goes with trace")
        return self


class WorkloadSpec(Model):
    """The traffic to tune for. With a trace, lengths and sharing are the trace's."""

    input_tokens: LengthSpec | None = None
    output_tokens: LengthSpec | None = None
    cached_fraction: Share = 0.0
    prefix_groups: Annotated[int, Field(ge=1, le=10_000)] = 32
    arrivals: Literal["poisson", "constant", "trace"] = "poisson"
    endpoint: Literal["chat", "completions"] = "chat"
    sampling: SamplingSpec = Field(default_factory=SamplingSpec)
    prompts: Prompts = Field(default_factory=Prompts)


class TokenWeights(Model):
    """What counts as a token paid for."""

    output: NotNegative = 1.0
    input: NotNegative = 0.0
    cached_input: NotNegative = 0.0

    @model_validator(mode="after")
    def _something(self) -> TokenWeights:
        if self.output + self.input + self.cached_input <= 0:
            raise ValueError("at least one weight must be above 0")
        return self


class SubjectTo(Model):
    """Limits that must hold; times from the scheduled send."""

    ttft_p95_s: Positive | None = None
    tpot_p95_ms: Positive | None = None
    e2e_p95_s: Positive | None = None
    error_rate: Annotated[float, Field(ge=0, lt=1), BeforeValidator(read_number)] = 0.005

    @model_validator(mode="after")
    def _one_latency(self) -> SubjectTo:
        if self.ttft_p95_s is None and self.tpot_p95_ms is None and self.e2e_p95_s is None:
            raise ValueError("give at least one latency limit: ttft_p95_s, tpot_p95_ms or e2e_p95_s")
        return self


class Objective(Model):
    """What is minimised, subject to which limits."""

    minimize: Literal["usd_per_million_output_tokens"] = "usd_per_million_output_tokens"
    token_weights: TokenWeights = Field(default_factory=TokenWeights)
    subject_to: SubjectTo
    guard: Annotated[float, Field(ge=0, lt=0.5), BeforeValidator(read_number)] = 0.05


# --- the space itself


class LayoutSpec(Model):
    """Layouts to enumerate; `ep` may name `tp`. GPUs of a trial = tp x dp must be one of `gpus`."""

    tp: list[Annotated[int, Field(ge=1, le=64)]] = Field(min_length=1, max_length=16)
    dp: list[Annotated[int, Field(ge=1, le=64)]] = Field(default=[1], min_length=1, max_length=16)
    attn_dp: list[Annotated[int, Field(ge=1, le=64)]] = Field(default=[1], min_length=1, max_length=16)
    ep: list[Annotated[int, Field(ge=1, le=256)] | Literal["tp"]] = Field(default=[1], min_length=1, max_length=16)
    gpus: (
        Annotated[int, Field(ge=1, le=64)]
        | Annotated[list[Annotated[int, Field(ge=1, le=64)]], Field(min_length=1, max_length=16)]
    ) = 8


class Bundle(Model):
    """What one choice means: checkpoint, flags, environment, image; and parameters that exist only inside it."""

    model: Plain | None = None
    precision: Literal["bf16", "fp8", "mxfp4", "nvfp4"] | None = None
    pools: list[str] | None = Field(default=None, min_length=1)
    engine_version: EngineVersion | None = None
    image: Plain | None = None
    params: dict[Annotated[str, Field(pattern=PARAMETER)], ParamSpec] = Field(default_factory=dict)
    args: Flags = Field(default_factory=dict)
    env: Env = Field(default_factory=dict)

    @model_validator(mode="after")
    def _few(self) -> Bundle:
        count = math.prod(len(expand(spec)) for spec in self.params.values())
        if count > MAX_VALUES:
            raise ValueError(f"its parameters have {count} combinations, more than {MAX_VALUES}")
        return self

    def fits(self, pool: str) -> bool:
        """Whether it may be deployed on the pool."""
        return self.pools is None or pool in self.pools


class ChoiceSpec(Model):
    """Named bundles, one of which is taken."""

    choice: dict[Annotated[str, Field(pattern=CHOICE, max_length=40)], Bundle] = Field(min_length=1, max_length=100)


def _dimension_kind(value: Any) -> str:
    return kind_of(value, ("values", "int", "float", "choice"), "scalar")


DimensionSpec = Annotated[
    Numeric | Annotated[ChoiceSpec, Tag("choice")] | Annotated[FlagValue, Tag("scalar")], Discriminator(_dimension_kind)
]


class SpaceSection(BaseModel):
    """The layouts, and every other dimension by its name."""

    model_config = ConfigDict(
        extra="allow",
        frozen=True,
        strict=True,
        allow_inf_nan=False,
        json_schema_extra={"propertyNames": {"pattern": DIMENSION}},  # pydantic tells editors only of the values
    )
    __pydantic_extra__: dict[Annotated[str, Field(pattern=DIMENSION)], DimensionSpec]

    layout: LayoutSpec


# --- rules, seeds, budget


class Rule(Model):
    """What crosses bundles: `forbid` rejects a point before anything is deployed, `warn` marks it."""

    id: Annotated[str, Field(pattern=NAME, max_length=60)]
    forbid: Text | None = None
    warn: Text | None = None
    engine: Annotated[Text, Field(description="versions it holds for, such as >=0.5.14,<0.5.17")] | None = None
    why: Text
    source: Text | None = None

    @model_validator(mode="after")
    def _one(self) -> Rule:
        if (self.forbid is None) == (self.warn is None):
            raise ValueError("give exactly one of forbid and warn")
        return self


class BudgetSpec(Model):
    """What the search may use; whichever ends first, summed over resumes."""

    trials: Annotated[int, Field(ge=1, le=100_000)] | None = None
    wall: Seconds | None = None
    gpu_hours: Positive | None = None
    usd: Positive | None = None
    recheck_every: Annotated[int, Field(ge=2, le=1000)] | None = Field(
        default=None, description="measure the baseline again after so many trials of a pool, and once on every node"
    )


class ConfirmSpec(Model):
    """How the best are measured again before one is called the winner."""

    top: Annotated[int, Field(ge=0, le=20)] = 3
    repeats: Annotated[int, Field(ge=1, le=10)] = 2
    minutes: Positive = 10.0
    different_nodes: bool = True


class DeadlinesSpec(Model):
    """How long the phases of a trial may take; may change between resumes."""

    ready: Seconds = 3600.0
    first_token: Seconds = 600.0
    probe: Seconds = 1800.0
    stop: Seconds = 30.0
    memory_free: Seconds = 900.0


class ModelSpec(Model):
    """What the model knows of the served model: a name of the catalogue or of `architectures`, or a config.json."""

    architecture: Text


_Name = Annotated[str, Field(pattern=NAME, max_length=40)]


class SpaceFile(Model):
    """A whole space file."""

    version: Literal[1]
    name: Annotated[str, Field(pattern=NAME, max_length=20)]
    model: ModelSpec
    accelerators: dict[_Name, AcceleratorSpec] = Field(default_factory=dict)
    architectures: dict[Annotated[str, Field(pattern=CHOICE, max_length=40)], ArchitectureSpec] = Field(
        default_factory=dict
    )
    pools: dict[Annotated[str, Field(pattern=NAME, max_length=20)], Pool] = Field(min_length=1)
    workload: WorkloadSpec
    objective: Objective
    space: SpaceSection
    rules: list[Rule] = Field(default_factory=list)
    seeds: dict[Annotated[str, Field(pattern=NAME, max_length=40)], dict[str, Any]] = Field(default_factory=dict)
    budget: BudgetSpec = Field(default_factory=BudgetSpec)
    confirm: ConfirmSpec = Field(default_factory=ConfirmSpec)
    deadlines: DeadlinesSpec = Field(default_factory=DeadlinesSpec)


def json_schema() -> str:
    """The JSON Schema of a space file, for editors, as the text of `search_spaces/space.schema.json`."""
    document = SpaceFile.model_json_schema() | {"$schema": _DRAFT, "title": "tuner space file"}
    return json.dumps(document, indent=2, sort_keys=True) + "\n"


if __name__ == "__main__":
    sys.stdout.write(json_schema())
