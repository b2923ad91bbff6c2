"""The main job as a user runs it: a command, its exit status and words, a kill in the middle, real FOVs."""

import hashlib
import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import pandas as pd
import psutil
import pytest

import small_fovs

_SHARED = pathlib.Path(__file__).parents[2] / "shared" / "hpa"


def command(folder, *flags):
    return [
        sys.executable,
        "-m",
        "beam_jobs.convert",
        f"--images={folder}/images",
        f"--labels={folder}/labels.csv",
        f"--out_dir={folder}/out",
        "--segmenter=masks",
        f"--masks_dir={folder}/masks",
        "--pixel_size_um=0.5",
        "--image_size_px=64",
        *flags,
    ]


def run(folder, *flags):
    return subprocess.run(command(folder, *flags), capture_output=True, text=True, timeout=300)


def hashes(folder, pattern="*"):
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob(pattern)
        if path.is_file()
    }


def test_command_makes_a_data_set_and_says_where(tmp_path):
    folder = small_fovs.write_set(tmp_path)
    done = run(folder)
    assert done.returncode == 0, done.stderr
    for part in ("4 read: 4 segmented, 0 failed", "12 kept", "manifest.json", "report.html"):
        assert part in done.stdout
    assert "WARNING" not in done.stderr
    assert (folder / "out" / "dataset" / "manifest.json").exists()


def test_dead_fov_ends_with_status_1_and_allowed_ones_with_0(tmp_path):
    folder = small_fovs.write_set(tmp_path)
    (folder / "images" / "fov-0_yellow.png").unlink()
    failed = run(folder)
    assert failed.returncode == 1
    assert "1 failed" in failed.stdout
    assert "no yellow channel" in failed.stdout
    assert not (folder / "out" / "dataset" / "manifest.json").exists()
    assert run(folder, "--max_dead_fraction=0.25").returncode == 0


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--splits=train"], "--splits"),
        (["--imagse=x"], "--imagse"),
        (["--channels=xyz"], "channels"),
        (["--segmenter=watershed"], "masks_dir"),
        (["--image_size_px=1"], "image size"),
        (["--classes=Golgy"], "Golgy"),
        (["--num_workers=0"], "num_workers"),
        (["--shards=train=2.5"], "no whole number"),
        (["--group_column=plate"], "--group_column=plate"),
        (["--cells_dir=foo://x"], "foo"),
    ],
)
def test_bad_flag_is_one_line_and_nothing_is_read(tmp_path, flags, message):
    folder = small_fovs.write_set(tmp_path, num_fovs=1)
    done = run(folder, *flags)
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert message in done.stderr
    assert not (folder / "out").exists()


