"""Credentials in URLs and flags are hidden, and nothing else is touched."""

import sys
import time

import pytest
from absl import flags
from hypothesis import given
from hypothesis import strategies as st

from beam_jobs import shard
from hpa_proto import redaction
from hpa_proto.errors import ConfigError, DatasetError, FovError


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("s3://AKIA:se/cr+et@bucket/x", "s3://***@bucket/x"),
        ("--images=https://me:pw@host:80/a.csv --seed=1", "--images=https://***@host:80/a.csv --seed=1"),
        ("https://token@host/a", "https://***@host/a"),
        ("read 'https://host/a?X-Amz-Signature=abc%3D&v=2'", "read 'https://host/a?X-Amz-Signature=***&v=***'"),
        ("simplecache::s3://k:s@b/x and s3://k:s@b/y", "simplecache::s3://***@b/x and s3://***@b/y"),
        ("s3://k:s@b/x,s3://k:s@b/y", "s3://***@b/x,s3://***@b/y"),
        ("https://me:p@SECRET@host/x", "https://***@host/x"),
        ("""'https://me:p'q"r@host/x'""", "'https://***@host/x'"),
        ("https:/me:pw@host/x", "https:/***@host/x"),
        ("https://host/a;sig=abc", "https://host/a;sig=***"),
        ("https://host/a?v=1;sig=abc#access_token=abc", "https://host/a?v=***;sig=***#access_token=***"),
        ("(https://host/a?sig=a,b): not there", "(https://host/a?sig=***): not there"),
        ("unknown flag --s3_session_token=abc --seed=1", "unknown flag --s3_session_token=*** --seed=1"),
        ("--api-key abc --seed=1", "--api-key *** --seed=1"),
    ],
)
def test_credentials_are_hidden(text, shown):
    assert redaction.redact(text) == shown
    assert redaction.redact(shown) == shown


@pytest.mark.parametrize(
    "text",
    [
        "s3://bucket/plate 1/fov_red.png",
        "gs://bucket/*/fov-?_red.png",
        "a/local@path/x?y=1",
        "mail me@host, see https://host/a",
        "C:/data/x",
        "line 3: 12:30@noon",
        "--keep_aspect_ratio=no --sort_key=area --monkey=a --enable_hot_key_logging --seed=1",
        "no token: --password",
    ],
)
def test_what_is_no_credential_stays(text):
    assert redaction.redact(text) == text


SECRETS = st.text(alphabet="abcXYZ0123456789/+=-_.~%@'\",;", min_size=3)


@given(SECRETS, st.sampled_from(["s3", "https", "gs", "sftp"]))
def test_no_password_gets_through(secret, scheme):
    shown = redaction.redact(f"error: {scheme}://user:Q{secret}Q@host/x: not there")
    assert shown == f"error: {scheme}://***@host/x: not there"


@given(SECRETS, st.sampled_from("?&;#"))
def test_no_value_of_a_query_gets_through(secret, mark):
    shown = redaction.redact(f"error: https://host/x?v=1{mark}sig=Q{secret}Q: not there")
    assert "Q" not in shown
    assert shown.startswith("error: https://host/x?v=***")
    assert shown.endswith("***: not there")


@pytest.mark.parametrize(
    ("arguments", "shown"),
    [
        (["--s3_secret_access_key=a b", "--seed=1"], ["--s3_secret_access_key=***", "--seed=1"]),
        (["--s3_session_token", "a b", "c"], ["--s3_session_token", "***", "c"]),
        (["--s3_access_key_id", "--seed=1"], ["--s3_access_key_id", "--seed=1"]),
        (
            ['--environment_config={"env": {"AWS_SECRET_ACCESS_KEY": "a b"}}'],
            ['--environment_config={"env": {"AWS_SECRET_ACCESS_KEY": ***'],
        ),
        (["--environment_options=variables=API_KEY=a,b"], ["--environment_options=variables=API_KEY=***"]),
        (["--images=s3://key:secret@bucket/x"], ["--images=s3://***@bucket/x"]),
        (["--keep_aspect_ratio", "no", "--sort_key", "a"], ["--keep_aspect_ratio", "no", "--sort_key", "a"]),
    ],
)
def test_secrets_of_a_command_line_are_hidden(arguments, shown):
    assert redaction.redact_arguments(arguments) == shown


def test_long_texts_take_no_time():
    start = time.monotonic()
    for text in ("--key" * 20_000, "x://h?a=" + "'" * 50_000 + "x", "x://" + "a:@://" * 10_000):
        redaction.redact_arguments([text])
    assert time.monotonic() - start < 10


def test_every_flag_of_the_jobs_stays_readable():
    line = [f"--{name}=1" for name in flags.FLAGS]
    assert redaction.redact_arguments(line) == line


def test_manifest_keeps_a_command_line_without_secrets(monkeypatch):
    beam_args = ["--s3_secret_access_key=planted", "--s3_session_token", "planted"]
    monkeypatch.setattr(sys, "argv", ["shard", "--cells_dir=cells", *beam_args])
    flags.FLAGS.mark_as_parsed()
    config = shard.config_from_flags(beam_args, cells_dir="cells", data_dir="dataset")
    assert config.command_line == ("--cells_dir=cells", "--s3_secret_access_key=***", "--s3_session_token", "***")


def test_errors_hide_credentials_in_their_text():
    url = "https://me:pw@host/x"
    for error in (ConfigError(url), DatasetError(url), FovError("read", "missing_file", url)):
        assert "pw" not in str(error)
        assert "pw" not in repr(error)


def test_what_is_printed_hides_them_until_the_end_of_the_block(capsys):
    with redaction.redacted_output():
        print("to https://me:pw@host/x")
        print("from https://me:pw@host/y", file=sys.stderr)
        assert sys.stdout.isatty() is False
    print("then https://me:pw@host/z")
    out, err = capsys.readouterr()
    assert out == "to https://***@host/x\nthen https://me:pw@host/z\n"
    assert err == "from https://***@host/y\n"
