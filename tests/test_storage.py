"""Promises of hpa_proto.storage, on a local folder and on an fsspec URL."""

import errno
import os
import pathlib
import stat
import sys
import tempfile
import time
import uuid

import pandas as pd
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from hpa_proto import object_store, storage
from hpa_proto.errors import ConfigError


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


def test_full_disk_is_named(folder):
    path = storage.join(folder, "a.bin")

    def fill():
        with storage.create(path) as file:
            file.write(b"x")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(OSError, match="No space left on device") as caught:
        fill()
    # What goes to a store is put together on this machine first.
    here = os.path.dirname(path) if not storage.is_url(path) else tempfile.gettempdir()
    assert caught.value.filename.startswith(here)
    assert not storage.exists(path)


def test_libraries_read_and_write_by_names_of_local_files(folder):
    path = storage.join(folder, "deep", "a.weights.h5")
    with storage.write_by_name(path) as name:
        assert not storage.is_url(name)
        assert name.endswith("a.weights.h5")
        pathlib.Path(name).write_bytes(b"x")
        assert not storage.exists(path)
    assert storage.list_files(folder) == ["deep/a.weights.h5"]
    with storage.read_by_name(path) as name:
        assert name.endswith("/a.weights.h5")
        assert pathlib.Path(name).read_bytes() == b"x"
    assert storage.is_url(path) != pathlib.Path(name).exists()
    with pytest.raises(ZeroDivisionError), storage.write_by_name(path) as name:
        pathlib.Path(name).write_bytes(b"half") // 0
    assert storage.read_bytes(path) == b"x"
    assert storage.list_files(folder) == ["deep/a.weights.h5"]
    with pytest.raises(FileNotFoundError), storage.read_by_name(f"{path}.none") as name:
        storage.read_bytes(name)


def test_time_of_a_file_is_that_of_its_last_writing(folder):
    path = storage.join(folder, "a.bin")
    assert storage.modified(path) is None
    storage.write_bytes(path, b"x")
    # A store may know whole seconds only.
    assert abs(storage.modified(path) - time.time()) < 5


def test_folder_is_uploaded_with_the_file_that_makes_it_whole_at_the_end(tmp_path, monkeypatch):
    url = f"memory://{uuid.uuid4().hex}/set"
    for name in ("a/b", "card", "z"):
        storage.write_bytes(str(tmp_path / name), name.encode())
    put, names = MemoryFileSystem.put_file, []
    monkeypatch.setattr(MemoryFileSystem, "put_file", lambda *given: (names.append(given[2]), put(*given)))
    storage.upload_folder(str(tmp_path), url, last="card")
    assert [name.partition("/set/")[2] for name in names] == ["a/b", "z", "card"]
    assert storage.read_bytes(f"{url}/a/b") == b"a/b"


def test_file_is_not_there_before_it_is_whole(folder):
    path = storage.join(folder, "a.bin")
    with storage.create(path) as file:
        file.write(b"half")
        assert not storage.exists(path)
        assert storage.list_files(folder) == []
    assert storage.size(path) == 4


def test_file_and_then_its_new_name_are_flushed_to_the_disk(tmp_path, monkeypatch):
    flushed, path = [], tmp_path / "a.bin"
    fsync = os.fsync

    def note(descriptor):
        flushed.append((stat.S_ISDIR(os.fstat(descriptor).st_mode), path.exists()))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", note)
    storage.write_bytes(str(path), b"x")
    assert flushed == [(False, False), (True, True)]


@pytest.mark.parametrize("number", [errno.EINVAL, errno.EACCES])
def test_file_system_that_flushes_no_folders_is_written_to_all_the_same(tmp_path, monkeypatch, number):
    def fail(path, flags):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "open", fail)
    storage.write_bytes(str(tmp_path / "a.bin"), b"x")
    assert (tmp_path / "a.bin").read_bytes() == b"x"


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


