"""Promises of beam_jobs.explore: tables, pictures and page of a label file, Kaggle's figures, every fault in one line."""

import pathlib
import subprocess
import sys

import cv2
import pandas as pd
import pytest

import browser
from beam_jobs import explore
from beam_jobs.association_rules import RuleConfig
from beam_jobs.explore import ExploreConfig
from hpa_proto import labels
from hpa_proto.errors import ConfigError

_TRAIN = pathlib.Path(__file__).parents[2] / "shared" / "hpa" / "train.csv"
_FILES = {
    *("labels.csv", "class_counts.csv", "num_labels.csv", "cooccurrence.csv", "rules.csv"),
    *("classes.png", "cooccurrence.png", "rules.png", "report.html"),
}
_SMALL = "ID,Label\na,0|16\nb,16|0\nc,5\nd,13|13\ne,11|10|0\n"


def write(path, text=_SMALL):
    path.write_text(text)
    return str(path)


def run_command(*flags):
    return subprocess.run(
        [sys.executable, "-m", "beam_jobs.explore", *flags], capture_output=True, text=True, timeout=300
    )


@pytest.fixture(scope="module")
def kaggle(tmp_path_factory):
    if not _TRAIN.exists():
        pytest.skip("shared data not there: hpa/train.csv")
    config = ExploreConfig(labels=str(_TRAIN), out_dir=str(tmp_path_factory.mktemp("kaggle")))
    return explore.run(config), config


def test_kaggles_fovs_are_counted_as_written_and_once(kaggle):
    statistics = kaggle[0].statistics
    assert statistics.num_fovs == 21_806
    assert statistics.per_num_labels["num_written"].to_dict() == {1: 10_412, 2: 8_928, 3: 2_266, 4: 197, 5: 3}
    assert statistics.per_num_labels["num_distinct"].to_dict() == {1: 10_508, 2: 8_873, 3: 2_233, 4: 190, 5: 2}
    assert len(statistics.repeating) == 146
    words = explore.describe(*kaggle)
    assert "10412" in words
    assert "146 FOVs repeat a label" in words


def test_kaggles_ten_rules(kaggle):
    rules = pd.read_csv(pathlib.Path(kaggle[1].out_dir) / "rules.csv")
    assert len(rules) == 10
    found = {
        (row.antecedent, row.consequent): (round(row.support, 6), round(row.confidence, 6), round(row.lift, 6))
        for row in rules.itertuples()
    }
    vesicles = "Vesicles and punctate cytosolic patterns"
    wanted = {
        ("Mitotic spindle", "Microtubules"): (0.001009, 0.282051, 7.518839),
        ("Nucleoplasm|Mitotic spindle", "Cytosol"): (0.000780, 0.566667, 2.173568),
        (f"Mitochondria|{vesicles}", "Nucleoplasm"): (0.000642, 0.875000, 2.168950),
        (f"Nuclear bodies|{vesicles}", "Nucleoplasm"): (0.000459, 0.833333, 2.065666),
        ("Nucleoli|Intermediate filaments", "Nucleoplasm|Cytosol"): (0.000780, 0.265625, 2.403410),
    }
    assert {key: found[key] for key in wanted} == wanted


def test_browser_shows_the_page(kaggle, tmp_path):
    page = browser.open_page(pathlib.Path(kaggle[1].out_dir) / "report.html", tmp_path)
    browser.check_page(page)
    assert len(page.images) == 3
    for part in ("21,806", "10,412", "146 FOVs repeat a label", "7.518839", *labels.LABEL_NAMES):
        assert part in page.text


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    folder = tmp_path_factory.mktemp("small")
    config = ExploreConfig(labels=write(folder / "<b>.csv"), out_dir=str(folder / "out"), rules=RuleConfig(min_lift=1))
    explore.run(config)
    return folder / "out"


