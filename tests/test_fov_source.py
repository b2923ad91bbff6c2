"""Promises of beam_jobs.fov_source: which FOVs a job is to read, and every fault of its tables."""

import csv

import pytest

from beam_jobs.fov_source import FovRef, find_fovs, read_labels, read_written_labels
from hpa_proto.errors import ConfigError


def touch(folder, *names):
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).write_bytes(b"")
    return folder


def channels(fov_id, suffix=".png"):
    return [f"{fov_id}_{channel}{suffix}" for channel in ("red", "green", "blue", "yellow")]


def write(path, text):
    path.write_text(text)
    return str(path)


def test_folder_lists_fovs_by_id_with_their_channels(tmp_path):
    folder = touch(tmp_path / "images", *channels("b"), *channels("a", ".jpg"), "notes.txt", "thumb.png")
    listing = find_fovs(str(folder), None)
    assert [fov.fov_id for fov in listing.fovs] == ["a", "b"]
    assert [channel for channel, _ in listing.fovs[0].paths] == ["blue", "green", "red", "yellow"]
    assert listing.fovs[0].labels == ()


def test_multi_channel_tiffs_are_fovs(tmp_path):
    folder = touch(tmp_path, "a.tif", "b.ome.tiff", "c.png")
    fovs = find_fovs(str(folder), None).fovs
    assert [(fov.fov_id, fov.paths[0][0]) for fov in fovs] == [("a", "all"), ("b", "all")]


def test_glob_reaches_into_folders(tmp_path):
    touch(tmp_path / "plate1", *channels("a"))
    touch(tmp_path / "plate2", *channels("b"))
    assert [fov.fov_id for fov in find_fovs(str(tmp_path / "plate*" / "*.png"), None).fovs] == ["a", "b"]


def test_csv_of_paths_starts_at_its_folder(tmp_path):
    touch(tmp_path / "x", "r.png", "g.png", "b.png", "y.png", "all.tif")
    table = write(
        tmp_path / "fovs.csv",
        "ID,red,green,blue,yellow,path\nf1,x/r.png,x/g.png,x/b.png,x/y.png,\nf2,,,,,x/all.tif\n",
    )
    first, second = find_fovs(table, None).fovs
    assert dict(first.paths)["green"] == str(tmp_path / "x" / "g.png")
    assert second.paths == (("all", str(tmp_path / "x" / "all.tif")),)


def test_labels_come_from_the_label_file(tmp_path):
    folder = touch(tmp_path / "images", *channels("a"), *channels("b"))
    listing = find_fovs(str(folder), write(tmp_path / "l.csv", "ID,Label\na,8|5|0\nb,Cytosol\n"))
    assert [fov.labels for fov in listing.fovs] == [(0, 5, 8), (16,)]


def test_image_without_label_and_label_without_image_are_told_apart(tmp_path):
    folder = touch(tmp_path / "images", *channels("a"), *channels("b"))
    listing = find_fovs(str(folder), write(tmp_path / "l.csv", "ID,Label\na,1\nz,2\ny,3\n"))
    assert [(fov.fov_id, fov.labels) for fov in listing.fovs] == [("a", (1,)), ("b", None)]
    assert listing.labels_without_image == ("y", "z")


def test_listing_is_the_same_whatever_the_order_of_files(tmp_path):
    folder = touch(tmp_path / "images", *reversed(channels("a")))
    assert isinstance(find_fovs(str(folder), None).fovs[0], FovRef)
    assert find_fovs(str(folder), None) == find_fovs(str(folder), None)


def test_empty_input_is_an_error_that_says_what_was_looked_for(tmp_path):
    with pytest.raises(ConfigError, match=r"no FOV in .*<id>_red.png.*synthesize"):
        find_fovs(str(touch(tmp_path / "empty")), None)


def test_missing_folder_is_an_error(tmp_path):
    with pytest.raises(ConfigError, match="no such folder"):
        find_fovs(str(tmp_path / "none"), None)


def test_labels_of_another_set_are_an_error(tmp_path):
    folder = touch(tmp_path / "images", *channels("a"))
    with pytest.raises(ConfigError, match="are these of one set"):
        find_fovs(str(folder), write(tmp_path / "l.csv", "ID,Label\nz,1\n"))


@pytest.mark.parametrize("fov_id", ["../a", "a/b", "..", ".hidden", "a b", "a..b", "", "-rf", "x" * 201, "ä"])
def test_id_that_could_leave_its_folder_is_an_error(tmp_path, fov_id):
    with pytest.raises(ConfigError, match=r"l.csv, line 3: ID .* cannot be used"):
        read_labels(write(tmp_path / "l.csv", f"ID,Label\nfine,1\n{fov_id},1\n"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ID,Label\na,19\n", r"line 2: FOV a: label 19 is not in 0..18"),
        ("ID,Label\na,Golgi\n", r"line 2: FOV a: label 'Golgi'"),
        ("ID,Label\na,\n", r"line 2: FOV a has no label"),
        ("ID,Label\na,1\na,2\n", r"line 3: ID a stands twice"),
        ("id,label\na,1\n", r"line 1: no column ID, Label"),
        ("ID;Label\na;1\n", r"line 1: no column ID, Label"),
        ("ID,Label\na\n", r"line 2: not as many values"),
        ("ID,Label\na,1,2\n", r"line 2: not as many values"),
        ("", r"line 1: no column"),
        ('ID,Label\na,"' + "x" * 200_000, r"line \d+: .*quote"),
    ],
)
def test_fault_of_a_label_file_names_file_line_and_value(tmp_path, text, message):
    # Python's own; reading a submission, in a test before this one, lifts it for the process.
    csv.field_size_limit(131_072)
    with pytest.raises(ConfigError, match=f"l.csv, {message}"):
        read_labels(write(tmp_path / "l.csv", text))


def test_repeated_label_counts_once_but_for_the_table_as_written(tmp_path):
    path = write(tmp_path / "l.csv", "ID,Label\na,13|13\nb,8|5|8\n")
    assert read_labels(path) == {"a": (13,), "b": (5, 8)}
    assert read_written_labels(path) == {"a": (13, 13), "b": (8, 5, 8)}
    folder = touch(tmp_path / "images", *channels("a"))
    assert find_fovs(str(folder), path).fovs[0].labels == (13,)


def test_unreadable_label_file_is_an_error(tmp_path):
    (tmp_path / "l.csv").write_bytes(b"ID,Label\n\xff\xfe,1\n")
    with pytest.raises(ConfigError, match="not a readable CSV"):
        read_labels(str(tmp_path / "l.csv"))
    with pytest.raises(ConfigError, match="not a readable CSV"):
        read_labels(str(tmp_path / "none.csv"))


def test_csv_without_any_path_column_is_an_error(tmp_path):
    with pytest.raises(ConfigError, match="no column with paths"):
        find_fovs(write(tmp_path / "f.csv", "ID,file\na,b\n"), None)


def test_further_columns_come_along_and_unusable_names_are_told(tmp_path):
    folder = touch(tmp_path / "images", *channels("a"), "plate 1_red.png")
    listing = find_fovs(str(folder), write(tmp_path / "l.csv", "ID,Label,plate\na,1,p7\n"))
    assert listing.extra_columns == {"a": {"plate": "p7"}}
    assert [name for name, _ in listing.unusable_names] == ["plate 1"]
