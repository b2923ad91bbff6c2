"""Promises of fetching public FOVs, against a server on this machine: whole files, resumed, politely, with their sha256."""

import hashlib
import json
import subprocess
import sys
import uuid

import numpy as np
import pytest

import atlas_server
import small_fovs
from atlas_server import FOV_IDS, IDS
from beam_jobs import fetch_hpa, fetch_notes
from beam_jobs.fetch_hpa import FetchConfig
from beam_jobs.fov_reader import read_fov
from beam_jobs.fov_source import find_fovs
from hpa_proto import folder_lock, schema, storage
from hpa_proto.errors import ConfigError


@pytest.fixture
def server():
    with atlas_server.serve() as made:
        yield made


@pytest.fixture
def waits(monkeypatch):
    """Keeps how long it was to wait, and does not."""
    kept = []
    monkeypatch.setattr(fetch_hpa.time, "sleep", kept.append)
    return kept


@pytest.fixture
def config(server, tmp_path):
    return FetchConfig(ids=IDS, out_dir=str(tmp_path / "images"), base_url=server.url, max_rate=1e6)


def change(config, **values):
    return FetchConfig(**{**vars(config), **values})


def notes(config):
    lines = (storage.read_text(f"{config.out_dir}/{fetch_hpa.NOTES_NAME}")).splitlines()
    return {note["name"]: note for note in map(json.loads, lines)}


def test_every_channel_is_fetched_and_noted(config, server, tmp_path):
    result = fetch_hpa.run(config)
    assert (result.num_fetched, result.num_there, result.failures) == (8, 0, {})
    assert result.num_bytes == sum(len(data) for path, data in server.files.items() if path.endswith(".jpg"))
    kept = notes(config)
    assert set(kept) == {f"{fov_id}_{channel}.jpg" for fov_id in FOV_IDS for channel in schema.CHANNELS}
    for name, note in kept.items():
        data = (tmp_path / "images" / name).read_bytes()
        assert note["sha256"] == hashlib.sha256(data).hexdigest()
        assert note["num_bytes"] == len(data)
        assert data == server.files[note["url"].removeprefix(server.url)]


@pytest.mark.parametrize(("image_format", "difference"), [("jpg", 40), ("tif", 0)])
def test_what_was_fetched_is_read_as_fovs(config, image_format, difference):
    fetch_hpa.run(change(config, image_format=image_format))
    listing = find_fovs(config.out_dir, None)
    assert [fov.fov_id for fov in listing.fovs] == list(FOV_IDS)
    for number, fov in enumerate(listing.fovs):
        expected, _, _ = small_fovs.draw_fov(seed=number)
        assert np.abs(read_fov(fov).pixels.astype(int) - expected).mean() <= difference / 4


def test_a_second_run_asks_for_nothing(config, server):
    fetch_hpa.run(config)
    server.requests.clear()
    result = fetch_hpa.run(config)
    assert (result.num_fetched, result.num_there) == (0, 8)
    assert server.requests == []


def test_what_a_stopped_run_left_is_fetched_by_the_next(config, server, tmp_path):
    fetch_hpa.run(config)
    folder = tmp_path / "images"
    names = sorted(notes(config))
    (folder / names[0]).unlink()
    (folder / names[1]).write_bytes(b"\xff\xd8 of another size")
    path = folder / fetch_hpa.NOTES_NAME
    lines = [line for line in path.read_text().splitlines() if names[2] not in line]
    # A killed run ends within a line.
    path.write_text("\n".join(lines) + '\n{"name": "10005_9')
    server.requests.clear()
    assert fetch_hpa.run(config).num_fetched == 3
    assert len(server.requests) == 3
    assert set(notes(config)) == set(names)
    assert fetch_hpa.run(config).num_there == 8


def test_a_failing_server_is_asked_again_with_longer_waits(config, server, waits):
    server.faults["/10005/921_B9_1_red.jpg"] = [503, 500, (429, {"Retry-After": "17"}), "cut"]
    assert fetch_hpa.run(config).num_fetched == 8
    assert [wait for wait in waits if wait >= 1] == [2, 4, 17, 16]
    assert server.requests[:5] == ["/10005/921_B9_1_red.jpg"] * 5


def test_a_wait_that_the_server_asks_for_has_an_end(config, server, waits):
    server.faults["/10005/921_B9_1_red.jpg"] = [(429, {"Retry-After": "86400"})]
    fetch_hpa.run(config)
    assert max(waits) == 120


