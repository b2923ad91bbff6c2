"""Credentials in URLs are hidden, and nothing else is touched."""

import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

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
    ],
)
def test_what_is_no_credential_stays(text):
    assert redaction.redact(text) == text


@given(st.text(alphabet="abcXYZ0123456789/+=-_.~%", min_size=3), st.sampled_from(["s3", "https", "gs", "sftp"]))
def test_no_password_gets_through(secret, scheme):
    marked = f"Q{secret}Q"
    assert marked not in redaction.redact(f"error: {scheme}://user:{marked}@host/x: not there")


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
