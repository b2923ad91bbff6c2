"""An object store for tests: moto's server on loopback in place of Amazon's, for this process and those it starts."""

import contextlib
import logging
import uuid

import pytest

# Fake ones: the server takes any.
CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "testing",
    "AWS_SECRET_ACCESS_KEY": "testing",
    "AWS_DEFAULT_REGION": "us-east-1",
    # No machine's own settings, and no second attempt where a first one fails on purpose.
    "AWS_CONFIG_FILE": "/nonexistent",
    "AWS_SHARED_CREDENTIALS_FILE": "/nonexistent",
    "AWS_EC2_METADATA_DISABLED": "true",
    "AWS_MAX_ATTEMPTS": "1",
}


def forget_connections():
    """fsspec keeps its connections to a store; they would go to the server of an earlier test."""
    import s3fs

    s3fs.S3FileSystem.clear_instance_cache()


@contextlib.contextmanager
def s3_server():
    """Starts the server and points the environment to it; yields its address, as http://127.0.0.1:port."""
    pytest.importorskip("s3fs")
    server_module = pytest.importorskip("moto.server")
    # It reports every request.
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = server_module.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    address = f"http://{host}:{port}"
    with pytest.MonkeyPatch.context() as patch:
        for name, value in CREDENTIALS.items():
            patch.setenv(name, value)
        patch.setenv("AWS_ENDPOINT_URL", address)
        forget_connections()
        try:
            yield address
        finally:
            forget_connections()
            server.stop()


def make_bucket():
    """Makes a bucket and returns its URL."""
    import s3fs

    name = f"bucket-{uuid.uuid4().hex[:8]}"
    s3fs.S3FileSystem().mkdir(name)
    return f"s3://{name}"
