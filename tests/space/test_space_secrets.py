from __future__ import annotations

import pytest

from tuner.space.secrets import looks_secret, masked, secret_values


@pytest.mark.parametrize(
    ("name", "secret"),
    [
        ("HF_TOKEN", True),
        ("HF_TOKEN_2", True),
        ("HUGGING_FACE_HUB_TOKEN", True),
        ("AWS_SECRET_ACCESS_KEY", True),
        ("AWS_ACCESS_KEY_ID", True),
        ("OPENAI_API_KEY", True),
        ("WANDB_APIKEY", True),
        ("PGPASSWORD", True),
        ("db_password", True),
        ("GOOGLE_APPLICATION_CREDENTIALS", True),
        ("watermark_key_b", True),
        ("adminApiKey", True),
        ("Authorization", True),
        ("--api-key", True),
        ("--admin-api-key", True),
        ("--ssl-keyfile-password", True),
        ("--max-total-tokens", False),
        ("--speculative-token-map", False),
        ("--speculative-num-draft-tokens", False),
        ("--skip-tokenizer-init", False),
        ("--ssl-keyfile", False),
        ("SGLANG_USE_AITER", False),
        ("SGLANG_DEEPEP_NUM_MAX_DISPATCH_TOKENS_PER_RANK", False),
        ("KEYBOARD", False),
        ("KeyError", False),
        ("key_cache", False),
        ("2", False),
        ("", False),
    ],
)
def test_secrets_are_told_by_name(name, secret):
    assert looks_secret(name) is secret


def test_values_are_those_of_such_names_the_longest_first_and_no_short_words():
    """A secret that begins another one must not leave the other's rest behind."""
    env = {"HF_TOKEN": "hf_12345678", "A_TOKEN": "hf_123456789", "PATH": "/usr/bin:/bin", "B_TOKEN": "true"}
    assert secret_values(env) == ("hf_123456789", "hf_12345678")


def test_a_masked_document_has_no_secret_and_is_else_the_same():
    document = {"a": ["x hf_12345678 y", 1, None, {"b": ("hf_12345678", True)}], "hf": 0.5}
    assert masked(document, ("hf_12345678",)) == {"a": ["x *** y", 1, None, {"b": ["***", True]}], "hf": 0.5}
    assert masked("text", ()) == "text"
