"""Promises of the report: whole, self-contained, escaped, the same for the same set, small for a large one, and true."""

import base64
import dataclasses
import html.parser
import re
import shutil
import subprocess

import cv2
import numpy as np
import pandas as pd
import pytest

import small_dataset
import small_fovs
from beam_jobs import charts, fov_overview, plan_summary, report, report_choice, report_tables
from beam_jobs import plan as plan_lib
from beam_jobs.cell_store import CellStore
from beam_jobs.dataset_job import read_manifest
from beam_jobs.plan_config import PlanConfig
from hpa_proto import schema
from hpa_proto.errors import DatasetError

_PLAN = PlanConfig(
    label_scope="all",
    splits=(("train", 3), ("test", 1)),
    min_green_png_bytes=0,
    max_cells_per_class=9,
    drop_classes=("Cytosol",),
)


@dataclasses.dataclass
class Page:
    """What render_report takes, and the text it makes."""

    store: CellStore
    parts: dict
    text: str


def render(made, config):
    store = CellStore.open(str(made.cells_dir))
    cells, fovs = store.read_tables()
    plan = plan_lib.make_plan(cells, config)
    parts = {
        "plan": plan,
        "summary": plan_summary.describe_plan(plan, config),
        "fovs": fovs,
        "manifest": read_manifest(str(made.data_dir)),
    }
    return Page(store, parts, report.render_report(store, **parts))


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return small_dataset.make(tmp_path_factory.mktemp("made"), num_fovs=9, dead_fovs=(4,), plan=_PLAN)


@pytest.fixture(scope="module")
def page(made):
    return render(made, _PLAN)


class Elements(html.parser.HTMLParser):
    """Collects the elements of a page and checks that they close in order."""

    _EMPTY = frozenset(("meta", "img", "br"))

    def __init__(self, text):
        super().__init__()
        self.found, self._open, self.words = [], [], []
        self.feed(text)
        self.close()
        assert not self._open

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))
        if tag not in self._EMPTY:
            self._open.append(tag)

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        if self._open and self._open[-1] != "style":
            self.words += data.split()

    def images(self):
        return [attributes for tag, attributes in self.found if tag == "img"]


def test_job_writes_the_report_beside_the_manifest(made, page):
    assert (made.data_dir / schema.REPORT_NAME).read_text() == page.text


def test_same_set_gives_the_same_bytes(page):
    assert report.render_report(page.store, **page.parts) == page.text


def test_order_of_rows_and_speed_of_the_machine_do_not_change_the_report(page):
    fovs = page.parts["fovs"].assign(read_msec=77777, segment_msec=88888, store_msec=99999)
    assert report.render_report(page.store, **{**page.parts, "fovs": fovs}) == page.text
    shuffled = page.parts["plan"].sample(frac=1, random_state=3)
    assert report.render_report(page.store, **{**page.parts, "plan": shuffled}) == page.text


def test_page_is_well_formed_and_asks_the_network_for_nothing(page):
    elements = Elements(page.text)
    tags = {tag for tag, _ in elements.found}
    assert not tags & {"script", "link", "iframe", "object", "embed", "base", "form", "video", "audio"}
    for tag, attributes in elements.found:
        assert not [name for name in attributes if name.startswith("on")], tag
        assert "href" not in attributes
        assert attributes.get("src", "data:image/").startswith("data:image/")
    css = "".join(re.findall(r"<style>(.*?)</style>", page.text, re.S))
    assert "url(" not in css
    assert "@import" not in css
    policies = [attributes for tag, attributes in elements.found if "http-equiv" in attributes]
    assert policies[0]["content"].startswith("default-src 'none'")


