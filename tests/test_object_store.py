"""Promises of storage on object stores: s3:// against moto's server, gs:// against an emulator, both on this machine."""

import numpy as np
import pytest

import fake_gs
import fake_s3
from faults import reliability
from hpa_proto import object_store, storage
from trainer import submit

TRIAL = reliability.Trial(
    part="Object stores",
    fault="Two writers of one new file, a large upload cut off, files changed by others, no server, no credentials, no bucket; "
    "on s3:// (moto) and gs:// (an emulator)",
    outcome="one writer only, large files whole or not at all, every error one line with the URL and without its secrets",
    promise="What holds for files on a disk holds in a store that cannot rename.",
)


@pytest.fixture(scope="module")
def address():
    with fake_s3.s3_server() as address:
        yield address


@pytest.fixture(scope="module")
def bucket(address):
    return fake_s3.make_bucket()


def test_files_of_another_process_are_seen_at_once(bucket):
    folder = storage.join(bucket, "shared")
    storage.write_bytes(f"{folder}/a", b"1")
    assert storage.list_files(folder) == ["a"]
    other = type(object_store.open_filesystem(bucket)[0])(skip_instance_cache=True)
    other.pipe_file(f"{folder}/b", b"22")
    other.pipe_file(f"{folder}/a", b"333")
    assert storage.list_files(folder) == ["a", "b"]
    assert (storage.size(f"{folder}/a"), storage.read_bytes(f"{folder}/a")) == (3, b"333")
    other.rm_file(f"{folder}/a")
    assert not storage.exists(f"{folder}/a")
    assert storage.list_files(folder) == ["b"]


def test_only_one_creates_a_new_file(bucket):
    path = storage.join(bucket, "new")
    assert storage.create_new(path, b"first")
    assert not storage.create_new(path, b"second")
    filesystem, name = object_store.open_filesystem(path)
    # The store itself refuses, and not only the look before.
    with pytest.raises(FileExistsError):
        filesystem.pipe_file(name, b"third", mode="create")
    assert storage.read_bytes(path) == b"first"


def test_large_file_is_there_whole_or_not_at_all(bucket, monkeypatch):
    path = storage.join(bucket, "large")
    data = np.random.default_rng(0).bytes(11 << 20)
    monkeypatch.setattr("s3fs.core.calculate_chunksize", lambda *_, **__: 5 << 20)
    filesystem, _ = object_store.open_filesystem(path)
    upload = type(filesystem)._upload_file_part_concurrent

    async def fail(self, *arguments, **options):
        await upload(self, *arguments, **options)
        raise OSError("connection lost")

    def write():
        with storage.create(path) as file:
            file.write(data)

    with monkeypatch.context() as patch:
        patch.setattr(type(filesystem), "_upload_file_part_concurrent", fail)
        with pytest.raises(OSError, match=f"{path}: connection lost"):
            write()
    assert storage.list_files(bucket).count("large") == 0
    write()
    assert storage.read_range(path, offset_bytes=len(data) - 3, length_bytes=9) == data[-3:]


def closed_port(patch):
    patch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")


def no_credentials(patch):
    patch.delenv("AWS_ACCESS_KEY_ID")
    patch.delenv("AWS_SECRET_ACCESS_KEY")


@pytest.mark.parametrize(
    ("spoil", "name", "message"),
    [
        (None, "s3://no-such-bucket/set", "no such file, folder or bucket|bucket does not exist"),
        (closed_port, "s3://bucket/set", "Could not connect to the endpoint"),
        (no_credentials, "s3://bucket/set", "Unable to locate credentials"),
        (None, "s3://AKIAKEY:planted-secret/with+slash@bucket/set", r"s3://\*\*\*@bucket"),
    ],
)
def test_what_is_wrong_with_a_store_is_one_line_that_names_the_url(address, monkeypatch, capsys, spoil, name, message):
    if spoil:
        spoil(monkeypatch)
    shown = name.replace("AKIAKEY:planted-secret/with+slash", "***")
    fake_s3.forget_connections()
    for act in (
        lambda: storage.read_bytes(f"{name}/manifest.json"),
        lambda: storage.open_read(f"{name}/manifest.json"),
        lambda: storage.write_bytes(f"{name}/x", b"x"),
    ):
        with pytest.raises(OSError, match=message) as caught:
            act()
        text = str(caught.value)
        assert text.startswith(f"{shown}/")
        assert "\n" not in text
    flags = [f"--predictions={name}/predictions.parquet", f"--data_dir={name}", "--out=submission.csv"]
    assert submit.main(["submit", *flags]) == 1
    error = capsys.readouterr().err
    assert error.startswith(f"error: {shown}/predictions.parquet: ")
    assert error.count("\n") == 1
    fake_s3.forget_connections()


@pytest.fixture
def gs_bucket():
    with fake_gs.gs_bucket() as bucket:
        yield bucket


def test_google_store(gs_bucket):
    folder = storage.join(gs_bucket, "set")
    data = np.random.default_rng(0).bytes(9 << 20)
    with storage.create(f"{folder}/large") as file:
        file.write(data)
    storage.write_bytes(f"{folder}/b/small", b"x")
    assert storage.list_files(folder) == ["b/small", "large"]
    assert storage.size(f"{folder}/large") == len(data)
    with storage.open_read(f"{folder}/large") as file:
        file.seek(1000)
        assert file.read() == data[1000:]
    assert list(storage.read_ranges([(f"{folder}/large", 5, 3), (f"{folder}/b/small", 0, 1)])) == [data[5:8], b"x"]
    assert not storage.create_new(f"{folder}/b/small", b"y")
    with pytest.raises(FileNotFoundError, match=r"^gs://bucket/none: no such file"):
        storage.read_bytes("gs://bucket/none")
    with pytest.raises(FileNotFoundError, match=r"^gs://no-bucket/none: no such file"):
        storage.write_bytes("gs://no-bucket/none", b"x")
    with pytest.raises(IsADirectoryError):
        storage.open_read(folder)
    storage.remove_folder(folder, keep={"large"})
    assert storage.list_files(gs_bucket) == ["set/large"]
