"""Fuzzes one parser of the project by coverage, with atheris: the process that test_atheris.py starts.

    python tests/faults/fuzz.py faults.fuzz_datasets.manifest CORPUS_DIR -max_total_time=60

The target is a module and a name in it. The arguments after it are libFuzzer's; a file of bytes in the place of the folder
runs that file alone.
"""

import importlib
import pathlib
import sys

import atheris


def main(argv: list[str]) -> None:
    """Runs until libFuzzer ends the process."""
    sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))
    # Ours alone: what a library does with a file is its own fuzzers' business.
    with atheris.instrument_imports(include=["hpa_proto", "beam_jobs", "trainer"]):
        module, _, name = argv[1].rpartition(".")
        target = importlib.import_module(module).TARGETS[name]

    atheris.Setup([argv[0], *argv[2:]], target)
    atheris.Fuzz()


if __name__ == "__main__":
    main(sys.argv)
