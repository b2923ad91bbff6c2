"""Promises of beam_jobs.exclusions: lists of cells as people and pages write them, and every fault of one."""

import pytest

from beam_jobs.exclusions import read_exclusions
from hpa_proto.errors import ConfigError


def write(tmp_path, text):
    (tmp_path / "list.csv").write_bytes(text.encode())
    return str(tmp_path / "list.csv")


@pytest.mark.parametrize(
    "text",
    [
        "a_1\nb_2\n",
        "cell_id\na_1\nb_2\n",
        "\ufeffcell_id\r\na_1\r\nb_2\r\n",
        "a_1\n\n b_2 \na_1",
        'fov_id,cell_id,note\na,a_1,"blurred, dark"\nb,b_2,\n',
    ],
)
def test_every_way_to_write_a_list_reads_the_same(tmp_path, text):
    assert read_exclusions(write(tmp_path, text)) == ("a_1", "b_2")


def test_header_alone_excludes_nothing(tmp_path):
    assert read_exclusions(write(tmp_path, "cell_id\n")) == ()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no cell id in it"),
        ("a_1\nb_2,blurred\n", "line 2: found 'b_2,blurred'; give one cell id a line"),
        ("id,score\na_1,0.5\n", "line 1: found 'id,score'"),
        ("cell_id,score\na_1\n", "line 2: found 'a_1'"),
        ("cell_id,score\n,0.5\n", "line 2: found ',0.5'"),
    ],
)
def test_fault_names_file_line_and_value(tmp_path, text, message):
    with pytest.raises(ConfigError, match=f"list.csv.*{message}"):
        read_exclusions(write(tmp_path, text))


def test_unreadable_list_is_an_error(tmp_path):
    with pytest.raises(ConfigError, match="not a readable list"):
        read_exclusions(str(tmp_path / "none.txt"))
    (tmp_path / "list.csv").write_bytes(b"a_1\n\xff\n")
    with pytest.raises(ConfigError, match="not a readable list"):
        read_exclusions(str(tmp_path / "list.csv"))
