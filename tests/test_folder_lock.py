"""One job at a time in a folder; the lock of a dead one is no obstacle, and leaves no trace."""

import json
import os
import subprocess
import sys
import threading
import time

import pytest

from hpa_proto import folder_lock, storage
from hpa_proto.errors import ConfigError


@pytest.fixture(params=["local", "memory"])
def folder(request, tmp_path):
    if request.param == "local":
        yield str(tmp_path / "out")
    else:
        yield "memory://locks/out"
        storage.remove_folder("memory://locks")


def lock_of(folder):
    return storage.join(folder, storage.LOCK_NAME)


def change_holder(folder, **changes):
    """Writes a lock as another holder's; returns its content."""
    with folder_lock.hold(folder):
        content = json.loads(storage.read_text(lock_of(folder)))
    content.update(token="other", **changes)
    storage.write_text(lock_of(folder), json.dumps(content))
    return content


def test_the_lock_is_there_while_the_block_runs_and_is_no_file_of_the_folder(folder):
    with folder_lock.hold(folder):
        content = json.loads(storage.read_text(lock_of(folder)))
        assert content["pid"] == os.getpid()
        storage.write_bytes(storage.join(folder, "a"), b"1")
        assert storage.list_files(folder) == ["a"]
        assert storage.remove_temporary_files(folder) == 0
    assert not storage.exists(lock_of(folder))


def test_the_lock_is_gone_after_an_error_and_so_is_a_folder_that_was_made_for_it(folder):
    with pytest.raises(KeyError), folder_lock.hold(folder):
        raise KeyError
    assert not storage.exists(folder)


def test_a_second_job_is_told_who_is_there(folder):
    with folder_lock.hold(folder):
        words = rf"another job is at work there \(process {os.getpid()} on .*since 2"
        with pytest.raises(ConfigError, match=words), folder_lock.hold(folder):
            pytest.fail("held twice")
        assert storage.exists(lock_of(folder))


@pytest.mark.parametrize("text", ["", "{", "[]", '{"pid": 1}', "[" * 3000])
def test_a_lock_that_says_nothing_is_taken_over(folder, text, monkeypatch):
    monkeypatch.setattr(folder_lock, "_WRITE_SECONDS", 0.2)
    storage.write_text(lock_of(folder), text)
    with folder_lock.hold(folder):
        pass
    assert storage.list_files(folder) == []


@pytest.mark.parametrize(
    "change",
    [
        # 0 and -1 are groups of processes, of which some process always lives.
        *({"pid": pid} for pid in (0, -1, 2**40, "1", None)),
        *({"beat": beat, "host": "other"} for beat in (float("nan"), float("inf"), 1e300, "now", None)),
        {"host": ["other"]},
        {"command": None, "host": "other", "beat": 0},
    ],
)
def test_a_lock_of_impossible_values_is_taken_over(folder, change, monkeypatch):
    monkeypatch.setattr(folder_lock, "_WRITE_SECONDS", 0.2)
    change_holder(folder, **change)
    with folder_lock.hold(folder):
        assert json.loads(storage.read_text(lock_of(folder)))["pid"] == os.getpid()


def test_a_lock_that_is_just_being_written_is_held(folder):
    content = change_holder(folder)
    storage.write_bytes(lock_of(folder), b"")
    writer = threading.Timer(0.3, storage.write_text, [lock_of(folder), json.dumps(content)])
    writer.start()
    with pytest.raises(ConfigError, match="another job is at work there"), folder_lock.hold(folder):
        pytest.fail("held twice")
    writer.join()


def test_the_lock_of_an_ended_process_is_taken_over(folder):
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    change_holder(folder, pid=process.pid)
    with folder_lock.hold(folder):
        assert json.loads(storage.read_text(lock_of(folder)))["pid"] == os.getpid()


def test_the_lock_of_a_killed_process_that_nobody_asked_for_is_taken_over(folder):
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    change_holder(folder, pid=process.pid, process_start=folder_lock._process_start(process.pid))
    with pytest.raises(ConfigError, match=f"process {process.pid} on"), folder_lock.hold(folder):
        pass
    process.kill()
    deadline = time.monotonic() + 20
    while folder_lock._process_start(process.pid):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    with folder_lock.hold(folder):
        pass
    process.communicate()


def test_a_later_process_of_the_same_number_is_not_the_holder(folder):
    change_holder(folder, process_start="boot/1")
    with folder_lock.hold(folder):
        pass


