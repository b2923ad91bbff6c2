"""Promises of hpa_proto.storage, on a local folder and on an fsspec URL."""

import uuid

import pandas as pd
import pytest

from hpa_proto import storage


@pytest.fixture(params=["local", "memory"])
def folder(request, tmp_path):
    return str(tmp_path / "set") if request.param == "local" else f"memory://{uuid.uuid4().hex}/set"


def test_bytes_text_and_tables_come_back(folder):
    storage.write_bytes(storage.join(folder, "a", "b.bin"), b"\x00\x01")
    storage.write_text(storage.join(folder, "t.txt"), "µ")
    table = pd.DataFrame({"id": ["x", "y"], "n": [1, 2]})
    storage.write_table(storage.join(folder, "t.parquet"), table)
    assert storage.read_bytes(storage.join(folder, "a", "b.bin")) == b"\x00\x01"
    assert storage.read_text(storage.join(folder, "t.txt")) == "µ"
    pd.testing.assert_frame_equal(storage.read_table(storage.join(folder, "t.parquet")), table)
    assert storage.list_files(folder) == ["a/b.bin", "t.parquet", "t.txt"]


def test_failed_write_leaves_no_file_and_keeps_the_old_one(folder):
    path = storage.join(folder, "a.bin")
    storage.write_bytes(path, b"old")

    def fail():
        with storage.create(path) as file:
            file.write(b"new, but only half")
            raise OSError("no space left on device")

    with pytest.raises(OSError, match="no space"):
        fail()
    assert storage.read_bytes(path) == b"old"
    assert storage.list_files(folder) == ["a.bin"]
    assert storage.remove_temporary_files(folder) == 0


def test_file_is_not_there_before_it_is_whole(folder):
    path = storage.join(folder, "a.bin")
    with storage.create(path) as file:
        file.write(b"half")
        assert not storage.exists(path)
        assert storage.list_files(folder) == []
    assert storage.size(path) == 4


def test_what_a_killed_run_left_is_removed(tmp_path):
    with open(tmp_path / ".tmp-a.bin-12345678", "wb") as file:
        file.write(b"half")
    (tmp_path / "a.bin").write_bytes(b"whole")
    assert storage.list_files(str(tmp_path)) == ["a.bin"]
    assert storage.remove_temporary_files(str(tmp_path)) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["a.bin"]


def test_remove_folder_keeps_what_is_named(folder):
    for name in ("a", "b"):
        storage.write_bytes(storage.join(folder, name), b"x")
    storage.remove_folder(folder, keep={"b"})
    assert storage.list_files(folder) == ["b"]
    storage.remove_folder(folder)
    assert storage.list_files(folder) == []


def test_missing_file_has_no_size_and_removing_it_is_fine(folder):
    path = storage.join(folder, "none")
    assert storage.size(path) is None
    storage.remove(path)
    with pytest.raises(FileNotFoundError):
        storage.read_bytes(path)
