"""What is fuzzed: each parser of the project as a function of bytes, with the errors that it documents.

Shared by tests/test_fuzzing.py (hypothesis, every day) and tests/faults/test_atheris.py (coverage-guided, slow).
"""

from __future__ import annotations

from faults import fuzz_answers, fuzz_cells, fuzz_datasets, fuzz_lists, fuzz_pictures, fuzz_runs, fuzz_weights
from faults.fuzz_target import Target

MODULES = (fuzz_lists, fuzz_pictures, fuzz_cells, fuzz_datasets, fuzz_weights, fuzz_runs, fuzz_answers)
TARGETS: dict[str, Target] = {name: target for module in MODULES for name, target in module.TARGETS.items()}
# Where a target is: a process that fuzzes one parser need not import Keras for it.
MODULE_OF_TARGET: dict[str, str] = {name: module.__name__ for module in MODULES for name in module.TARGETS}
