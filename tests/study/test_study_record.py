"""What the database holds after each kind of trial, read back by Optuna alone."""

from __future__ import annotations

import dataclasses

import optuna
import pytest
from sqlalchemy import event
from sqlalchemy.engine import Engine
from support.problems import (
    ENGINE_DEFAULT,
    a_config,
    a_problem,
    dimensions,
    failed,
    infeasible,
    make_spec,
    measured,
    raced_out,
)

from tuner.space.config import Layout
from tuner.study.history import read_history
from tuner.study.lock import Ownership
from tuner.study.problem import TokenWeights
from tuner.study.record import Pick, Recorder
from tuner.study.storage import open_storage
from tuner.study.verdict import judge
from tuner.study.writer import Writer
from tuner.trial.spec import TrialSpec

KEYS = {"ttft_p95_s", "error_rate", "failure"}


@pytest.fixture
def storage(database):
    opened = open_storage(database)
    optuna.create_study(study_name="demo", storage=opened.backend)
    yield opened
    opened.close()


@pytest.fixture
def recorder(storage):
    owner = Ownership(storage, "demo")
    owner.begin()
    yield Recorder(storage, "demo", dimensions(), TokenWeights(), Writer(owner))
    owner.release()


def begin(recorder, config=None, origin="sampler"):
    config = config or a_config()
    number = recorder.ask(Pick(config, origin))
    spec = make_spec(config, f"demo-{number}-{config.fingerprint}", 1, 7, None, None)
    recorder.commit(number, spec)
    return number, spec


def stored(database, number):
    """Through a connection of its own, as any other program would read it."""
    storage = open_storage(database)
    try:
        return optuna.load_study(study_name="demo", storage=storage.backend).trials[number]
    finally:
        storage.close()


@pytest.mark.parametrize(
    ("make", "state", "keys", "sign", "word"),
    [
        (measured, "COMPLETE", KEYS, {"ttft_p95_s": -1, "error_rate": 0, "failure": 0}, "measured"),
        (infeasible, "PRUNED", KEYS, {"ttft_p95_s": 1, "error_rate": 0, "failure": 0}, "infeasible"),
        (raced_out, "PRUNED", KEYS, {"ttft_p95_s": -1, "error_rate": 0, "failure": 0}, "pruned"),
        (failed, "PRUNED", KEYS, {"ttft_p95_s": 0, "error_rate": 0, "failure": 1}, "failed"),
        (lambda s: failed(s, "infrastructure", "evicted"), "FAIL", set(), {}, "failed"),
        (lambda s: failed(s, "measurement", "client_bound"), "FAIL", set(), {}, "invalid"),
    ],
)
def test_states_and_constraints_of_every_class(database, recorder, make, state, keys, sign, word):
    number, spec = begin(recorder)
    recorder.finish(number, spec, make(spec))
    trial = stored(database, number)
    assert trial.state.name == state
    assert set(trial.constraints) == keys
    assert {key: (value > 0) - (value < 0) for key, value in trial.constraints.items()} == sign
    assert trial.user_attrs["state"] == word
    assert trial.user_attrs["result"] == make(spec).as_json()
    assert TrialSpec.from_json(trial.user_attrs["spec"]) == spec
    if state == "COMPLETE":
        assert trial.value == trial.user_attrs["usd_per_million_output_tokens"]


def test_attributes_are_few_and_readable(database, recorder):
    number, spec = begin(recorder, origin="seed:baseline")
    recorder.finish(number, spec, measured(spec, 1.23456789))
    attrs = stored(database, number).user_attrs
    assert attrs["config"] == a_config().as_json()
    assert attrs["fingerprint"] == a_config().fingerprint
    assert (attrs["origin"], attrs["attempt"], attrs["simulated"]) == ("seed:baseline", 1, True)
    assert (attrs["capacity_req_per_s"], attrs["ttft_p95_s"], attrs["node"]) == (1.23457, 4.2, "node-1")
    assert len(attrs) <= 16


def test_parameters_are_the_readable_point(database, recorder):
    inside, _ = begin(recorder)
    outside, _ = begin(recorder, ENGINE_DEFAULT, "seed:engine-default")
    assert stored(database, inside).params == {
        "layout": "tp8",
        "weights": "fp8",
        "speculation": "off",
        "max-running-requests": 128,
        "mem-fraction-static": 0.84,
    }
    assert stored(database, outside).params == {}


