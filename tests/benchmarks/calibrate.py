"""Fits the engine model's constants to published measurements, and shows how well it does on what it was not given.

    python tests/benchmarks/calibrate.py [--write] [--seeds 20] [--no-ladder]

Least squares over the logarithms of the nine constants in `tuner/model/data/calibration.json`. Residuals are the
logarithm of predicted over measured, in units of a row's expected error; every constant is also pulled towards a prior,
so that a constant the rows say little about stays where physics puts it. Then each series (hardware, precision,
speculation) is left out in turn and predicted from the others, and so is everything that shares one of the three.
The Wafer ladder gives one row (TTFT p50 at 0.5 req/s); its other rows are compared with the simulator.
`--write` replaces the shipped constants.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from scipy.optimize import least_squares
from scipy.stats import spearmanr

from tuner.model import calibration as shipped
from tuner.model.calibration import Calibration, from_doc
from tuner.model.catalogue import accelerator, architecture
from tuner.model.load import LoadCurves
from tuner.model.memory import plan_memory
from tuner.model.standard import standard_settings
from tuner.model.steps import RooflineSteps
from tuner.model.table import StepTable
from tuner.runtime.steady import REQUESTS, Laboratory, Load
from tuner.space.workload import Length, Limits, Workload

DATA = Path(__file__).parent / "data"

# Prior of each constant and its relative uncertainty. Efficiencies of a data sheet's peak: 0.5 to 0.7 is what good
# kernels reach; launches: some 10 to 20 kernels of 5 to 8 us a layer, about 8 more in an indexer.
PRIORS: dict[str, tuple[float, float]] = {
    "read_efficiency": (0.7, 0.15),
    "gemm_efficiency": (0.5, 0.3),
    "expert_efficiency": (0.3, 0.4),
    "indexer_overhead_us": (50, 0.3),
    "fp8_layer_us": (25, 0.4),
    "layer_overhead_us_amd": (120, 0.3),
    "layer_overhead_us_nvidia": (120, 0.3),
    "gather_efficiency_amd": (0.4, 0.5),
    "gather_efficiency_nvidia": (0.5, 0.5),
}
# The two vendors' stacks are built alike: their constants are expected within this of each other.
TIES = {"layer_overhead_us": 0.25, "gather_efficiency": 0.5}
THROUGHPUT_ERROR, IDLE_ERROR = 0.05, 0.02

WAFER = Workload(Length.fixed(20_000), Length.fixed(1000), cached_fraction=0.6, prefix_groups=32)
FIXED = Workload(Length.fixed(8192), Length.fixed(1024))


@dataclass(frozen=True)
class Row:
    """One measurement: which series it is of, what was seen, how exactly it is expected, how it is predicted."""

    series: tuple[str, str, str]
    label: str
    measured: float
    error: float
    predict: Callable[[Calibration], float]

    def residual(self, constants: Calibration) -> float:
        return self.predict(constants) / self.measured - 1


def read(name: str) -> list[dict[str, str]]:
    """One data file."""
    with (DATA / name).open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def throughput_rows() -> list[Row]:
    """GLM-5 8k/1k at fixed concurrency: input and output tokens per second and GPU."""
    return [
        Row(
            (raw["hardware"], raw["precision"], raw["spec"]),
            f"{raw['hardware']} {raw['precision']} {raw['spec']} tp{float(raw['tp']):.0f} c{raw['conc']}",
            float(raw["tput_per_gpu"]),
            THROUGHPUT_ERROR,
            _closed_loop(raw),
        )
        for raw in read("glm5_8k1k.csv")
    ]


def _closed_loop(raw: dict[str, str]) -> Callable[[Calibration], float]:
    arch, acc = architecture(raw["model"]), accelerator(raw["hardware"])
    concurrency, tokens = float(raw["conc"]), float(raw["isl"]) + float(raw["osl"])
    settings = standard_settings(
        arch,
        acc,
        precision=raw["precision"].lower(),  # type: ignore[arg-type]  # the data's own names
        tp=int(float(raw["tp"])),
        speculation_steps=3 if raw["spec"] == "mtp" else 0,  # the recipes' EAGLE 3-1-4
        concurrency=concurrency,
        max_context_tokens=int(tokens),
    )
    kv_tokens = plan_memory(arch, acc, settings, int(tokens)).kv_capacity_tokens

    def predict(constants: Calibration) -> float:
        table = StepTable([RooflineSteps(arch, acc, settings, constants).coefficients])
        point = LoadCurves(table, [settings], FIXED, [kv_tokens]).closed(concurrency)
        return float(point.rate[0]) * tokens / settings.gpus

    return predict


def decode_rows() -> list[Row]:
    """GLM-5.2 decode of a fixed batch: output tokens per second."""
    arch, acc = architecture("glm-5.2"), accelerator("mi355x")
    settings = standard_settings(arch, acc, precision="fp8", tp=8)

    def row(raw: dict[str, str]) -> Row:
        batch, context = int(raw["batch"]), float(raw["isl"]) + 512
        label = f"MI355X FP8 none tp8 GLM-5.2 decode of {batch}"
        return Row(
            ("MI355X", "FP8", "none"),
            label,
            float(raw["output_tok_s"]),
            THROUGHPUT_ERROR,
            lambda constants: batch / RooflineSteps(arch, acc, settings, constants).decode_s(batch, context),
        )

    return [row(raw) for raw in read("glm52_mi355x_decode.csv")]


def idle_row() -> Row:
    """Wafer at 0.5 req/s: the one row of its ladder that is fitted."""
    raw = next(r for r in read("wafer_glm52_ladder.csv") if r["hardware"] == "mi355x" and r["rps"] == "0.5")
    arch, acc = architecture("glm-5.2"), accelerator("mi355x")
    settings = standard_settings(arch, acc, precision="mxfp4", tp=4, dp=2, speculation_steps=3)

    def predict(constants: Calibration) -> float:
        table = StepTable([RooflineSteps(arch, acc, settings, constants).coefficients])
        return float(LoadCurves(table, [settings], WAFER, [3_000_000]).at_rate(0.5).ttft_p50_s[0])

    return Row(
        ("MI355X", "MXFP4", "mtp"),
        "MI355X MXFP4 mtp TTFT p50 at 0.5 req/s",
        float(raw["ttft_p50_s"]),
        IDLE_ERROR,
        predict,
    )


def fit(rows: Sequence[Row]) -> dict[str, float]:
    """The constants that leave the least squares of residuals and priors."""
    names = list(PRIORS)
    start = np.log([PRIORS[n][0] for n in names])

    def residuals(x: np.ndarray) -> list[float]:
        doc = dict(zip(names, np.exp(x).tolist(), strict=True))
        constants = from_doc(doc)
        out = [math.log(row.predict(constants) / row.measured) / row.error for row in rows]
        out += [math.log(doc[n] / prior) / share for n, (prior, share) in PRIORS.items()]
        return out + [math.log(doc[f"{n}_amd"] / doc[f"{n}_nvidia"]) / share for n, share in TIES.items()]

    found = least_squares(residuals, start)
    return {n: float(f"{v:.4g}") for n, v in zip(names, np.exp(found.x), strict=True)}


def summary(rows: Sequence[Row], constants: Calibration) -> tuple[float, float, float]:
    """Mean and largest absolute error, and Spearman's rank correlation."""
    errors = [abs(row.residual(constants)) for row in rows]
    rank = spearmanr([row.predict(constants) for row in rows], [row.measured for row in rows]).statistic
    return statistics.mean(errors), max(errors), float(rank)