def test_every_picture_can_be_decoded_and_has_an_alternative_text(page):
    images = Elements(page.text).images()
    assert len(images) > 40
    for attributes in images:
        assert attributes["alt"]
        kind, data = re.fullmatch(r"data:image/(jpeg|svg\+xml);base64,(.+)", attributes["src"]).groups()
        data = base64.b64decode(data, validate=True)
        if kind == "jpeg":
            picture = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
            assert picture.shape[:2] == (int(attributes["height"]), int(attributes["width"]))
            assert picture.max() > 100
        else:
            assert data.rstrip().endswith(b"</svg>")
            assert b"http" not in re.sub(
                rb'xmlns[^ ]*="[^"]*"|"-//W3C[^>]*>|<rdf:RDF.*?</rdf:RDF>', b"", data, flags=re.S
            )


def test_page_says_the_counts(page):
    text = " ".join(Elements(page.text).words)
    summary = page.parts["summary"]
    assert "FOVs segmented 8" in text
    assert "FOVs failed 1" in text
    assert f"cells kept {summary.num_kept}" in text
    assert f"cells dropped {summary.num_cells - summary.num_kept}" in text
    for label, row in summary.per_class.iterrows():
        counts = " ".join(str(int(row[column])) for column in ("num_cells", "num_kept", "train", "test"))
        assert f"{label} {row['name']} {counts}" in text
    assert set(summary.dropped) == {"class_out_of_scope", "class_capped"}
    for reason, count in summary.dropped.items():
        assert f"{reason} {count} {100 * count / summary.num_cells:.1f} %" in text


def test_failed_fovs_come_with_reason_and_detail(page):
    text = " ".join(Elements(page.text).words)
    assert "1 of 9 FOVs could not be used" in text
    assert "read truncated_image 1 fov fov-4:" in text


def test_fovs_that_look_wrong_come_first_with_picture_and_reason(page, made, tmp_path):
    store = CellStore.open(str(shutil.copytree(made.cells_dir, tmp_path / "cells")))
    image, _, _ = small_fovs.draw_fov(seed=1)
    store.write_overview("fov-1", fov_overview.encode_overview(image, bit_depth=8))
    fovs = page.parts["fovs"].set_index("fov_id")
    fovs.loc["fov-1", "looks_wrong"] = "empty_blue|out_of_focus"
    fovs.loc["fov-4", ["error_stage", "error_detail"]] = ["segment", "fov fov-4: no nucleus found"]
    text = report.render_report(store, **{**page.parts, "fovs": fovs.reset_index()})
    section = text[text.index("<h2>FOVs that look wrong") : text.index("<h2>Failed FOVs")]
    assert text.index("<h2>FOVs that look wrong") < text.index("<h2>Fields of view")
    assert (
        section.index("no nucleus found")
        < section.index("the blue channel (nucleus) is empty")
        < section.index("out of focus")
    )
    (picture,) = Elements(section[section.index("</h2>") + 5 : section.rindex("</section>")]).images()
    assert picture["alt"] == "FOV fov-1 and its four channels"
    assert int(picture["width"]) > int(picture["height"]) > 90
    assert "2 of 9 FOVs look wrong" in text
    assert "look wrong" not in page.text


def test_wrong_fovs_are_ordered_and_put_in_words():
    fovs = pd.DataFrame(
        {
            "fov_id": ["a", "b", "c", "d", "e"],
            "labels": "0",
            "width_px": 9,
            "looks_wrong": ["", "out_of_focus", "no_nuclei|foreign_red", "empty_blue", ""],
            "error_stage": ["", "", "", "segment", "read"],
            "error_reason": ["", "", "", "no_cells", "missing_file"],
            "error_detail": ["", "", "", "fov d: no nucleus found", "fov e: not there"],
        }
    )
    with_nuclei, without = (pd.DataFrame({"num_nuclei": [number]}) for number in (1, 0))
    wrong = report_tables.list_wrong(fovs, with_nuclei)
    assert [fov["fov_id"] for fov in wrong] == ["d", "c", "b"]
    assert wrong[0]["reasons"][0] == "no nucleus found"
    assert wrong[1]["reasons"][0] == "no cell has a nucleus"
    # Masks that came without nuclei are said once, not of every FOV.
    assert [len(fov["reasons"]) for fov in report_tables.list_wrong(fovs, without)] == [2, 1, 1]


