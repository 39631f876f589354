"""A small two-pool space, edited by each test; `§` in an edit marks where the problem must be told."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from tuner.errors import Problem, SpaceError
from tuner.space.load import CheckFlag, load_space
from tuner.space.space import Space

BASE = """\
version: 1
name: demo
model: {architecture: glm-5.2}
pools:
  amd:
    accelerator: mi355x
    engine: {kind: sglang, version: "0.5.16"}
    image: repo/amd:1
    usd_per_gpu_hour: 2.5
    env: {SGLANG_USE_AITER: "1"}
    args: {trust-remote-code: true}
  nv:
    accelerator: b200
    engine: {version: "0.5.23"}
    image: repo/nv:1
    usd_per_gpu_hour: 4
    billing: gpu
workload:
  input_tokens: 2000
  output_tokens: 100
objective: {subject_to: {ttft_p95_s: 2.0}}
space:
  layout: {tp: [4, 8], dp: [1, 2], attn_dp: [1, 8], gpus: 8}
  weights:
    choice:
      fp8: {model: org/M-FP8}
      mxfp4: {model: org/M-MXFP4, pools: [amd]}
  speculation:
    choice:
      "off": {}
      mtp:
        params: {steps: {values: [1, 2, 3]}}
        args: {speculative-num-steps: "${steps}"}
  max-running-requests: {values: [64, 128]}
  mem-fraction-static: {float: [0.8, 0.84], step: 0.02}
  cuda-graph-max-bs: ${max_running_requests / layout.attn_dp}
rules:
  - id: shallow
    forbid: pool == 'nv' and speculation.steps > 2
    why: too deep there
seeds:
  baseline: {layout: {tp: 8}, weights: fp8, speculation: "off", max-running-requests: 64, mem-fraction-static: 0.8}
budget: {trials: 4}
"""

Edits = Mapping[str, str]


def permissive(_version: str, _flag: str, _value: object) -> None:
    """A flag check that takes everything."""


class Desk:
    """Loads edited texts from one scratch file, shown as `f.yaml`."""

    base = BASE

    def __init__(self, path: Path) -> None:
        self.path = path

    def load(self, text: str, check_flag: CheckFlag = permissive) -> Space:
        self.path.write_bytes(text.encode("utf-8", "surrogatepass"))
        return load_space(self.path, check_flag, shown_as="f.yaml")

    def problems(self, text: str, check_flag: CheckFlag = permissive) -> list[Problem]:
        """What is wrong with a text; empty when it loads. Every problem must be one line that names the file."""
        try:
            self.load(text, check_flag)
        except SpaceError as error:
            return self._told(error)
        return []

    @staticmethod
    def _told(error: SpaceError) -> list[Problem]:
        assert error.problems
        assert len(str(error).splitlines()) == len(error.problems)
        assert all(str(p).startswith("f.yaml:") for p in error.problems)
        return error.problems

    def edited(self, edits: Edits) -> str:
        text = BASE
        for old, new in edits.items():
            assert text.count(old) == 1, f"{old!r} stands {text.count(old)} times"
            text = text.replace(old, new)
        return text

    def space(self, edits: Edits) -> Space:
        return self.load(self.edited(edits))

    def expect(self, edits: Edits, words: str, check_flag: CheckFlag = permissive) -> None:
        """The edited base has exactly one problem: at `§` (nowhere when there is none), with these words."""
        marked = self.edited(edits)
        before = marked.partition("§")[0]
        place = (before.count("\n") + 1, len(before) - before.rfind("\n")) if "§" in marked else (0, 0)
        found = self.problems(marked.replace("§", ""), check_flag)
        assert [(p.line, p.column) for p in found] == [place], found
        assert words in found[0].message


@pytest.fixture(scope="session")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Desk:
    return Desk(tmp_path_factory.mktemp("space") / "scratch.yaml")


@pytest.fixture(scope="session")
def shipped() -> Callable[[str], Space]:
    folder = Path(__file__).parents[2] / "search_spaces"
    return lambda name: load_space(folder / name, permissive)
