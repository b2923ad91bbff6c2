"""Whatever a parser of the project is given, only the errors of its docstring come out of it.

tests/faults/test_atheris.py drives the same targets for longer, by coverage.
"""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from faults import reliability
from faults.fuzz_targets import TARGETS

TRIAL = reliability.Trial(
    part="Fuzzing",
    fault="Each parser (label files, notes, locks, manifest, plan, tables, masks, records, pictures, TIFFs, weights, "
    "checkpoints, predictions, submission) fed random bytes and damaged files by hypothesis",
    outcome="only the errors of the docstrings",
    promise="A damaged or made-up file ends in an error that names it.",
)

# What parsers stumble over: paths, signs, numbers that no machine word holds, nesting, markup, cut UTF-8.
_TOKENS = (
    *(
        b"../",
        b"/",
        b"\\",
        b"\0",
        b"-1",
        b"0",
        b"99999999999999999999",
        b"1e999",
        b"NaN",
        b"null",
        b"true",
        b'"',
        b",",
        b"|",
    ),
    *(
        b"\n",
        b"\r",
        b"=",
        b"<img>",
        b"[" * 3000,
        b'{"a":' * 3000,
        b"\xff",
        b"\xff\xff\xff\x7f",
        b"\xe2\x82",
        b"9" * 5000,
    ),
)


def mutations(seeds):
    """Sound inputs with up to four places changed: bytes flipped, cut out, doubled, replaced."""

    def change(data, edits):
        for start, length, kind, token in edits:
            start %= len(data) + 1
            stop = min(len(data), start + length)
            middle = {
                "flip": bytes(byte ^ 1 << length % 8 for byte in data[start : start + 1]) + data[start + 1 : stop],
                "cut": b"",
                "double": 2 * data[start:stop],
                "replace": token,
                "insert": token + data[start:stop],
            }[kind]
            data = data[:start] + middle + data[stop:]
        return data

    kinds = st.sampled_from(("flip", "cut", "double", "replace", "insert"))
    edit = st.tuples(st.integers(0, 1 << 16), st.integers(0, 12), kinds, st.sampled_from(_TOKENS))
    return st.builds(change, st.sampled_from(seeds), st.lists(edit, max_size=4))


@pytest.mark.parametrize("name", TARGETS)
def test_sound_input_is_read(name):
    seeds = TARGETS[name].seeds()
    assert seeds
    for seed in seeds:
        TARGETS[name].parse(seed)


@pytest.mark.parametrize("name", TARGETS)
@pytest.mark.filterwarnings("ignore:Reading `.npy`")
def test_only_documented_errors_come_out(name):
    target = TARGETS[name]

    @given(mutations(target.seeds()) | st.binary(max_size=100))
    def check(data):
        target(data)

    check()