def test_files_of_a_small_set(small):
    assert {path.name for path in small.iterdir()} == _FILES
    assert (small / "labels.csv").read_text().splitlines()[:2] == [
        "ID,label_1,label_2,label_3,label_4,label_5",
        "a,Nucleoplasm,Cytosol,,,",
    ]
    assert pd.read_csv(small / "class_counts.csv")["name"].tolist() == list(labels.LABEL_NAMES)
    cooccurrence = pd.read_csv(small / "cooccurrence.csv", index_col="class")
    assert cooccurrence.at["Nucleoplasm", "Cytosol"] == 2
    for name in ("classes", "cooccurrence", "rules"):
        assert cv2.imread(str(small / f"{name}.png")).shape[1] > 1000


def test_file_name_cannot_bring_markup_into_the_page(small):
    assert "Labels of &lt;b&gt;.csv" in (small / "report.html").read_text()


def test_names_give_the_same_bytes_as_numbers(small, tmp_path):
    named = "ID,Label\na,nucleoplasm|Cytosol\nb,Cytosol|0\nc,Nuclear bodies\nd,13|Plasma membrane\ne,11|10|0\n"
    source = write(tmp_path / "<b>.csv", named)
    explore.run(ExploreConfig(labels=source, out_dir=str(tmp_path / "out"), rules=RuleConfig(min_lift=1)))
    for name in _FILES:
        assert (small / name).read_bytes() == (tmp_path / "out" / name).read_bytes(), name


def test_no_rule_leaves_no_picture_of_an_earlier_one(tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "rules.png").write_bytes(b"of an earlier run")
    config = ExploreConfig(labels=write(tmp_path / "l.csv"), out_dir=str(out), rules=RuleConfig(min_lift=1000))
    explore.run(config)
    assert not (out / "rules.png").exists()
    assert "No rule reaches these values" in (out / "report.html").read_text()
    assert (out / "rules.csv").read_text() == "antecedent,consequent,num_fovs,support,confidence,lift\n"


def test_label_file_is_never_written_over(tmp_path):
    with pytest.raises(ConfigError, match="would replace the label file"):
        ExploreConfig(labels=write(tmp_path / "labels.csv"), out_dir=str(tmp_path))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ID,Label\na,19\n", "line 2: FOV a: label 19 is not in 0..18"),
        ("ID,Label\na,Golgy\n", "line 2: FOV a: label 'Golgy'"),
        ("ID,Label\na,8;5\n", "line 2: FOV a: label '8;5'"),
        ("ID,Label\na,8|\n", "line 2: FOV a: label ''"),
        ("ID,Label\na,1\nb,1\na,2\n", "line 4: ID a stands twice"),
        ("ID,Label\na,\n", "line 2: FOV a has no label"),
        ("Id,Labels\na,1\n", r"line 1: no column ID, Label .*found \['Id', 'Labels'\]"),
        ("ID\tLabel\na\t1\n", r"line 1: no column ID, Label \(comma-separated\); found \['ID\\tLabel'\]"),
        ("ID,Label\n", "no FOV in it"),
    ],
)
def test_fault_of_the_label_file_names_file_line_and_value(tmp_path, text, message):
    config = ExploreConfig(labels=write(tmp_path / "l.csv", text), out_dir=str(tmp_path / "out"))
    with pytest.raises(ConfigError, match=f"l.csv.*{message}"):
        explore.run(config)
    assert not (tmp_path / "out").exists()


def test_command_prints_the_rules_and_says_where_the_page_is(tmp_path):
    source = write(tmp_path / "l.csv")
    done = run_command(f"--labels={source}", f"--out_dir={tmp_path}/out", "--min_support=0.3", "--min_lift=1")
    assert done.returncode == 0, done.stderr
    assert f"report    {tmp_path}/out/report.html" in done.stdout
    assert "Cytosol -> Nucleoplasm (0.400000, 1.000000, 1.666667)" in done.stdout


def test_mistyped_flag_is_an_error():
    with pytest.raises(ConfigError, match=r"unknown flag --min_suport=0\.3"):
        explore.main(["--min_suport=0.3"])