def main() -> None:
    """Fit, print the tables, write if asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true", help="replace the shipped constants")
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--no-ladder", action="store_true", help="skip the simulated Wafer ladder")
    asked = parser.parse_args()
    throughput = throughput_rows()
    every = [*throughput, *decode_rows(), idle_row()]
    doc = fit(every)
    constants = from_doc(doc)
    print("constants (prior):")
    for name, value in doc.items():
        print(f"  {name:26} {value:8.4g}  ({PRIORS[name][0]:g} +- {PRIORS[name][1]:.0%})")
    print("\nresiduals:")
    for row in every:
        value, off = row.predict(constants), row.residual(constants)
        print(f"  {row.label:46} measured {row.measured:8.5g}  predicted {value:8.5g}  {off:+.1%}")
    mean, worst, rank = summary(throughput, constants)
    print(f"  throughput rows: mean absolute error {mean:.1%}, largest {worst:.1%}, Spearman {rank:.3f}")
    _left_out(throughput, every)
    if asked.write:
        _write(doc)
    if not asked.no_ladder:
        _ladder(asked.seeds)


def _left_out(throughput: Sequence[Row], every: Sequence[Row]) -> None:
    print("\nleft out of the fit, then predicted (mean and largest absolute error, Spearman):")
    for series in dict.fromkeys(row.series for row in throughput):
        _one_left_out(" ".join(series), lambda row, s=series: row.series == s, throughput, every)
    print("and everything left out that shares one word:")
    for part in range(3):
        for word in dict.fromkeys(row.series[part] for row in throughput):
            _one_left_out(f"all {word}", lambda row, i=part, w=word: row.series[i] == w, throughput, every)


def _one_left_out(name: str, out: Callable[[Row], bool], throughput: Sequence[Row], every: Sequence[Row]) -> None:
    constants = from_doc(fit([row for row in every if not out(row)]))
    mean, worst, rank = summary([row for row in throughput if out(row)], constants)
    print(f"  {name:22} {mean:6.1%} {worst:6.1%}  {rank:.3f}")


def _write(doc: dict[str, float]) -> None:
    file = Path(shipped.__file__).parent / "data" / shipped.FILE
    note = "written by tests/benchmarks/calibrate.py --write; what each constant means: tuner/model/calibration.py"
    whole = {"schema_version": 1, "note": note, "constants": doc}
    file.write_text(json.dumps(whole, indent=2) + "\n", encoding="utf-8")
    print(f"\nwrote {file.name}")


def _ladder(seeds: int) -> None:
    """The Wafer ladder by the simulator, with the shipped constants.

    Its cap on running requests, chunk and draft depth are not published: the standard settings stand in (96 a replica,
    8192, three steps; recipes have 80 to 256 and 8192 to 131072).
    """
    arch, acc = architecture("glm-5.2"), accelerator("mi355x")
    settings = standard_settings(
        arch, acc, precision="mxfp4", tp=4, dp=2, speculation_steps=3, max_context_tokens=21_000
    )
    laboratory = Laboratory(arch, acc, settings, WAFER)
    print(f"\nWafer ladder, simulated, mean of {seeds} seeds of {REQUESTS} requests (measured, difference):")
    for raw in read("wafer_glm52_ladder.csv"):
        if raw["hardware"] != "mi355x":
            continue
        seen = laboratory.hold(Load(rate_req_per_s=float(raw["rps"])), runs=seeds)
        p50, p95 = float(raw["ttft_p50_s"]), float(raw["ttft_p95_s"])
        print(
            f"  {raw['rps']:>5} req/s  p50 {seen.ttft_p50_s:.2f} s ({p50:.2f}, {seen.ttft_p50_s / p50 - 1:+.0%})"
            f"  p95 {seen.ttft_p95_s:.2f} s ({p95:.2f}, {seen.ttft_p95_s / p95 - 1:+.0%})"
        )
    for cap in (80, 96, 128):
        lab = Laboratory(arch, acc, replace(settings, max_running_requests=cap), WAFER)
        found = [lab.capacity(Limits(ttft_p95_s=5.0), seed=seed) for seed in range(seeds)]
        print(
            f"  capacity at TTFT p95 <= 5 s with {cap} running a replica: {statistics.mean(found):.2f} req/s"
            f" ({min(found):.2f} to {max(found):.2f}; measured: above 2.4)"
        )


if __name__ == "__main__":
    main()