@pytest.mark.parametrize("status", [400, 403, 404, 410])
def test_a_fov_that_the_server_does_not_have_does_not_stop_the_others(config, server, waits, status):
    path = "/10005/921_B9_1_green.jpg"
    server.faults[path] = [status]
    result = fetch_hpa.run(config)
    assert result.failures == {"10005_921_B9_1": f"{server.url}{path}: HTTP status {status}"}
    assert server.requests.count(path) == 1
    assert {name for name in notes(config) if name.startswith("36")} == {
        f"{FOV_IDS[1]}_{c}.jpg" for c in schema.CHANNELS
    }
    assert max(waits, default=0) < 1


def test_an_answer_that_is_no_picture_is_no_file(config, server, tmp_path):
    server.faults["/36/410_D12_2_red.jpg"] = [b"<html>moved</html>"]
    result = fetch_hpa.run(config)
    assert "the answer is no jpg file; it starts with b'<html>" in result.failures[FOV_IDS[1]]
    assert not list((tmp_path / "images").glob("36_*"))


def test_a_picture_that_ends_early_is_fetched_again(config, server, waits):
    path = "/36/410_D12_2_red.jpg"
    server.faults[path] = [server.files[path][:-40]]
    assert fetch_hpa.run(config).failures == {}
    assert server.requests.count(path) == 2


def test_a_damaged_gzip_is_fetched_again(config, server, waits):
    path = "/36/410_D12_2_red.tif.gz"
    damaged = bytearray(server.files[path])
    damaged[-6] ^= 1
    server.faults[path] = [bytes(damaged), server.files[path][:-40]]
    assert fetch_hpa.run(change(config, image_format="tif")).failures == {}
    assert server.requests.count(path) == 3


def test_a_server_that_keeps_failing_ends_the_run(config, server, waits):
    ids = [f"{number}_1_A1_1" for number in range(9)]
    server.faults = {f"/{number}/1_A1_1_red.jpg": [500] * 9 for number in range(9)}
    with pytest.raises(
        OSError, match=r"the server fails: .*/2/1_A1_1_red.jpg: HTTP status 500 \(tried 2 times\); the same"
    ):
        fetch_hpa.run(change(config, ids=tuple(ids), num_tries=2))
    assert len(server.requests) == 6


def test_requests_keep_their_distance(config, monkeypatch):
    now = [100.0]
    slept = []

    def sleep(seconds):
        slept.append(seconds)
        now[0] += seconds

    monkeypatch.setattr(fetch_hpa.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(fetch_hpa.time, "sleep", sleep)
    fetch_hpa.run(change(config, max_rate=4.0))
    assert slept == pytest.approx([0.25] * 7)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("10005_921_B9_1", ("10005_921_B9_1", "10005/921_B9_1")),
        ("10005/921_B9_1", ("10005_921_B9_1", "10005/921_B9_1")),
        (" https://images.proteinatlas.org/10005/921_B9_1 ", ("10005_921_B9_1", "10005/921_B9_1")),
        ("http://v18.proteinatlas.org/images/4109/24_H11_1", ("4109_24_H11_1", "4109/24_H11_1")),
        ("6289/1843_E1_11_cr5af96f44b4a7b", ("6289_1843_E1_11_cr5af96f44b4a7b", "6289/1843_E1_11_cr5af96f44b4a7b")),
    ],
)
def test_ids_are_read_in_all_their_forms(text, expected):
    assert fetch_hpa.parse_id(text) == expected


@pytest.mark.parametrize(
    "text", ["", "10005", "10005_921", "HPA/921_B9_1", "10005/../etc_x", "5c27f04c-bb99-11e8-b2b9", "1/2/3_A_1"]
)
def test_what_is_no_id_is_an_error(config, text, server):
    with pytest.raises(ConfigError, match="is no image id"):
        fetch_hpa.run(change(config, ids=(IDS[0], text)))
    assert server.requests == []


def test_ids_come_from_a_file_or_from_the_flag(tmp_path):
    path = tmp_path / "ids.txt"
    path.write_text("10005_921_B9_1\n\n 36/410_D12_2 \n")
    assert fetch_hpa.read_ids(str(path)) == IDS
    assert fetch_hpa.read_ids("10005_921_B9_1, 36/410_D12_2") == IDS


def test_ids_that_are_no_text_are_an_error(tmp_path):
    (tmp_path / "ids.txt").write_bytes(b"10005_921_B9_1\n\xff\xfe")
    with pytest.raises(ConfigError, match=r"ids\.txt: no text file"):
        fetch_hpa.read_ids(str(tmp_path / "ids.txt"))