def test_many_failed_fovs_are_cut_short():
    fovs = pd.DataFrame(
        {
            "fov_id": [f"fov{number:03d}" for number in range(40)],
            "error_stage": "read",
            "error_reason": ["missing_channel"] * 39 + [""],
            "error_detail": [f"detail {number}" for number in range(40)],
        }
    )
    (row,) = report_tables.list_dead(fovs)
    assert row["count"] == 39
    assert row["details"][0] == "detail 0"
    assert len(row["details"]) + row["num_more"] == 39


def test_what_comes_from_the_data_is_escaped(page):
    evil = "<script>alert('x')</script>&\"'"
    fovs = page.parts["fovs"].copy()
    fovs.loc[fovs["error_reason"] != "", "error_detail"] = evil
    summary = dataclasses.replace(page.parts["summary"], notes=(evil,))
    text = report.render_report(page.store, **{**page.parts, "fovs": fovs, "summary": summary})
    assert "<script" not in text
    assert text.count("&lt;script&gt;") == 2
    assert "script" not in {tag for tag, _ in Elements(text).found}


def test_near_identical_fovs_are_shown_side_by_side_unlike_labels_first(page):
    assert "Near-identical FOVs" not in page.text
    fovs = page.parts["fovs"].set_index("fov_id")
    number = int(fovs.at["fov-0", "perceptual_hash"], 16)
    for name, bits in (("fov-8", 5), ("fov-1", 3)):
        fovs.at[name, "perceptual_hash"] = f"{number ^ ((1 << bits) - 1):064x}"
    sets = {"fov-0": "fov-0", "fov-8": "fov-0", "fov-2": "fov-2", "fov-5": "fov-2"}
    plan = plan_lib.make_plan(page.parts["plan"], _PLAN, duplicate_sets=sets)
    parts = {**page.parts, "plan": plan, "fovs": fovs.reset_index()}
    text = report.render_report(page.store, **parts)
    section = text[text.index("<h2>Near-identical FOVs") : text.index("<h2>Fields of view")]
    shown = re.findall(r'alt="FOV (fov-\d), one of a set', section)
    # fov-2 is 7|0, fov-5 is 5; fov-0 and fov-8 are both 0.
    assert shown == ["fov-2", "fov-5", "fov-0", "fov-8"]
    assert section.count("different labels") == 1
    assert "5 of the 256 bits of their hashes differ" in section
    assert section.count("<figure>") == 4


def test_classes_show_their_own_cells(page):
    kept = page.parts["plan"][page.parts["plan"]["dropped"] == ""].set_index("cell_id")
    shown = re.findall(r'alt="([^"(]+) \((\d+)\): cell ([^"]+)"', page.text)
    assert {int(label) for _, label, _ in shown} == set(page.parts["summary"].classes)
    for _, label, cell_id in shown:
        assert label in kept.at[cell_id, "example_labels"].split("|")


def test_dropped_cells_are_shown_by_reason(page):
    dropped = page.parts["plan"].set_index("cell_id")["dropped"]
    for reason in page.parts["summary"].dropped:
        shown = re.findall(rf'alt="{reason}: cell ([^"]+)"', page.text)
        assert 0 < len(shown) <= report.MAX_CELLS_OF_REASON
        assert (dropped[shown] == reason).all()


def test_every_reason_has_a_meaning():
    summary = plan_summary.PlanSummary(
        num_cells=100,
        num_kept=1,
        dropped=dict.fromkeys(plan_lib.REASONS, 1),
        per_class=pd.DataFrame(),
        per_split=pd.DataFrame(),
        notes=(),
    )
    assert all(row["meaning"] for row in report_tables.list_dropped(summary))


