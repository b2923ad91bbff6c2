"""Google's object store for tests: an emulator on loopback, for this process and those it starts."""

import contextlib

import pytest


@contextlib.contextmanager
def gs_bucket():
    """Starts the emulator and points the environment to it; yields the URL of an empty bucket."""
    gcsfs = pytest.importorskip("gcsfs")
    emulator = pytest.importorskip("gcp_storage_emulator.server").create_server(
        "127.0.0.1", 0, in_memory=True, default_bucket="bucket"
    )
    emulator.start()
    # Connections are kept by URL; they would go to the emulator of an earlier test.
    gcsfs.GCSFileSystem.clear_instance_cache()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STORAGE_EMULATOR_HOST", f"http://127.0.0.1:{emulator._api._httpd.server_port}")
        try:
            yield "gs://bucket"
        finally:
            emulator.stop()