@pytest.mark.parametrize("elsewhere", [{"host": "other"}, {"pid_namespace": "pid:[1]"}, {"boot_id": "other"}])
def test_of_another_machine_only_signs_of_life_count(folder, elsewhere):
    change_holder(folder, **elsewhere, pid=1, beat=time.time() - 500)
    words = r"last sign of life is 50\d s old, after 600 s .* remove .*\.lock"
    with pytest.raises(ConfigError, match=words), folder_lock.hold(folder):
        pass
    change = json.loads(storage.read_text(lock_of(folder)))
    storage.write_text(lock_of(folder), json.dumps({**change, "beat": time.time() - 700}))
    with folder_lock.hold(folder):
        pass


def test_signs_of_life_are_written(folder, monkeypatch):
    monkeypatch.setattr(folder_lock, "_BEAT_SECONDS", 0.01)
    with folder_lock.hold(folder):
        first = json.loads(storage.read_text(lock_of(folder)))
        deadline = time.monotonic() + 20
        while (last := json.loads(storage.read_text(lock_of(folder)))) == first:
            assert time.monotonic() < deadline
            time.sleep(0.01)
    assert {**last, "beat": 0} == {**first, "beat": 0}


@pytest.mark.parametrize("taken_over", [False, True])
def test_a_job_whose_lock_is_lost_stops(tmp_path, taken_over):
    job = (
        "import sys, time; from hpa_proto import folder_lock; folder_lock._BEAT_SECONDS = 0.01\n"
        "with folder_lock.hold(sys.argv[1]): print('held', flush=True); time.sleep(60)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", job, str(tmp_path)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "held\n"
    lock = tmp_path / storage.LOCK_NAME
    other = {**json.loads(lock.read_text()), "token": "other", "host": "elsewhere"}
    lock.unlink()
    while taken_over and process.poll() is None and not lock.exists():
        lock.write_text(json.dumps(other))
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 1
    words = "taken over by process" if taken_over else "its file was removed"
    assert "this job's lock is lost" in errors
    assert taken_over or words in errors
    assert lock.exists() == taken_over


def test_of_two_that_take_a_dead_lock_over_at_once_one_is_refused(tmp_path, monkeypatch):
    change_holder(str(tmp_path), process_start="boot/1")
    lock = tmp_path / storage.LOCK_NAME

    def other_comes_later(_):
        content = json.loads(lock.read_text())
        lock.write_text(json.dumps({**content, "token": "other"}))

    monkeypatch.setattr(folder_lock.time, "sleep", other_comes_later)
    with pytest.raises(ConfigError, match="in the same moment"), folder_lock.hold(str(tmp_path)):
        pass


@pytest.mark.parametrize("has_links", [True, False])
def test_a_dead_lock_that_another_job_has_taken_over_meanwhile_is_left_to_it(tmp_path, monkeypatch, has_links):
    """The other job comes between this one's look at the dead lock and its removal."""
    dead = change_holder(str(tmp_path), process_start="boot/1")
    living = {**dead, "token": "living", "process_start": folder_lock._process_start(dead["pid"])}
    lock = tmp_path / storage.LOCK_NAME
    look = folder_lock.Holder.is_dead.fget

    def other_is_quicker(holder):
        is_dead = look(holder)
        lock.write_text(json.dumps(living))
        return is_dead

    def no_links(*_):
        raise OSError("not permitted")

    monkeypatch.setattr(folder_lock.Holder, "is_dead", property(other_is_quicker))
    if not has_links:
        monkeypatch.setattr(os, "link", no_links)
    with pytest.raises(ConfigError, match="another job is at work there"), folder_lock.hold(str(tmp_path)):
        pytest.fail("held twice")
    assert json.loads(lock.read_text()) == living
    assert [path.name for path in tmp_path.iterdir()] == [storage.LOCK_NAME]


def test_a_command_line_with_a_password_is_not_shown(tmp_path, monkeypatch):
    beam_flags = ["--s3_secret_access_key", "planted", "--s3_session_token=planted words"]
    monkeypatch.setattr(
        sys, "orig_argv", ["python", "-m", "beam_jobs.segment", "--images=s3://key:planted@bucket/x", *beam_flags]
    )
    with folder_lock.hold(str(tmp_path)):
        assert "planted" not in (tmp_path / storage.LOCK_NAME).read_text()