def test_digits_of_other_scripts_are_no_id():
    # An address takes none of them.
    with pytest.raises(ConfigError, match="no image id"):
        fetch_hpa.parse_id("\u0661\u0660_921_B9_1")


@pytest.mark.parametrize("line", [b"\xff", b"[" * 3000, b"[]", b'{"name": [], "num_bytes": 1}'])
def test_notes_that_are_others_are_an_error_and_stay_as_they_are(tmp_path, line):
    path = tmp_path / fetch_notes.NOTES_NAME
    path.write_bytes(line + b"\n{")
    with pytest.raises(ConfigError, match="not the notes of earlier fetches"):
        fetch_notes.FetchNotes(str(tmp_path))
    assert path.read_bytes() == line + b"\n{"


def test_ids_come_from_a_store_or_are_addresses():
    storage.write_text("memory://ids/ids.txt", "10005_921_B9_1\n36/410_D12_2\n")
    assert fetch_hpa.read_ids("memory://ids/ids.txt") == IDS
    addresses = tuple(f"https://images.proteinatlas.org/{name}" for name in ("10005/921_B9_1", "36/410_D12_2"))
    assert fetch_hpa.read_ids(",".join(addresses)) == addresses


@pytest.fixture
def stored(config):
    """The same to a store."""
    return change(config, out_dir=f"memory://{uuid.uuid4().hex}/images")


def read_all(config):
    return {name: storage.read_bytes(f"{config.out_dir}/{name}") for name in sorted(storage.list_files(config.out_dir))}


def test_a_store_gets_what_a_disk_gets(config, stored, server):
    fetch_hpa.run(config)
    fetch_hpa.run(stored)
    assert read_all(stored) == read_all(config)
    server.requests.clear()
    assert fetch_hpa.run(stored).num_there == 8
    assert server.requests == []


def test_a_killed_run_costs_a_store_the_files_of_a_minute(stored, server, monkeypatch):
    now, texts = [0.0], []
    write_bytes, write_text = storage.write_bytes, storage.write_text

    def write_file(path, data):
        now[0] += 25
        write_bytes(path, data)

    def write_notes(path, text):
        texts.append(text)
        write_text(path, text)

    with monkeypatch.context() as patch:
        patch.setattr(fetch_notes.time, "monotonic", lambda: now[0])
        patch.setattr(fetch_hpa.storage, "write_bytes", write_file)
        patch.setattr(fetch_notes.storage, "write_text", write_notes)
        fetch_hpa.run(stored)
    assert [text.count("\n") for text in texts] == [3, 6, 8]
    whole = read_all(stored)
    # A kill after the seventh file leaves this.
    storage.write_text(f"{stored.out_dir}/{fetch_notes.NOTES_NAME}", texts[1])
    server.requests.clear()
    assert fetch_hpa.run(stored).num_fetched == 2
    assert len(server.requests) == 2
    assert read_all(stored) == whole


def test_an_error_costs_a_store_nothing(stored, server, waits):
    server.faults["/36/410_D12_2_green.jpg"] = [500] * 6
    assert set(fetch_hpa.run(stored).failures) == {FOV_IDS[1]}
    assert len(notes(stored)) == 5
    assert fetch_hpa.run(stored).num_there == 5


def test_two_runs_do_not_write_the_same_notes_in_a_store(stored):
    with folder_lock.hold(stored.out_dir), pytest.raises(ConfigError, match="another job is at work there"):
        fetch_hpa.run(stored)


def test_foreign_notes_are_an_error(config, tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / fetch_hpa.NOTES_NAME).write_text("something else\n")
    with pytest.raises(ConfigError, match="not the notes of earlier fetches"):
        fetch_hpa.run(config)


@pytest.mark.parametrize(
    "wrong",
    [
        {"base_url": "ftp://there"},
        {"image_format": "png"},
        {"max_rate": 0.0},
        {"num_tries": 0},
        {"ids": ()},
    ],
)
def test_a_setting_that_cannot_work_is_an_error(config, wrong):
    with pytest.raises(ConfigError):
        change(config, **wrong)


def test_the_command_ends_with_status_1_and_the_list_of_failures(server, tmp_path):
    command = [sys.executable, "-m", "beam_jobs.fetch_hpa", f"--base_url={server.url}", "--max_rate=1000"]
    flags = [f"--ids={IDS[0]},99_1_A1_1", f"--out_dir={tmp_path / 'images'}"]
    done = subprocess.run([*command, *flags], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "fetched   4 files" in done.stdout
    assert "failed    99_1_A1_1: " in done.stdout
    assert "HTTP status 404" in done.stdout
