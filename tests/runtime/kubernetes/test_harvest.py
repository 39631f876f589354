"""What is made of a trial's message and log: the whole result, what is left of it, or nothing."""

from __future__ import annotations

from dataclasses import asdict, replace

import pytest
from support.trials import a_spec

from tuner.probe.measurement import Level
from tuner.runtime.kubernetes.harvest import harvest, is_checkpoint
from tuner.trial.compact import compact
from tuner.trial.records import lines_of
from tuner.trial.result import Failure, TrialResult

SPEC = a_spec()
LEVELS = tuple(
    Level(number, "open", float(number), None, 0.0, 30.0, 100, 0, 0, 0.3, 0.5, 20.0, 25.0, 800.0, "holds")
    for number in (1, 2, 3)
)
MEASURED = TrialResult(
    SPEC.id, "measured", capacity_req_per_s=3.0, ttft_p95_s=0.5, output_tokens_per_s=24.0, levels=LEVELS, node="pod-1"
)
KILLED = TrialResult(
    SPEC.id, "failed", failure=Failure("infrastructure", "interrupted", "the trial was killed"), levels=LEVELS[:1]
)
BEGIN = ("begin", {"id": SPEC.id, "attempt": SPEC.attempt, "fingerprint": SPEC.fingerprint})


def log_of(*records):
    return "".join(f"{line}\n" for number, record in enumerate(records, 1) for line in lines_of(number, *record))


def levels(*found):
    return [("level", asdict(level)) for level in found]


WHOLE = log_of(BEGIN, *levels(*LEVELS), ("result", MEASURED.as_json()))


@pytest.mark.parametrize(
    ("message", "log"),
    [
        (compact(MEASURED), WHOLE),
        (compact(KILLED), WHOLE),  # the last write of the message was lost
        ("", WHOLE),
        (None, WHOLE),
        ("The container could not be located when the pod was terminated", WHOLE),
        (compact(MEASURED), log_of(BEGIN, *levels(*LEVELS))),
        (compact(MEASURED), None),
        (compact(MEASURED), "unable to retrieve container logs for containerd://0123"),
        (compact(MEASURED)[:-1] + "�", WHOLE),
        (compact(MEASURED), "2026-08-28T10:00:00Z noise\n" + WHOLE.partition("\n")[2]),  # rotated: the first is gone
    ],
)
def test_the_whole_result_is_found_in_either_place(message, log):
    result = harvest(SPEC, message=message, log=log)
    assert (result.state, result.capacity_req_per_s) == ("measured", 3.0)
    assert [level.rate_req_per_s for level in result.levels] == [1.0, 2.0, 3.0]
    assert not is_checkpoint(result)


def test_a_killed_trial_leaves_its_finished_levels_and_says_that_it_was_cut_short():
    result = harvest(SPEC, message=compact(KILLED), log=log_of(BEGIN, *levels(*LEVELS[:2])))
    assert (result.state, result.failure.failure_class) == ("failed", "infrastructure")
    assert result.levels == LEVELS[:2]
    assert is_checkpoint(result)


def test_levels_in_the_log_alone_are_a_partial_result():
    result = harvest(SPEC, message="", log=log_of(BEGIN, *levels(*LEVELS[:2])))
    assert (result.id, result.state, result.failure.failure_class) == (SPEC.id, "failed", "infrastructure")
    assert result.levels == LEVELS[:2]
    assert is_checkpoint(result)


def test_the_message_keeps_its_own_levels_where_the_log_has_fewer():
    result = harvest(SPEC, message=compact(MEASURED), log=log_of(BEGIN, *levels(*LEVELS[:1])))
    assert [level.rate_req_per_s for level in result.levels] == [1.0, 2.0, 3.0]


@pytest.mark.parametrize(
    ("message", "log"),
    [
        (None, None),
        ("", ""),
        ("The container could not be located when the pod was terminated", ""),
        ("", "unable to retrieve container logs for containerd://0123"),
        ("python3: can't open file", "python3: can't open file '/opt/sglang-tuner/bundle/launch.py'"),
        (compact(replace(MEASURED, id="demo-0002-abcdef012345")), None),
        (None, log_of(("begin", {**BEGIN[1], "attempt": 2}), ("result", MEASURED.as_json()))),
        (None, log_of(("begin", {**BEGIN[1], "id": "other"}), *levels(*LEVELS))),
        (compact(MEASURED)[:300], None),
        (None, WHOLE.splitlines()[0][:-3]),
    ],
)
def test_nothing_is_made_of_texts_that_are_not_this_attempts(message, log):
    assert harvest(SPEC, message=message, log=log) is None


def test_records_that_are_whole_but_make_no_sense_are_left_out():
    log = log_of(BEGIN, ("level", {"unknown": 1}), *levels(*LEVELS[:1]), ("result", {"id": SPEC.id, "state": "odd"}))
    assert harvest(SPEC, message=None, log=log).levels == LEVELS[:1]


def test_the_cluster_says_which_node_and_which_image_it_was():
    result = harvest(SPEC, message=compact(MEASURED), log=WHOLE, node="node-7", image_digest="sha256:12")
    assert (result.node, result.image_digest) == ("node-7", "sha256:12")
    assert harvest(SPEC, message=None, log=WHOLE).node == "pod-1"


def test_an_engine_that_failed_by_itself_is_no_checkpoint():
    failed = replace(KILLED, failure=Failure("configuration", "bad_flag", "unrecognized arguments"))
    assert not is_checkpoint(harvest(SPEC, message=compact(failed), log=None))