def test_part_of_a_file(folder):
    path = storage.join(folder, "a.bin")
    storage.write_bytes(path, b"0123456789")
    assert storage.read_range(path, offset_bytes=2, length_bytes=3) == b"234"
    assert storage.read_range(path, offset_bytes=8, length_bytes=9) == b"89"
    assert storage.read_range(path, offset_bytes=8, length_bytes=0) == b""
    places = [(path, offset % 10, 1 + offset % 3) for offset in range(40)]
    wanted = [b"0123456789"[offset : offset + length] for _, offset, length in places]
    assert list(storage.read_ranges(places)) == wanted


def test_open_file_reads_and_seeks_as_a_local_one(folder):
    path = storage.join(folder, "a.bin")
    storage.write_bytes(path, bytes(range(200)))
    with storage.open_read(path) as file:
        assert file.read(3) == bytes(range(3))
        assert file.seek(-2, 2) == 198
        assert file.read(5) == bytes([198, 199])
        assert file.read(5) == b""
        file.seek(100)
        file.seek(10, 1)
        assert file.tell() == 110
        assert file.read() == bytes(range(110, 200))


def test_each_reading_of_an_open_file_is_one_request(monkeypatch):
    path = f"memory://{uuid.uuid4().hex}/a.bin"
    storage.write_bytes(path, bytes(20 << 20))
    asked = []
    read_range = object_store.read_range

    def note(url, **options):
        asked.append(options["length_bytes"])
        return read_range(url, **options)

    monkeypatch.setattr(object_store, "read_range", note)
    with storage.open_read(path) as file:
        assert len(file.read()) == 20 << 20
    assert asked == [20 << 20]
    asked.clear()
    with storage.open_read(path) as file:
        while file.read(100_000):
            pass
    assert [length for length in asked if length] == [8 << 20, 8 << 20, 4 << 20]


def test_many_small_files_come_in_the_order_asked(folder):
    paths = [storage.join(folder, f"{number}") for number in range(40)]
    for number, path in enumerate(paths):
        storage.write_bytes(path, bytes([number]))
    assert b"".join(storage.read_many(reversed(paths))) == bytes(reversed(range(40)))


def test_folders_next_door_and_marks_of_folders_are_not_listed():
    folder = f"memory://{uuid.uuid4().hex}/set"
    for name in ("set/a", "set-2/b"):
        storage.write_bytes(storage.join(folder.removesuffix("/set"), name), b"x")
    assert storage.list_files(folder) == ["a"]
    assert storage.list_files(f"{folder}/a") == [], "a file is no folder"


def test_a_folder_is_no_file():
    folder = f"memory://{uuid.uuid4().hex}/set"
    storage.write_bytes(f"{folder}/a", b"x")
    with pytest.raises(IsADirectoryError, match="set: is a folder"):
        storage.open_read(folder)


@pytest.mark.parametrize(("protocol", "package"), [("gs", "gcsfs"), ("s3", "s3fs")])
def test_missing_library_of_a_store_is_named(protocol, package, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.delitem(sys.modules["fsspec.registry"]._registry, protocol, raising=False)
    with pytest.raises(ConfigError, match=rf"{protocol}://bucket/x: .*{package}.*hpa-single-cell\[s3\]"):
        storage.read_bytes(f"{protocol}://bucket/x")


def test_unknown_protocol_is_one_line():
    with pytest.raises(ConfigError, match="nonsense://x/y: Protocol not known: nonsense"):
        storage.exists("nonsense://x/y")


def test_errors_of_a_stores_library_are_oserrors_with_the_url():
    aiohttp = pytest.importorskip("aiohttp")

    def fail(error):
        with object_store.opened("memory://someone:secret@x/y"):
            raise error

    with pytest.raises(OSError, match=r"^memory://\*\*\*@x/y: two lines; check the network") as caught:
        fail(aiohttp.ClientError("two\nlines"))
    assert "secret" not in str(caught.value)
    with pytest.raises(PermissionError, match=r"^memory://\*\*\*@x/y: Forbidden$"):
        fail(PermissionError("Forbidden"))
    with pytest.raises(KeyError):
        fail(KeyError("a bug"))
