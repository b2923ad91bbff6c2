"""Promises of the segmenting job and of the cell store, through the real pipeline on the local runner."""

import json
import shutil

import cv2
import numpy as np
import pandas as pd
import pytest

import small_fovs
from beam_jobs import crop_codec, segment, segment_fovs
from beam_jobs.cell_store import CellStore
from beam_jobs.near_duplicates import perceptual_hash
from beam_jobs.segment import SegmentConfig
from hpa_proto import masks, storage
from hpa_proto.errors import ConfigError, DatasetError


def make_config(folder, **changes):
    options = {
        "images": f"{folder}/images",
        "labels": f"{folder}/labels.csv",
        "cells_dir": f"{folder}/cells",
        "segmenter": "masks",
        "masks_dir": f"{folder}/masks",
        "pixel_size_um": 0.5,
    }
    return SegmentConfig(**{**options, **changes})


def reasons(result):
    dead = result.fovs[result.fovs["error_reason"] != ""]
    return dict(zip(dead["fov_id"], dead["error_reason"], strict=True))


def bytes_below(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*.tfrecord")}


@pytest.fixture
def folder(tmp_path):
    return small_fovs.write_set(tmp_path)


def test_every_cell_is_in_the_store_with_its_pixels_and_labels(folder):
    result = segment.run(make_config(folder))
    assert list(result.cells["cell_id"]) == [f"fov-{fov}_{cell}" for fov in range(4) for cell in range(1, 5)]
    assert list(result.cells["labels"].unique()) == ["0", "5", "0|7", "16"]
    for index, row in result.cells.iterrows():
        cell = result.store.read_cell(row.file, offset_bytes=row.offset_bytes, length_bytes=row.length_bytes)
        image, cell_mask, _ = small_fovs.draw_fov(seed=index // 4)
        box = np.s_[row.y_min : row.y_max, row.x_min : row.x_max]
        np.testing.assert_array_equal(crop_codec.decode_crop(cell), np.moveaxis(image[box], 2, 0))
        mask = masks.decode_mask(cell.cell_mask.counts, height=cell.cell_mask.height, width=cell.cell_mask.width)
        np.testing.assert_array_equal(mask, cell_mask[box] == row.cell_index)
        assert cell.cell_id == row.cell_id


def test_tables_on_disk_are_the_result(folder):
    result = segment.run(make_config(folder))
    cells, fovs = CellStore.open(f"{folder}/cells").read_tables()
    pd.testing.assert_frame_equal(cells, result.cells)
    pd.testing.assert_frame_equal(fovs, result.fovs)
    assert list(fovs["num_cells"]) == [4] * 4
    assert set(fovs["height_px"]) == {96}
    assert cells["touches_border"].dtype == bool
    assert (folder / "cells" / "dead_letters.jsonl").read_text() == ""


def test_default_segmenter_finds_the_discs(tmp_path):
    folder = small_fovs.write_set(tmp_path, height=400, width=400, num_fovs=2)
    result = segment.run(make_config(folder, segmenter="watershed", masks_dir=None, pixel_size_um=0.16))
    assert list(result.fovs["num_cells"]) == [4, 4]


def test_two_runs_and_two_workers_write_the_same_bytes(tmp_path):
    stores = []
    for name, num_workers in (("a", 1), ("b", 1), ("c", 2)):
        folder = small_fovs.write_set(tmp_path / name)
        result = segment.run(make_config(folder, num_workers=num_workers))
        stores.append((bytes_below(folder / "cells"), result.cells))
    assert len(stores[0][0]) == 4
    for files, cells in stores[1:]:
        assert files == stores[0][0]
        pd.testing.assert_frame_equal(cells, stores[0][1])


def test_finished_fovs_are_not_segmented_again(folder, monkeypatch):
    first = segment.run(make_config(folder))
    files = bytes_below(folder / "cells")
    (folder / "cells" / first.cells["file"].iloc[0].replace(".tfrecord", ".json")).unlink()
    done = []
    segment_fov = segment_fovs._SegmentFov._segment
    monkeypatch.setattr(
        segment_fovs._SegmentFov,
        "_segment",
        lambda self, fov, row: done.append(fov.fov_id) or segment_fov(self, fov, row),
    )
    second = segment.run(make_config(folder))
    assert done == ["fov-0"]
    assert (first.num_segmented, second.num_segmented) == (4, 1)
    assert bytes_below(folder / "cells") == files
    pd.testing.assert_frame_equal(second.cells, first.cells)


def test_corrected_labels_cost_no_segmentation(folder):
    segment.run(make_config(folder))
    labels = (folder / "labels.csv").read_text().replace("fov-1,5", "fov-1,6")
    (folder / "labels.csv").write_text(labels)
    result = segment.run(make_config(folder))
    assert result.num_segmented == 0
    assert set(result.cells.loc[result.cells["fov_id"] == "fov-1", "labels"]) == {"6"}
    assert list(result.fovs["labels"]) == ["0", "6", "0|7", "16"]


def test_replaced_images_are_segmented_again(folder):
    first = segment.run(make_config(folder))
    image, _, _ = small_fovs.draw_fov(seed=99)
    small_fovs.write_fov(folder / "images", "fov-2", image)
    second = segment.run(make_config(folder))
    assert second.num_segmented == 1
    changed = first.cells["record_crc32c"] != second.cells["record_crc32c"]
    assert set(first.cells.loc[changed, "fov_id"]) == {"fov-2"}


def test_further_columns_of_the_label_file_reach_the_tables(folder):
    lines = (folder / "labels.csv").read_text().splitlines()
    plates = ["plate", "p1", "p1", "p2", "p2"]
    rows = [f"{line},{plate}" for line, plate in zip(lines, plates, strict=True)]
    (folder / "labels.csv").write_text("\n".join(rows) + "\n")
    result = segment.run(make_config(folder))
    assert list(result.fovs["plate"]) == plates[1:]
    assert set(result.cells.loc[result.cells["fov_id"] == "fov-3", "plate"]) == {"p2"}


def test_file_with_an_unusable_name_is_a_dead_letter(folder):
    (folder / "images" / "plate 1_red.png").write_bytes(b"x")
    result = segment.run(make_config(folder))
    assert reasons(result) == {"plate 1": "bad_id"}
    assert len(result.cells) == 16
    assert result.too_many_dead


def test_half_written_files_of_a_killed_job_are_removed(folder):
    stray = folder / "cells" / "fovs" / "00"
    segment.run(make_config(folder))
    stray.mkdir(exist_ok=True)
    (stray / ".tmp-x.tfrecord-12345678").write_bytes(b"half")
    segment.run(make_config(folder))
    assert not list((folder / "cells").rglob(".tmp-*"))


def test_store_of_another_config_is_refused_with_both_digests(folder):
    first = segment.run(make_config(folder))
    with pytest.raises(ConfigError, match=rf"{first.store.digest}.*this job's is [0-9a-f]{{16}}"):
        segment.run(make_config(folder, pixel_size_um=0.25))


def test_folder_with_other_files_is_refused(folder):
    (folder / "cells").mkdir()
    (folder / "cells" / "thesis.docx").write_bytes(b"x")
    with pytest.raises(ConfigError, match=r"no cell store \(found thesis\.docx"):
        segment.run(make_config(folder))


def test_edited_config_is_an_error(folder):
    segment.run(make_config(folder))
    path = folder / "cells" / "config.json"
    path.write_text(path.read_text().replace("0.5", "0.6"))
    with pytest.raises(DatasetError, match="was it edited"):
        CellStore.open(f"{folder}/cells")


def test_altered_cell_is_an_error_that_names_file_and_offset(folder):
    result = segment.run(make_config(folder))
    row = result.cells.iloc[1]
    path = folder / "cells" / row.file
    data = bytearray(path.read_bytes())
    data[row.offset_bytes + 40] ^= 1
    path.write_bytes(bytes(data))
    fault = rf"{row.file}: corrupt record at byte {row.offset_bytes} .*; delete the file and run `python -m beam_jobs.segment`"
    with pytest.raises(DatasetError, match=fault):
        result.store.read_cell(row.file, offset_bytes=row.offset_bytes, length_bytes=row.length_bytes)
    path.unlink()
    with pytest.raises(DatasetError, match=rf"{row.file}: missing; run `python -m beam_jobs.segment` again"):
        result.store.read_cell(row.file, offset_bytes=row.offset_bytes, length_bytes=row.length_bytes)


@pytest.mark.parametrize("damage", [lambda path: path.unlink(), lambda path: path.write_bytes(path.read_bytes()[:-1])])
def test_fov_whose_cells_are_gone_or_cut_short_is_segmented_again(folder, damage):
    first = segment.run(make_config(folder))
    files = bytes_below(folder / "cells")
    damage(folder / "cells" / first.cells["file"].iloc[0])
    assert segment.run(make_config(folder)).num_segmented == 1
    assert bytes_below(folder / "cells") == files


def test_fov_whose_cells_are_gone_from_an_object_store_needs_work(folder):
    first = segment.run(make_config(folder))
    path = f"memory://{folder.name}-cells"
    for file in (folder / "cells").rglob("*.*"):
        storage.write_bytes(storage.join(path, str(file.relative_to(folder / "cells"))), file.read_bytes())
    store = CellStore(path, first.store.digest)
    ids = set(first.fovs["fov_id"])
    assert store.finished_fovs(ids).keys() == ids
    storage.remove(storage.join(path, first.cells["file"].iloc[0]))
    assert store.finished_fovs(ids).keys() == ids - {first.cells["fov_id"].iloc[0]}


@pytest.mark.parametrize("key", ["error_reason", "num_bytes", "offset_bytes", "solidity", "focus", "fov", "cells"])
def test_note_with_a_key_renamed_is_an_error_that_says_what_to_do(folder, key):
    first = segment.run(make_config(folder))
    path = folder / "cells" / first.cells["file"].iloc[0].replace(".tfrecord", ".json")
    path.write_text(path.read_text().replace(f'"{key}"', '"renamed"', 1))
    with pytest.raises(DatasetError, match=rf"{path}: damaged: .*; delete it and run again"):
        segment.run(make_config(folder))
    path.unlink()
    pd.testing.assert_frame_equal(segment.run(make_config(folder)).cells, first.cells)


def test_fov_that_becomes_a_dead_letter_leaves_no_cells(folder):
    first = segment.run(make_config(folder))
    (folder / "images" / "fov-0_yellow.png").write_bytes(b"")
    assert segment.run(make_config(folder, max_dead_fraction=1)).num_dead == 1
    assert not (folder / "cells" / first.cells["file"].iloc[0]).exists()
    assert len(bytes_below(folder / "cells")) == 3


def test_bad_fovs_become_dead_letters_and_do_not_stop_the_rest(tmp_path):
    folder = small_fovs.write_set(tmp_path, num_fovs=8)
    images = folder / "images"
    (images / "fov-0_yellow.png").unlink()
    (images / "fov-1_red.png").write_bytes(b"")
    data = (images / "fov-2_green.png").read_bytes()
    (images / "fov-2_green.png").write_bytes(data[: len(data) // 2])
    cv2.imwrite(str(images / "fov-3_blue.png"), np.zeros((10, 10), np.uint8))
    (folder / "masks" / "fov-4_cell.png").unlink()
    cv2.imwrite(str(folder / "masks" / "fov-5_cell.png"), np.zeros((96, 128), np.uint8))
    lines = (folder / "labels.csv").read_text().splitlines()
    (folder / "labels.csv").write_text("\n".join(line for line in lines if not line.startswith("fov-6")) + "\n")
    result = segment.run(make_config(folder))
    assert reasons(result) == {
        "fov-0": "missing_channel",
        "fov-1": "empty_file",
        "fov-2": "truncated_image",
        "fov-3": "size_mismatch",
        "fov-4": "missing_mask",
        "fov-5": "no_cells",
        "fov-6": "no_label",
    }
    assert set(result.cells["fov_id"]) == {"fov-7"}
    letters = [json.loads(line) for line in (folder / "cells" / "dead_letters.jsonl").read_text().splitlines()]
    assert [(letter["fov"], letter["stage"]) for letter in letters[:2]] == [("fov-0", "read"), ("fov-1", "read")]
    assert "fov-0_yellow.png" in letters[0]["detail"]
    assert len(letters) == 7
    assert result.too_many_dead
    text = segment.describe(result)
    assert "8 read: 1 segmented, 7 failed" in text
    assert "FAILED" in text
    assert "1 missing_channel" in text


def test_mended_fov_is_taken_up_by_the_next_run(folder):
    yellow = (folder / "images" / "fov-0_yellow.png").read_bytes()
    (folder / "images" / "fov-0_yellow.png").write_bytes(b"")
    assert segment.run(make_config(folder)).num_dead == 1
    (folder / "images" / "fov-0_yellow.png").write_bytes(yellow)
    result = segment.run(make_config(folder))
    assert (result.num_dead, result.num_segmented, len(result.cells)) == (0, 1, 16)


def test_allowed_share_of_dead_fovs_is_no_failure(folder):
    (folder / "images" / "fov-0_yellow.png").unlink()
    assert segment.run(make_config(folder)).too_many_dead
    assert not segment.run(make_config(folder, max_dead_fraction=0.25)).too_many_dead


def test_every_fov_that_was_read_has_a_perceptual_hash(folder):
    for channel in ("red", "green", "blue", "yellow"):
        shutil.copy(folder / "images" / f"fov-1_{channel}.png", folder / "images" / f"copy_{channel}.png")
    with open(folder / "labels.csv", "a") as file:
        file.write("copy,5\n")
    for kind in ("cell", "nuclei"):
        shutil.copy(folder / "masks" / f"fov-1_{kind}.png", folder / "masks" / f"copy_{kind}.png")
    (folder / "images" / "fov-3_red.png").write_bytes(b"")
    fovs = segment.run(make_config(folder, max_dead_fraction=1)).fovs.set_index("fov_id")
    image, _, _ = small_fovs.draw_fov(seed=1)
    assert fovs.at["copy", "perceptual_hash"] == fovs.at["fov-1", "perceptual_hash"] == perceptual_hash(image)
    lengths = fovs["perceptual_hash"].str.len().to_dict()
    assert lengths == {"copy": 64, "fov-0": 64, "fov-1": 64, "fov-2": 64, "fov-3": 0}
    assert fovs["perceptual_hash"].nunique() == 4


def test_bug_in_a_segmenter_fails_the_job(folder, monkeypatch):
    def fail(self, image, *, fov_id):
        raise ZeroDivisionError("a bug, not a bad FOV")

    monkeypatch.setattr("beam_jobs.segmenters.masks.MasksSegmenter.segment", fail)
    with pytest.raises(Exception, match="a bug, not a bad FOV"):
        segment.run(make_config(folder))


def test_set_without_labels(folder):
    result = segment.run(make_config(folder, labels=None))
    assert set(result.cells["labels"]) == {""}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"segmenter": "magic"}, "--segmenter=magic"),
        ({"masks_dir": None}, "masks_dir"),
        ({"masks_dir": "/none/such"}, "masks_dir"),
        ({"bit_depth": 9}, "--bit_depth=9"),
        ({"pixel_size_um": 0.0}, "--pixel_size_um"),
        ({"beam_args": ("--bogus=3",)}, "unknown flag --bogus=3"),
        ({"images": "/none/such"}, "no such folder"),
    ],
)
def test_bad_flag_fails_before_anything_is_written(folder, changes, message):
    with pytest.raises(ConfigError, match=message):
        segment.run(make_config(folder, **changes))
    assert not (folder / "cells").exists()