def test_killed_job_goes_on_and_ends_with_the_same_bytes(tmp_path):
    undisturbed = small_fovs.write_set(tmp_path / "undisturbed", num_fovs=40, height=256, width=256, num_cells=9)
    killed = small_fovs.write_set(tmp_path / "killed", num_fovs=40, height=256, width=256, num_cells=9)
    assert run(undisturbed).returncode == 0
    cells = killed / "out" / "cells" / "fovs"
    job = subprocess.Popen(
        command(killed), start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 120
    while len(list(cells.rglob("[!.]*.json"))) < 5:
        assert job.poll() is None, "the job ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.005)
    os.killpg(job.pid, signal.SIGKILL)
    job.wait()
    finished = {path: path.stat().st_mtime_ns for path in cells.rglob("[!.]*.json")}
    assert 5 <= len(finished) < 40
    done = run(killed)
    assert done.returncode == 0, done.stderr
    assert f"{40 - len(finished)} in this run" in done.stdout
    # No FOV that had finished was segmented twice.
    assert all(path.stat().st_mtime_ns == written for path, written in finished.items())
    assert hashes(killed / "out", "*.tfrecord") == hashes(undisturbed / "out", "*.tfrecord")
    assert hashes(killed / "out", "*.parquet").keys() == hashes(undisturbed / "out", "*.parquet").keys()
    for name in ("dataset/plan.parquet", "cells/cells.parquet"):
        assert (killed / "out" / name).read_bytes() == (undisturbed / "out" / name).read_bytes()
    assert not list((killed / "out").rglob(".tmp-*"))


@pytest.mark.parametrize("killed", ["the process that starts the workers", "a worker"])
def test_killed_worker_ends_the_job_with_a_word(killed, tmp_path):
    folder = small_fovs.write_set(tmp_path, num_fovs=60, height=256, width=256, num_cells=9)
    job = subprocess.Popen(
        command(folder, "--num_workers=2"),
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    processes = []
    deadline = time.monotonic() + 120
    while len(processes) < 3 or not list((folder / "out" / "cells" / "fovs").rglob("*.json")):
        assert job.poll() is None, "the job ended before a worker could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.01)
        processes = psutil.Process(job.pid).children(recursive=True)
    assert all("beam_jobs.local_worker" in process.cmdline() for process in processes)
    processes[-1 if killed == "a worker" else 0].kill()
    _, errors = job.communicate(timeout=60)
    assert job.returncode == 1
    assert killed in errors
    assert "run the same command to go on" in errors
    _, left = psutil.wait_procs(processes, timeout=5)
    assert {process.status() for process in left} <= {psutil.STATUS_ZOMBIE}
    assert run(folder).returncode == 0


@pytest.mark.parametrize("num_workers", [1, 2])
def test_ctrl_c_stops_with_a_word_and_the_same_command_goes_on(num_workers, tmp_path):
    folder = small_fovs.write_set(tmp_path, num_fovs=60, height=256, width=256, num_cells=9)
    job = subprocess.Popen(
        command(folder, f"--num_workers={num_workers}"),
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 120
    while not list((folder / "out" / "cells" / "fovs").rglob("*.json")):
        assert job.poll() is None, "the job ended before it could be stopped"
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.killpg(job.pid, signal.SIGINT)
    _, errors = job.communicate(timeout=60)
    assert job.returncode == 130
    assert errors.splitlines()[-1] == "stopped; run the same command to go on"
    assert "Traceback" not in errors
    assert not list((folder / "out").rglob(".lock"))
    assert run(folder).returncode == 0


def test_set_without_labels_becomes_one_predict_split(tmp_path):
    folder = small_fovs.write_set(tmp_path, num_fovs=2)
    (folder / "labels.csv").unlink()
    flags = [flag for flag in command(folder) if not flag.startswith("--labels")]
    assert subprocess.run(flags, capture_output=True).returncode == 0
    manifest = json.loads((folder / "out" / "dataset" / "manifest.json").read_text())
    assert [(split["name"], split["num_examples"]) for split in manifest["splits"]] == [("predict", 8)]


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    if not (_SHARED / "fovs").exists():
        pytest.skip("shared data not there: hpa/fovs")
    out = tmp_path_factory.mktemp("real")
    flags = [f"--images={_SHARED}/fovs", f"--labels={_SHARED}/train.csv", f"--out_dir={out}", "--label_scope=all"]
    done = subprocess.run([sys.executable, "-m", "beam_jobs.convert", *flags], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return out


def test_real_fovs_give_shards_that_tensorflow_reads_without_this_project(real):
    script = """
import json, pathlib, sys
import tensorflow as tf
folder = pathlib.Path(sys.argv[1])
manifest = json.loads((folder / "manifest.json").read_text())
size, channels = manifest["image_size_px"], len(manifest["channels"])
features = {"image/encoded": tf.io.FixedLenFeature([], tf.string), "cell/labels": tf.io.RaggedFeature(tf.int64),
            "cell/id": tf.io.FixedLenFeature([], tf.string)}
def parse(record):
    example = tf.io.parse_single_example(record, features)
    planes = tf.reshape(tf.io.decode_jpeg(example["image/encoded"]), [channels, size, size])
    return example["cell/id"], planes, example["cell/labels"]
files = [str(folder / shard["name"]) for shard in manifest["shards"]]
cells = list(tf.data.TFRecordDataset(files).map(parse))
assert "hpa_proto" not in sys.modules and "beam_jobs" not in sys.modules
print(json.dumps([[i.numpy().decode(), list(p.shape), float(tf.reduce_mean(tf.cast(p, tf.float32))), l.numpy().tolist()]
                  for i, p, l in cells]))
"""
    output = subprocess.run(
        [sys.executable, "-c", script, str(real / "dataset")], capture_output=True, text=True, check=True
    )
    cells = json.loads(output.stdout)
    plan = pd.read_parquet(real / "dataset" / "plan.parquet")
    assert {cell_id for cell_id, *_ in cells} == set(plan.loc[plan["dropped"] == "", "cell_id"])
    assert all(shape == [4, 528, 528] and mean > 3 for _, shape, mean, _ in cells)
    labels = {cell_id[:8]: label_set for cell_id, _, _, label_set in cells}
    assert labels == {"000a6c98": [0, 1, 2, 7], "a7faf0b4": [17], "f0ac7116": [15]}


def test_real_fovs_plan_and_manifest_add_up(real):
    plan = pd.read_parquet(real / "dataset" / "plan.parquet")
    cells = pd.read_parquet(real / "cells" / "cells.parquet")
    manifest = json.loads((real / "dataset" / "manifest.json").read_text())
    assert sorted(plan["cell_id"]) == sorted(cells["cell_id"])
    kept = plan[plan["dropped"] == ""]
    assert sum(split["num_examples"] for split in manifest["splits"]) == len(kept)
    assert 70 <= len(cells) <= 85
    assert cells["area_um2"].between(50, 3000).all()