def test_set_without_labels_has_a_report(tmp_path):
    made = small_dataset.make(tmp_path, num_fovs=2, with_labels=False)
    text = (made.data_dir / schema.REPORT_NAME).read_text()
    words = " ".join(Elements(text).words)
    assert "not labelled" in words
    assert "Cells per class" not in words
    assert len(re.findall(r'alt="All cells: cell ', text)) == 8


def test_report_of_a_large_set_reads_few_cells_and_stays_small(page, monkeypatch):
    num_fovs, per_fov = 3000, 40
    cells, _ = page.store.read_tables()
    table = cells.iloc[np.zeros(num_fovs * per_fov, dtype=int)].reset_index(drop=True)
    fov = np.repeat(np.arange(num_fovs), per_fov)
    table["fov_id"] = pd.Series([f"fov{number}" for number in fov], dtype="str")
    table["cell_id"] = pd.Series([f"fov{number}_{index}" for index, number in enumerate(fov)], dtype="str")
    table["labels"] = pd.Series((fov % 19).astype(str), dtype="str")
    table["area_um2"] = np.random.default_rng(0).gamma(5, 100, len(table))
    config = PlanConfig(label_scope="all", min_area_um2=200, max_area_um2=900, max_cells_per_class=2000)
    plan = plan_lib.make_plan(table, config)
    num_read = 0
    read_cell = CellStore.read_cell

    def count(*args, **options):
        nonlocal num_read
        num_read += 1
        return read_cell(*args, **options)

    monkeypatch.setattr(CellStore, "read_cell", count)
    text = report.render_report(
        page.store,
        plan=plan,
        summary=plan_summary.describe_plan(plan, config),
        fovs=page.parts["fovs"],
        manifest=page.parts["manifest"],
    )
    num_reasons = 3
    assert (
        num_read
        <= report.MAX_FOVS * per_fov + 19 * report.MAX_CELLS_OF_CLASS + num_reasons * report.MAX_CELLS_OF_REASON
    )
    assert len(text) < 6e6


def test_damaged_cell_is_an_error_with_file_and_offset(page, made, tmp_path):
    cells_dir = shutil.copytree(made.cells_dir, tmp_path / "cells")
    for path in cells_dir.rglob("*.tfrecord"):
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
    with pytest.raises(DatasetError, match=r"\.tfrecord: corrupt record at byte \d+"):
        report.render_report(CellStore.open(str(cells_dir)), **page.parts)


def make_cells(num_fovs=40, *, labels=("0", "5", "0|7")):
    rng = np.random.default_rng(0)
    fov = np.repeat(np.arange(num_fovs), 3 + np.arange(num_fovs) % 5)
    return pd.DataFrame(
        {
            "cell_id": [f"c{number}" for number in range(len(fov))],
            "fov_id": [f"fov{number}" for number in fov],
            "labels": [labels[number % len(labels)] for number in fov],
            "example_labels": [labels[number % len(labels)] for number in fov],
            "dropped": "",
            "area_um2": rng.gamma(5, 100, len(fov)),
            "focus": rng.gamma(5, 1, len(fov)),
        }
    )


def test_suspicious_fovs_are_shown():
    cells = make_cells()
    cells.loc[cells["fov_id"] == "fov8", "area_um2"] = 9999
    cells.loc[cells["fov_id"] == "fov9", "area_um2"] = 1
    cells.loc[cells["fov_id"] == "fov10", "focus"] = 0
    many = pd.DataFrame({"fov_id": ["fov11"] * 60, "labels": "0", "area_um2": 500.0, "focus": 5.0})
    cells = pd.concat([cells, many, pd.DataFrame({"fov_id": ["one"], "labels": "5", "area_um2": 500.0, "focus": 5.0})])
    chosen = report_choice.choose_fovs(cells, limit=12)
    whys = {why: fov_id for fov_id, why in chosen.items() if why != "sample"}
    assert whys == {
        "most cells": "fov11",
        "fewest cells": "one",
        "largest cells (median)": "fov8",
        "smallest cells (median)": "fov9",
        "least in focus (median)": "fov10",
    }
    assert len(chosen) == 12