def test_a_raced_out_trial_reports_its_bound_for_tpe_and_keeps_it_out_of_costs(database, recorder):
    number, spec = begin(recorder)
    past = recorder.finish(number, spec, raced_out(spec))
    trial = stored(database, number)
    bound = trial.user_attrs["bound_usd_per_million_output_tokens"]
    assert trial.intermediate_values == {0: bound}
    assert past.usd_per_million is None
    assert past.bound_usd_per_million == bound


def test_the_best_trial_is_the_cheapest_feasible_one(database, recorder, storage):
    """Optuna's own reading of the study agrees with ours."""
    for running, make in ((32, measured), (64, infeasible), (256, raced_out), (128, measured)):
        number, spec = begin(recorder, a_config(running=running))
        recorder.finish(number, spec, make(spec))
    assert optuna.load_study(study_name="demo", storage=storage.backend).best_trial.number == 3


def test_a_trial_costs_four_commits(recorder):
    """Each waits for the disk, and 32 trials may end at once."""
    changed, commits = set(), []

    def note(connection, _cursor, statement, *_args):
        if not statement.startswith("SELECT"):
            changed.add(connection)

    def count(connection):
        if connection in changed:
            changed.remove(connection)
            commits.append(connection)

    event.listen(Engine, "before_cursor_execute", note)
    event.listen(Engine, "commit", count)
    try:
        number, spec = begin(recorder)
        recorder.finish(number, spec, measured(spec, 2.0))
    finally:
        event.remove(Engine, "before_cursor_execute", note)
        event.remove(Engine, "commit", count)
    assert len(commits) == 4  # ask, spec, result, tell


def bound_of(recorder, number):
    return recorder.history()[number].bound_usd_per_million


def test_what_a_running_trial_has_shown_is_kept_while_it_runs_and_only_gets_tighter(database, recorder):
    number, spec = begin(recorder)
    least = raced_out_bound(spec, 2.0)
    for rate, known in ((2.0, least), (2.5, least), (1.6, least / 0.8)):
        recorder.note_shown(number, spec, rate)
        assert bound_of(recorder, number) == pytest.approx(known)
        assert stored(database, number).state.name == "RUNNING"
    recorder.commit(number, dataclasses.replace(spec, attempt=2))
    assert bound_of(recorder, number) is None, "the former attempt's"
    recorder.finish(number, spec, measured(spec, 1.5))
    recorder.note_shown(number, spec, 1.0)
    assert bound_of(recorder, number) is None, "a measured trial has a cost"
    assert stored(database, number).user_attrs["shown"]["bound_req_per_s"] == 1.6


def raced_out_bound(spec, rate):
    """What a trial that was dropped at this rate would cost at least."""
    verdict = judge(dataclasses.replace(raced_out(spec), bound_req_per_s=rate), spec, TokenWeights())
    return verdict.bound_usd_per_million


def test_what_was_shown_is_at_todays_price(storage, recorder):
    number, spec = begin(recorder)
    recorder.note_shown(number, spec, 2.0)
    storage.backend.set_study_user_attr(1, "usd_per_hour", {spec.fingerprint: 2 * spec.usd_per_hour})
    (trial,) = read_history(optuna.load_study(study_name="demo", storage=storage.backend))
    assert trial.bound_usd_per_million == pytest.approx(2 * raced_out_bound(spec, 2.0))


@pytest.mark.parametrize("factor", [0.5, 2.0])
def test_a_changed_price_makes_no_bound_look_tighter_or_weaker(database, storage, factor):
    owner = Ownership(storage, "demo")
    owner.begin()
    written = []
    try:
        former = Recorder(storage, "demo", dimensions(), TokenWeights(), Writer(owner))
        number, spec = begin(former)
        former.note_shown(number, spec, 2.0)
        storage.backend.set_study_user_attr(1, "usd_per_hour", {spec.fingerprint: factor * spec.usd_per_hour})
        recorder = Recorder(storage, "demo", dimensions(), TokenWeights(), Writer(owner, written.append))
        for rate in (2.0, 1.9):
            recorder.note_shown(number, spec, rate)
    finally:
        owner.release()
    assert written == ["before shown", "after shown"], "the tighter one only"
    assert stored(database, number).user_attrs["shown"]["bound_req_per_s"] == 1.9


def test_finishing_twice_tells_once(database, recorder):
    number, spec = begin(recorder)
    first = recorder.finish(number, spec, measured(spec, 2.0))
    again = recorder.finish(number, spec, measured(spec, 9.0))
    assert again == first
    assert stored(database, number).user_attrs["capacity_req_per_s"] == 2.0


