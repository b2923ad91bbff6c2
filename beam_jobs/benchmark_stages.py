"""Suites of one thread: a FOV through every stage of the data half, a stored cell in every format of the data sets."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from beam_jobs import dataset_job, examples, write_shards
from beam_jobs.benchmark_fovs import FovSuite
from beam_jobs.cell_store import CellStore
from beam_jobs.examples import ExampleConfig
from beam_jobs.fov_reader import read_fov
from beam_jobs.plan_config import PlanConfig
from beam_jobs.segment_fovs import SegmentFovs
from hpa_proto import cells_pb2, records, schema, storage
from hpa_proto.benchmarking import Ratio, Work

_DECODE = "decoding alone"
_READ = "read"
_WHOLE = "whole job"


class StagesSuite(FovSuite):
    """One FOV through each stage, and through all of them as the jobs' workers do it.

    `whole job` is what a worker does for a FOV in both jobs: the segmenting step reads, segments, judges, cuts, measures and
    writes the FOV's cells; then its cells are read back and written as examples of four channels and 528 px into a shard.
    What a job does once, however many FOVs it has (starting processes, tables, plan, report), and a line of notes a shard are
    not in it: the suite `workers` has them. `decoding alone` is OpenCV on the bytes of the four files, already in memory.
    """

    name = "stages"
    title = "a FOV through the stages of the data half, one thread"

    def prepare(self, folder: str) -> None:
        """Computes what each stage starts from."""
        self._folder = folder
        self._read_and_segment()
        self._cells = [self._cut(number) for number in range(len(self._fovs))]
        self._files = [
            [np.frombuffer(storage.read_bytes(path), np.uint8) for _, path in fov.paths] for fov in self._fovs
        ]
        self._store = CellStore.create(storage.join(folder, "cells"), {"segmenter": self._segmenter.config()})
        self._segment = SegmentFovs(self._store, self._segmenter, pixel_size_um=self._pixel_size_um).do_fn
        self._segment_all()
        self._store.write_tables({fov.fov_id: "" for fov in self._fovs})
        plan, _ = dataset_job.make_plan(self._store, PlanConfig(label_scope="unlabelled"), splits_of=None)
        self._tasks = write_shards.write_plan(storage.join(folder, schema.PLAN_NAME), plan)

    def variants(self) -> dict[str, Work]:
        """Returns the stages."""
        return {
            _DECODE: self._each_fov(self._decode),
            _READ: self._each_fov(lambda number: read_fov(self._fovs[number])),
            "watershed": self._each_fov(lambda number: self._segmenter.segment(self._pixels[number].pixels, fov_id="")),
            "cut and measure": self._each_fov(self._cut),
            "store": self._each_fov(self._write_cells),
            "shard": self._shard_all,
            _WHOLE: self._do_all,
        }

    def ratios(self) -> Sequence[Ratio]:
        """Returns what reading and the whole job take in units of decoding."""
        return (
            Ratio("read: times as long as decoding its PNGs", _DECODE, _READ),
            Ratio("whole job: times as long as decoding its PNGs", _DECODE, _WHOLE, at_most=5),
        )

    def _decode(self, number: int) -> None:
        for data in self._files[number]:
            cv2.imdecode(data, cv2.IMREAD_UNCHANGED)

    def _write_cells(self, number: int) -> None:
        frames = [records.frame_record(cell.SerializeToString(deterministic=True)) for cell in self._cells[number]]
        storage.write_bytes(storage.join(self._folder, "stages.tfrecord"), b"".join(frames))

    def _segment_all(self) -> None:
        for fov in self._fovs:
            for row in self._segment.process(fov):
                if row.error_reason:
                    raise RuntimeError(f"not a whole job: {row.error_detail}")

    def _shard_all(self) -> float:
        for task in self._tasks:
            write_shards.write_shard(self._store, task, data_dir=self._folder, config=ExampleConfig())
        return len(self._fovs)

    def _do_all(self) -> float:
        self._segment_all()
        return self._shard_all()


class ShardSuite(FovSuite):
    """Stored cells that one core turns into examples, for each format."""

    name = "shard"
    title = "a stored cell to an example of four channels and 528 px, one thread"
    unit = "cell"
    reads_as = "rate"

    def prepare(self, folder: str) -> None:
        """Segments the FOVs."""
        self._read_and_segment()
        self._stored = [cell.SerializeToString() for number in range(len(self._fovs)) for cell in self._cut(number)]

    def variants(self) -> dict[str, Work]:
        """Returns the formats."""

        def work(config: ExampleConfig) -> float:
            for data in self._stored:
                records.frame_record(examples.make_example(cells_pb2.Cell.FromString(data), (0,), config))
            return len(self._stored)

        configs = {name: ExampleConfig(image_format=name) for name in schema.IMAGE_FORMATS}
        return {name: lambda config=config: work(config) for name, config in configs.items()}