def test_shown_fovs_are_spread_over_the_classes():
    texts = [str(label) for label in range(10)]
    cells = make_cells(200, labels=("3",) * 40 + tuple(texts))
    chosen = report_choice.choose_fovs(cells, limit=15)
    assert set(cells.loc[cells["fov_id"].isin(list(chosen)), "labels"]) == set(texts)


@pytest.mark.parametrize("limit", [1, 3, 12, 99])
def test_no_more_fovs_are_shown_than_asked_for_or_there(limit):
    assert len(report_choice.choose_fovs(make_cells(20), limit=limit)) == min(limit, 20)


def test_choice_does_not_depend_on_the_order_of_rows():
    cells = make_cells()
    shuffled = cells.sample(frac=1, random_state=1)
    assert report_choice.choose_fovs(cells, limit=12) == report_choice.choose_fovs(shuffled, limit=12)
    for first, second in zip(
        report_choice.choose_cells_of_classes(cells, (0, 5, 7), limit=6).values(),
        report_choice.choose_cells_of_classes(shuffled, (0, 5, 7), limit=6).values(),
        strict=True,
    ):
        assert list(first["cell_id"]) == list(second["cell_id"])


def test_cells_of_a_class_are_a_fair_sample():
    cells = make_cells(400, labels=("0",))
    chosen = report_choice.choose_cells_of_classes(cells, (0,), limit=300)[0]
    share = chosen["cell_id"].isin(cells["cell_id"].iloc[: len(cells) // 2]).mean()
    assert 0.4 < share < 0.6


def test_common_signs_of_wrong_segmentation_are_warned_of():
    cells = pd.DataFrame(
        {
            "nucleus_area_um2": [0.0] * 4 + [90.0] * 6,
            "num_nuclei": [0] * 4 + [1] * 6,
            "area_um2": 400.0,
            "solidity": 0.9,
            "saturated_fraction": 0.0,
            "touches_border": True,
            "likely_merge": False,
            "likely_split": False,
        }
    )
    signs = {row["name"]: row for row in report_tables.list_signs(cells)}
    assert signs["no nucleus"]["count"] == 4
    assert signs["no nucleus"]["is_high"]
    assert signs["at the border of the FOV"]["share"] == 1
    assert [name for name, row in signs.items() if row["is_high"]] == ["no nucleus"]


@pytest.mark.parametrize(
    ("kept", "dropped"),
    [
        (np.arange(50.0), np.arange(9.0)),
        (np.ones(5), np.zeros(0)),
        (np.array([2.5]), np.zeros(0)),
        (np.zeros(0), np.zeros(0)),
        (np.array([1.5, np.nan, np.inf]), np.array([np.nan])),
        (np.array([1e-9, 1e9]), np.array([0.0])),
    ],
)
def test_histogram_of_any_values_is_drawn(kept, dropped):
    svg = charts.histogram(kept, dropped, x_label="area, µm²")
    assert svg == charts.histogram(kept, dropped, x_label="area, µm²")
    assert svg.rstrip().endswith(b"</svg>")


@pytest.mark.skipif(shutil.which("chromium") is None, reason="chromium not there: the page is not drawn")
def test_browser_draws_the_page(made, tmp_path):
    path = tmp_path / "page.png"
    subprocess.run(
        [
            *("chromium", "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"),
            *("--window-size=1000,1600", f"--user-data-dir={tmp_path}/profile", f"--screenshot={path}"),
            (made.data_dir / schema.REPORT_NAME).as_uri(),
        ],
        check=True,
        capture_output=True,
        timeout=120,
    )
    picture = cv2.imread(str(path))
    # The pictures of the FOVs are there, saturated in colour, and the paper is white.
    assert (picture.max(axis=2).astype(int) - picture.min(axis=2) > 100).mean() > 0.02
    assert (picture == 255).all(axis=2).mean() > 0.3
