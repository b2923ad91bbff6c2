"""The jobs' pipelines use only transforms that every Beam runner has: no state, no timers, no file sinks."""

import pathlib

import apache_beam as beam
import pytest
from apache_beam.pipeline import AppliedPTransform
from apache_beam.runners.common import DoFnSignature
from apache_beam.transforms.userstate import BagStateSpec

import small_dataset
from beam_jobs import runner
from faults import reliability

_JOBS = pathlib.Path(runner.__file__).parent
# Taken whole: what they consist of is the runner's affair.
_WHOLE = (beam.Create, beam.Reshuffle, beam.GroupByKey, beam.CombinePerKey)


def faults(node):
    """Lists what a step of a pipeline graph, or a step within it, uses beyond the list."""
    transform = node.transform
    if isinstance(transform, _WHOLE):
        return []
    # Its subclasses, as WindowInto, are something else.
    if type(transform) is beam.ParDo:
        signature = DoFnSignature(transform.fn)
        kinds = {
            "state or timers": signature.is_stateful_dofn(),
            "a splittable DoFn": signature.is_splittable_dofn(),
            "side inputs": bool(node.side_inputs),
        }
        return [f"{node.full_label}: {kind}" for kind, is_used in kinds.items() if is_used]
    if not node.parts:
        return [f"{node.full_label}: {type(transform).__name__}"] if transform is not None else []
    return [fault for part in node.parts for fault in faults(part)]


def root_of(pipeline) -> AppliedPTransform:
    return pipeline.transforms_stack[0]


def leaves(node):
    if isinstance(node.transform, (*_WHOLE, beam.ParDo)) or not node.parts:
        return [type(node.transform).__name__]
    return [leaf for part in node.parts for leaf in leaves(part)]


@pytest.fixture(scope="module")
def pipelines(tmp_path_factory):
    """The pipelines of both jobs, as they were run."""
    made = []
    with pytest.MonkeyPatch.context() as patch:
        make_pipeline = runner.make_pipeline
        patch.setattr(runner, "make_pipeline", lambda *args, **kw: made.append(make_pipeline(*args, **kw)) or made[-1])
        small_dataset.make(tmp_path_factory.mktemp("set"), num_fovs=2)
    return made


def test_pipelines_use_only_what_every_runner_has(pipelines):
    assert [faults(root_of(pipeline)) for pipeline in pipelines] == [[], []]
    # The walk has seen the steps, and pixels meet no shuffle: references are spread, the last step writes.
    assert [leaves(root_of(pipeline)) for pipeline in pipelines] == [["Create", "Reshuffle", "ParDo"]] * 2
    reliability.record(
        reliability.Trial(
            part="Other runners",
            fault="Both jobs' pipeline graphs walked, for whatever a Beam runner may not have",
            times=f"{len(pipelines)} pipelines",
            outcome="; ".join(", ".join(leaves(root_of(pipeline))) for pipeline in pipelines)
            + ": no state, timers, side inputs, windows, splittable DoFns or file sinks",
            promise="Any Beam runner with Python workers can run the jobs.",
            command="python -m pytest tests/test_pipeline_graph.py",
        )
    )


def test_the_test_knows_every_pipeline_of_the_project():
    users = {path.name for path in _JOBS.rglob("*.py") if "make_pipeline(" in path.read_text()}
    assert users == {"runner.py", "segment.py", "dataset_job.py"}


_SEEN = beam.DoFn.StateParam(BagStateSpec("seen", beam.coders.VarIntCoder()))


class _Counting(beam.DoFn):
    def process(self, element, seen=_SEEN):
        seen.add(1)
        yield element


@pytest.mark.parametrize(
    ("add", "found"),
    [
        (lambda pairs: pairs | beam.io.WriteToText("out"), "side inputs"),
        (lambda pairs: pairs | beam.ParDo(_Counting()), "state or timers"),
        (lambda pairs: pairs | beam.GroupIntoBatches(2), "state or timers"),
        (lambda pairs: pairs | beam.Map(lambda pair, others: pair, beam.pvalue.AsList(pairs)), "side inputs"),
        (lambda pairs: (pairs, pairs) | beam.Flatten(), "Flatten"),
        (lambda pairs: pairs.pipeline | beam.io.ReadFromText(__file__), "splittable"),
        (lambda pairs: pairs | beam.WindowInto(beam.window.FixedWindows(1)), "WindowInto"),
    ],
)
def test_other_transforms_are_found(add, found):
    pipeline = beam.Pipeline()
    add(pipeline | beam.Create([("a", 1)]))
    assert any(found in fault for fault in faults(root_of(pipeline)))


def test_transforms_of_the_list_are_not_found():
    pipeline = beam.Pipeline()
    pairs = pipeline | beam.Create([("a", 1)]) | beam.Reshuffle()
    parts = pairs | beam.ParDo(lambda pair: [pair]).with_outputs("odd", main="even")
    _ = parts.odd | "Group" >> beam.GroupByKey()
    _ = parts.even | "Combine" >> beam.CombinePerKey(sum)
    assert faults(root_of(pipeline)) == []