def test_a_stored_result_wins_over_a_later_one(database, recorder, storage):
    """The controller died after storing; whatever is reported now, the study's word stands."""
    number, spec = begin(recorder)
    trial_id = storage.backend.get_trial_id_from_study_id_trial_number(1, number)
    storage.backend.set_trial_user_attr(trial_id, "result", measured(spec, 2.0).as_json())
    assert [trial.number for trial in recorder.finish_told_halfway()] == [number]
    assert stored(database, number).user_attrs["capacity_req_per_s"] == 2.0


def test_a_trial_an_older_controller_told_bit_by_bit_is_finished_from_where_it_was(database, recorder, storage):
    number, spec = begin(recorder)
    trial = optuna.Trial(recorder.study, storage.backend.get_trial_id_from_study_id_trial_number(1, number))
    trial.set_user_attr("result", measured(spec, 2.0).as_json())
    trial.set_constraint("ttft_p95_s", -0.8)
    trial.set_user_attr("capacity_req_per_s", 2.0)
    assert [ended.number for ended in recorder.finish_told_halfway()] == [number]
    told = stored(database, number)
    assert (told.state.name, told.user_attrs["state"], told.user_attrs["node"]) == ("COMPLETE", "measured", "node-1")
    assert set(told.constraints) == KEYS


def test_a_trial_queued_by_another_program_is_left_to_it(database, recorder, storage):
    """This study chooses for itself: whatever waits there neither runs nor counts."""
    study = optuna.load_study(study_name="demo", storage=storage.backend)
    study.enqueue_trial({"layout": "tp4-dp2", "weights": "mxfp4"})
    number, _ = begin(recorder)
    assert number == 1
    assert stored(database, 0).state.name == "WAITING"
    assert stored(database, 1).params["layout"] == "tp8"
    assert [(trial.state, trial.counted) for trial in recorder.history()] == [("abandoned", False), ("running", False)]


def test_history_reads_back_what_was_recorded(recorder):
    number, spec = begin(recorder)
    recorder.finish(number, spec, failed(spec, kind="crash", recognised=False))
    recorder.ask(Pick(a_config(running=32), "sampler"))
    crash, running = read_history(recorder.study)
    assert (crash.state, crash.counted, crash.recognised, crash.failure_kind) == ("failed", True, False, "crash")
    assert (crash.failure_class, crash.node, crash.pool) == ("configuration", "node-1", "mi355x")
    assert crash.gpu_hours == pytest.approx(800 / 3600)
    assert crash.usd == pytest.approx(100 / 3600 * 16.8)
    assert (running.state, running.finished, running.spec) == ("running", False, None)
    assert crash.config.fingerprint == a_config().fingerprint
    assert a_problem().pools == ("mi355x",)


@pytest.mark.parametrize(
    ("second", "same"), [("aaa", 0), ("bbb", None), (None, None)], ids=["the same", "others", "not told"]
)
def test_trials_whose_engines_ran_the_same_settings_are_noted(database, recorder, second, same):
    """`--max-running-requests 512` and 256 may both end as 256: only the engine tells."""
    configs = (a_config(), a_config(), dataclasses.replace(a_config(), layout=Layout(4, 2)))
    for config, told in zip(configs, ("aaa", "aaa", second), strict=True):
        number, spec = begin(recorder, config)
        effective = {"fingerprint": told} if told else {}
        ended = recorder.finish(number, spec, measured(spec, 2.0, effective=effective))
    assert ended.same_as == same
    assert [t.same_as for t in read_history(recorder.study)] == [None, None, same]  # a repetition is no duplicate
    assert stored(database, number).user_attrs.get("same_as") == same


def test_what_a_recorder_knows_is_what_the_database_holds_at_every_write(storage):
    """It reads again only what it wrote itself."""
    seen = []

    def compare(name):
        if name.startswith("before"):
            seen.append(name)
            known = recorder.history()
            assert known == read_history(recorder.study)[: len(known)], name

    owner = Ownership(storage, "demo")
    owner.begin()
    recorder = Recorder(storage, "demo", dimensions(), TokenWeights(), Writer(owner, compare))
    one, two = begin(recorder), begin(recorder, a_config(weights="mxfp4"))
    recorder.finish(*two, raced_out(two[1]))
    recorder.study.enqueue_trial({"weights": "fp8"})  # another program
    recorder.study.enqueue_trial({"weights": "fp8"})
    begin(recorder, a_config(weights="mxfp4", running=32))
    recorder.finish(*one, measured(one[1]))
    recorder.finish_told_halfway()
    assert recorder.history() == read_history(recorder.study)
    assert recorder.next_number() == 5
    assert len(seen) == 10  # three asks and specs, two results and tells
    owner.release()
