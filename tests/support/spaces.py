"""A small space file for tests, and edits of it."""

from __future__ import annotations

from pathlib import Path

SMALL = """\
version: 1
name: small
model: {architecture: glm-5.2}
pools:
  mi355x:
    accelerator: mi355x
    engine: {kind: sglang, version: "0.5.16"}
    image: lmsysorg/sglang-rocm:v0.5.16-rocm720-mi35x-20260728
    usd_per_gpu_hour: 2.10
workload:
  input_tokens: 4000
  output_tokens: 200
  cached_fraction: 0.5
  prefix_groups: 8
objective:
  subject_to: {ttft_p95_s: 5.0}
space:
  layout: {tp: [4, 8], dp: [1, 2], gpus: 8}
  weights:
    choice:
      mxfp4: {model: amd/GLM-5.2-MXFP4, args: {kv-cache-dtype: fp8_e4m3}}
      fp8: {model: zai-org/GLM-5.2-FP8, args: {kv-cache-dtype: fp8_e4m3}}
  max-running-requests: {values: [32, 64]}
  chunked-prefill-size: {values: [16384, 32768]}
  mem-fraction-static: 0.84
seeds:
  baseline: {layout: {tp: 8}, weights: fp8, max-running-requests: 64, chunked-prefill-size: 16384}
budget: {trials: 4}
confirm: {top: 1, repeats: 1, minutes: 2}
"""


def small_space(folder, *edits):
    """Write the small space with (old, new) text edits; every `old` must be there."""
    text = SMALL
    for old, new in edits:
        assert old in text, old
        text = text.replace(old, new, 1)
    path = Path(folder) / "space.yaml"
    path.write_text(text, encoding="utf-8")
    return path
