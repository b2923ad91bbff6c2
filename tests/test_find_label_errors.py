"""The command `trainer.find_label_errors`: tables, list, and a gallery that works in a real browser, opened from disk."""

import dataclasses
import json

import cv2
import numpy as np
import pandas as pd
import pytest

import browser
import fold_runs
import random_predictions
from beam_jobs.exclusions import read_exclusions
from hpa_proto.errors import ConfigError, DatasetError
from trainer import find_label_errors, label_error_page
from trainer.find_label_errors import LabelErrorsConfig

NUM_FOVS, CELLS_PER_FOV = 30, 6
MAX_CELLS = 125
# An id may hold whatever a file name may.
ODD_FOV = "x\"</script><b onclick='f()'>,&y"


def make_predictions(*, multi_label=False):
    """Makes cells of which those of three FOVs have a wrong label; one of these FOVs has an odd id."""
    found = random_predictions.make_predictions(
        num_cells=NUM_FOVS * CELLS_PER_FOV,
        num_classes=4,
        cells_per_fov=CELLS_PER_FOV,
        multi_label=multi_label,
        skill=4.0,
    )
    fovs = np.unique(found.fov_ids.astype(str))
    rename = {fovs[1]: ODD_FOV}
    wrong = np.isin(found.fov_ids.astype(str), fovs[[1, 8, 15]])
    labels = found.labels.copy()
    labels[wrong] = np.roll(labels[wrong], 1, axis=1)
    return dataclasses.replace(
        found,
        labels=labels,
        fov_ids=np.array([rename.get(fov, fov) for fov in found.fov_ids], dtype=object),
        cell_ids=np.array(
            [cell.replace(fov, rename.get(fov, fov)) for cell, fov in zip(found.cell_ids, found.fov_ids, strict=True)],
            dtype=object,
        ),
    ), {rename.get(fov, fov) for fov in fovs[[1, 8, 15]]}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Data set, runs, what the command wrote about them, and what was found."""
    folder = tmp_path_factory.mktemp("made")
    whole, wrong = make_predictions()
    data_dir, runs = fold_runs.write(folder, whole, num_folds=3)
    out_dir = folder / "out"
    config = LabelErrorsConfig(tuple(runs), data_dir, str(out_dir), max_cells=MAX_CELLS, picture_size_px=64)
    return out_dir, find_label_errors.run(config), wrong, config


def test_tables_and_list_are_of_all_cells(made):
    out_dir, found, wrong, _ = made
    cells = pd.read_parquet(out_dir / "label_errors.parquet")
    assert len(cells) == NUM_FOVS * CELLS_PER_FOV
    assert cells["cell_id"].tolist() == found.cells["cell_id"].tolist()
    assert cells["given_labels"].map(list).tolist() == found.cells["given_labels"].tolist()
    fovs = pd.read_parquet(out_dir / "label_errors_by_fov.parquet")
    assert set(fovs["fov_id"].head(3)) == wrong
    assert len(pd.read_parquet(out_dir / "label_errors_by_class.parquet")) == 4
    doubtful = read_exclusions(str(out_dir / "exclude.csv"))
    assert list(doubtful) == cells.loc[cells["is_issue"], "cell_id"].tolist()
    assert 0 < len(doubtful) == found.num_issues < len(cells)
    assert cells["fov_id"].isin(wrong).head(12).all()


def test_the_command_says_what_it_found(made, capsys, monkeypatch):
    out_dir, found, _, config = made
    monkeypatch.setattr("trainer.predict.run", lambda _: pytest.fail("the predictions are there"))
    flags = [f"--runs={','.join(config.runs)}", f"--data_dir={config.data_dir}", f"--out_dir={out_dir.parent}/plain"]
    assert find_label_errors.main(["find_label_errors", *flags, "--max_cells=0"]) == 0
    printed = capsys.readouterr().out
    assert f"cells     180: the label of {found.num_issues} is likely wrong" in printed
    num_fovs = (found.fovs["issue_share"] > 0.5).sum()
    assert f"FOVs      30: in {num_fovs} that holds for most cells" in printed
    assert not (out_dir.parent / "plain" / "gallery.html").exists()
    assert (out_dir.parent / "plain" / "exclude.csv").exists()


def test_several_labels_make_a_page_too(tmp_path):
    whole, _ = make_predictions(multi_label=True)
    data_dir, runs = fold_runs.write(tmp_path, whole, num_folds=2)
    config = LabelErrorsConfig(tuple(runs), data_dir, str(tmp_path / "out"), max_cells=20, picture_size_px=32)
    found = find_label_errors.run(config)
    assert found.multi_label
    page = browser.open_page(tmp_path / "out" / "gallery.html", tmp_path)
    browser.check_page(page, files_of=tmp_path / "out" / "gallery")
    several = next(labels for labels in found.cells["given_labels"].head(20) if len(labels) == 2)
    names = dict(found.classes)
    assert f"given {names[several[0]]}, {names[several[1]]}" in page.text


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"runs": ()}, "--runs is missing"),
        ({"max_cells": -1}, "--max_cells=-1: give at least 0"),
        ({"picture_size_px": 8}, "--picture_size_px=8: give at least 16"),
        ({"picture_size_px": 2000}, "give at most 512"),
        ({"fov_weight": 1.5}, "--fov_weight=1.5"),
        ({"fov_weight": float("nan")}, "--fov_weight=nan"),
    ],
)
def test_flags_that_cannot_work_are_an_error(options, words):
    with pytest.raises(ConfigError, match=words):
        LabelErrorsConfig(**{"runs": ("a", "b"), "data_dir": "set", **options})


def test_flags_reach_the_config(capsys):
    flags = ["--runs=a,b", "--data_dir=d", "--out_dir=o", "--checkpoint=last", "--batch_size=4", "--fov_weight=0.2"]
    flags += ["--max_cells=7", "--picture_size_px=40"]
    assert find_label_errors.make_config(["find", *flags]) == LabelErrorsConfig(
        ("a", "b"), "d", "o", "last", 4, 0.2, 7, 40
    )
    assert find_label_errors.main(["find", "--runs=a,b"]) == 1
    assert "error: --data_dir is missing" in capsys.readouterr().err


def test_a_damaged_shard_leaves_no_page(made, tmp_path):
    config = made[3]
    whole, _ = make_predictions()
    data_dir, runs = fold_runs.write(tmp_path, whole, num_folds=3)
    out_dir = tmp_path / "out"
    out_dir.mkdir()
    (out_dir / "gallery.html").write_text("of an earlier time")
    shard = tmp_path / "set" / "fold1-00000-of-00001.tfrecord"
    shard.write_bytes(shard.read_bytes()[:-50])
    with pytest.raises(DatasetError, match="fold1-00000-of-00001"):
        find_label_errors.run(dataclasses.replace(config, runs=tuple(runs), data_dir=data_dir, out_dir=str(out_dir)))
    assert not (out_dir / "gallery.html").exists()


def cards(visit):
    """Returns the cells on the page, as their places in the list."""
    return visit.run("[...document.querySelectorAll('.card')].map(card => Number(card.dataset.cell))")


def show(picture, *, size_px=48):
    return cv2.resize(picture, (size_px, size_px), interpolation=cv2.INTER_AREA).astype(float).ravel()


def test_every_card_shows_its_own_cell(made, tmp_path):
    out_dir, found, _, config = made
    listed = found.cells.head(MAX_CELLS)
    sheets = label_error_page.draw_sheets(
        list(listed["cell_id"]), "fold0+fold1+fold2", data_dir=config.data_dir, picture_size_px=64
    )
    assert [sheet.shape for sheet in sheets] == [(640, 640, 3), (3 * 64, 640, 3)]
    with browser.visit(out_dir / "gallery.html", tmp_path) as visit:
        browser.check_page(visit.inspect(), files_of=out_dir / "gallery")
        for place in (0, 13, 99, 100, 124):
            png = visit.screenshot(f".card[data-cell='{place}'] .picture")
            seen = cv2.cvtColor(cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)
            sheet, (row, column) = place // 100, divmod(place % 100, 10)
            drawn = sheets[sheet][row * 64 : row * 64 + 64, column * 64 : column * 64 + 64]
            beside = sheets[sheet][row * 64 : row * 64 + 64, (column - 1) % 10 * 64 : ((column - 1) % 10 + 1) * 64]
            assert np.corrcoef(show(seen), show(drawn))[0, 1] > 0.9
            assert np.corrcoef(show(seen), show(beside))[0, 1] < 0.8


def test_page_filters_sorts_marks_and_downloads(made, tmp_path):
    out_dir, found, _, _ = made
    listed = found.cells.head(MAX_CELLS)
    given = np.array([labels[0] for labels in listed["given_labels"]])
    predicted = np.array([labels[0] for labels in listed["predicted_labels"]])
    quality, confidence = listed["label_quality"].to_numpy(), listed["confidence"].to_numpy()
    with browser.visit(out_dir / "gallery.html", tmp_path, width=1300) as visit:
        browser.check_page(visit.inspect(), files_of=out_dir / "gallery")
        assert cards(visit) == list(range(MAX_CELLS))

        visit.choose("#given", "2")
        assert cards(visit) == np.flatnonzero(given == 2).tolist()
        visit.choose("#predicted", "1")
        assert cards(visit) == np.flatnonzero((given == 2) & (predicted == 1)).tolist()
        visit.choose("#given", "")
        visit.choose("#predicted", "")
        visit.choose("#quality", "0.05")
        assert 0 < len(cards(visit)) == (quality <= 0.05).sum() < MAX_CELLS
        visit.choose("#quality", "1")
        visit.choose("#sort", "confidence")
        assert np.diff(confidence[cards(visit)].round(4)).max() <= 0
        visit.choose("#sort", "quality")
        visit.choose("#text", ODD_FOV.upper())
        assert set(listed["fov_id"].iloc[cards(visit)]) == {ODD_FOV}
        visit.choose("#text", "")
        visit.click("#issues-only")
        assert cards(visit) == np.flatnonzero(listed["is_issue"]).tolist()
        visit.click("#issues-only")

        # A cell by the mouse, its neighbour by the keyboard, a FOV by its button.
        visit.click(".card[data-cell='40'] .picture")
        visit.press("ArrowRight")
        visit.press("Enter")
        odd = np.flatnonzero(listed["fov_id"] == ODD_FOV)[0]
        visit.click(f".card[data-cell='{odd}'] .whole")
        wanted = {*listed["cell_id"].iloc[[40, 41]], *found.cells.loc[found.cells["fov_id"] == ODD_FOV, "cell_id"]}
        assert len(wanted) == 2 + CELLS_PER_FOV
        assert visit.text("#marked") == "8 marked to drop"
        pressed = visit.run("[...document.querySelectorAll('[aria-pressed=true].picture')].map(each => each.title)")
        assert set(pressed) == wanted
        path = visit.download("#download")
        assert path.name == "exclude.csv"
        assert set(read_exclusions(str(path))) == wanted

    # The same reader comes back.
    with browser.visit(out_dir / "gallery.html", tmp_path, width=700) as visit:
        assert visit.text("#marked") == "8 marked to drop"
        visit.click("#marked-only")
        assert set(listed["cell_id"].iloc[cards(visit)]) == wanted
        visit.click(".card .picture")
        assert visit.text("#marked") == "7 marked to drop"
        browser.check_page(visit.inspect(), files_of=out_dir / "gallery")


def test_a_fov_can_be_shown_alone_and_marked_whole_where_only_some_cells_are_listed(made, tmp_path):
    out_dir, found, _, _ = made
    counts = found.cells.head(MAX_CELLS).groupby("fov_id").size()
    fov = next(fov for fov, count in counts.items() if 0 < count < CELLS_PER_FOV)
    with browser.visit(out_dir / "gallery.html", tmp_path) as visit:
        first = int(np.flatnonzero(found.cells["fov_id"] == fov)[0])
        visit.click(f".card[data-cell='{first}'] a")
        assert visit.text("#fov-name") == fov
        assert len(cards(visit)) == counts[fov]
        visit.click(".card .whole")
        others = CELLS_PER_FOV - counts[fov]
        assert visit.text("#marked") == f"{CELLS_PER_FOV} marked to drop ({others} of them not listed here)"
        assert len(read_exclusions(str(visit.download("#download")))) == CELLS_PER_FOV
        visit.click("#all-fovs")
        assert len(cards(visit)) == MAX_CELLS
        visit.run("window.confirm = () => true")
        visit.click("#unmark-all")
        assert visit.text("#marked") == "0 marked to drop"
        assert visit.run("document.querySelector('#download').disabled")
        # Of the table of FOVs, whose first rows are of the wrong labels.
        visit.click("#fovs button")
        assert visit.text("#marked") == f"{CELLS_PER_FOV} marked to drop"
        visit.choose("#quality", "0.1")
        visit.click("#mark-shown")
        few = len(cards(visit))
        assert int(visit.text("#marked").split()[0]) == few
        browser.check_page(visit.inspect(), files_of=out_dir / "gallery")


def test_names_and_ids_stay_text_on_the_page(made, tmp_path):
    out_dir, _, _, _ = made
    text = (out_dir / "gallery.html").read_text()
    assert text.count("</script>") == 2
    assert "<b onclick" not in text
    data = json.loads(text.split('id="data">')[1].split("</script>")[0])
    assert ODD_FOV in {fov["id"] for fov in data["fovs"]}
    page = browser.open_page(out_dir / "gallery.html", tmp_path)
    assert ODD_FOV in page.text


def test_equal_findings_give_equal_pages(made, tmp_path):
    out_dir, _, _, config = made
    (tmp_path / "gallery").mkdir()
    for name in ("sheet-009.jpg", "own.jpg"):
        (tmp_path / "gallery" / name).write_text("of an earlier time")
    find_label_errors.run(dataclasses.replace(config, out_dir=str(tmp_path)))
    assert sorted(path.name for path in (tmp_path / "gallery").iterdir()) == [
        "own.jpg",
        "sheet-000.jpg",
        "sheet-001.jpg",
    ]
    names = sorted(path.relative_to(out_dir) for path in out_dir.rglob("*.*"))
    assert len(names) == 7
    for name in names:
        assert (tmp_path / name).read_bytes() == (out_dir / name).read_bytes(), name
