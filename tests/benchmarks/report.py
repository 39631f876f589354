"""How long a report takes and how large it is: 100 and 1,000 synthetic trials, written straight to a database.

Fails when 1,000 trials take more than 5 s, or the page of 100 trials is larger than 300 KB.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
import warnings
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import optuna
from optuna.trial import TrialState, create_trial
from support.problems import a_problem, make_spec
from support.studies import mixed

from tuner.report.facts.study_report import gather
from tuner.report.page.document import page
from tuner.study.opening import IDENTITY, PLAN, _plan
from tuner.study.problem import TokenWeights
from tuner.study.storage import open_storage
from tuner.study.summary import read_summary
from tuner.study.verdict import judge, stored_result

MOST_S, MOST_BYTES = 5.0, 300_000


def synthetic(url: str, count: int) -> None:
    """A study of so many trials, as a search would have left it."""
    problem = a_problem()
    storage = open_storage(url)
    study = optuna.create_study(study_name="demo", storage=storage.backend, direction="minimize")
    study.set_user_attr(PLAN, _plan(problem))
    study.set_user_attr(IDENTITY, {"simulated": True})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        study.add_trials([_trial(problem, i) for i in range(count)])
    storage.close()


def _trial(problem, i):
    config = problem.candidates[i % len(problem.candidates)].config
    spec = make_spec(config, f"demo-{i}-{config.fingerprint}", 1, i, 1.2 if i > 5 else None, None)
    result = mixed(spec)
    verdict = judge(result, spec, TokenWeights())
    attrs = {
        "config": config.as_json(),
        "fingerprint": config.fingerprint,
        "origin": "sampler",
        "proposal": {"predicted_usd_per_million": 4.0, "predicted_sd": 0.1, "noise_sd": 0.03},
        "spec": json.loads(json.dumps(spec.as_json() | {"context": {**spec.context, "predicted_req_per_s": 1.1}})),
        "result": stored_result(result),
        "state": verdict.state,
        "failure": verdict.failure,
        "usd_per_million_output_tokens": verdict.value,
        "bound_usd_per_million_output_tokens": verdict.bound_usd_per_million,
    }
    return create_trial(
        state=TrialState[verdict.told],
        value=verdict.value,
        user_attrs={k: v for k, v in attrs.items() if v is not None},
        constraints=dict(verdict.constraints),
    )


def main() -> int:
    good = True
    for count in (100, 1000):
        with tempfile.TemporaryDirectory() as folder:
            url = f"sqlite:///{folder}/demo.db"
            synthetic(url, count)
            started_s = time.perf_counter()
            text = page(gather(read_summary(url)))
            took_s = time.perf_counter() - started_s
        size = len(text.encode())
        print(f"{count} trials: {took_s:.2f} s, {size / 1000:.0f} KB")
        good &= took_s <= MOST_S and (count > 100 or size <= MOST_BYTES)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
