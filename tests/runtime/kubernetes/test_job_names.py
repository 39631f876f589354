"""Names of Jobs: valid, short, and one per trial and attempt."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.trials import a_spec

from tuner.runtime.kubernetes import names
from tuner.space.config import Layout, ServingConfig
from tuner.study.starter import trial_name

DNS_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?")

identities = st.tuples(
    st.text(max_size=40) | st.from_regex(r"[a-z0-9-]{1,60}", fullmatch=True),
    st.integers(1, 10**6),
    st.text(min_size=1, max_size=20),
)


def spec_of(trial_id, attempt, study_uid):
    return replace(a_spec(), id=trial_id, attempt=attempt, context={"study_uid": study_uid})


@given(identities)
def test_a_name_is_a_dns_label_of_at_most_52_characters_whatever_the_trial_is_called(identity):
    name = names.job_name(spec_of(*identity))
    assert DNS_LABEL.fullmatch(name), name
    assert len(name) <= names.MOST_CHARS


@given(st.lists(identities, min_size=2, max_size=5, unique=True))
def test_different_trials_have_different_names(found):
    assert len({names.job_name(spec_of(*identity)) for identity in found}) == len(found)


def test_the_same_attempt_always_has_the_same_name():
    assert names.job_name(a_spec()) == names.job_name(a_spec())


def test_a_name_can_be_read_study_trial_fingerprint_attempt():
    spec = replace(a_spec(), id="glm52-mi355x-7-0d1f6c0e2b7a", attempt=2, context={"study_uid": "abc"})
    assert names.job_name(spec).startswith("glm52-mi355x-7-0d1f6c0e2b7a-2-")
    assert names.job_name(replace(spec, context={})) == "glm52-mi355x-7-0d1f6c0e2b7a-2"


def test_two_users_of_one_space_file_have_different_names_in_one_namespace():
    mine, yours = (spec_of("glm52-0-0d1f6c0e2b7a", 1, uid) for uid in ("mine", "yours"))
    assert names.job_name(mine) != names.job_name(yours)


@pytest.mark.parametrize("confirmation", [False, True])
def test_the_longest_name_a_study_makes_keeps_all_its_parts(confirmation):
    config = ServingConfig("mi355x", Layout(8), ())
    trial_id = trial_name("n" * 40, 999_999, config, confirmation=confirmation)
    assert names.job_name(spec_of(trial_id, 99, "uid")).startswith(f"{trial_id}-99-")


@given(st.text(max_size=100))
def test_a_label_value_is_one_that_the_api_takes(text):
    assert re.fullmatch(r"(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?", names.label_value(text))
    assert len(names.label_value(text)) <= 63


def test_another_specification_of_the_same_name_has_another_checksum():
    spec = a_spec()
    assert names.spec_sha256(spec) == names.spec_sha256(replace(spec))
    assert names.spec_sha256(spec) != names.spec_sha256(replace(spec, seed=1))
