"""Nothing is lost on the way from FOVs to shards: every cell of five thousand is counted again at the end.

The whole set, 21,806 FOVs with 489,871 cells, takes minutes: python tests/faults/full_size.py
"""

import pathlib

import full_size
import pandas as pd
import pytest
import reliability
import watched_job

_TABLE = pathlib.Path(__file__).parents[3] / "shared" / "hpa" / "train_cells.csv"


def test_five_thousand_cells_are_all_kept_or_dropped(tmp_path):
    if not _TABLE.exists():
        pytest.skip(f"shared data not there: {_TABLE}")
    table = full_size.first_fovs(full_size.read_table(str(_TABLE)), 5_000)
    # The one FOV without a cell, so that there is a dead letter.
    table = pd.concat([table, pd.DataFrame({"ID": ["none"], "Label": ["0"], "num_cells": [0]})], ignore_index=True)
    assert table["num_cells"].sum() >= 5_000
    folder = tmp_path / "set"
    jobs = full_size.run_size(folder, table, num_workers=2)
    assert {memory.name for memory in jobs["segment"].memories} == {"job", "worker"}
    highest = [max(memory.mib) for job in jobs.values() for memory in job.memories]

    # The count that has just passed sees a single lost cell.
    path = folder / "dataset" / "plan.parquet"
    pd.read_parquet(path).iloc[1:].to_parquet(path)
    with pytest.raises(AssertionError):
        full_size.check_counts(folder, table)
    reliability.record(
        reliability.Trial(
            part="Full size",
            fault=f"{table['num_cells'].sum():,} tiny cells of {len(table):,} FOVs, two workers; then a cell taken away",
            times="1 run of each job",
            outcome="every FOV and cell counted again in cell store, plan and manifest: none lost, none twice; the lost one is "
            f"found; highest memory {max(highest):,.0f} MiB a process",
            promise="Every cell is in a shard, or in the plan with the reason why not.",
            command="python -m pytest tests/faults/test_full_size.py",
        )
    )


def test_what_grows_with_the_number_of_cells_is_said(tmp_path, monkeypatch):
    def figures(cpu_sec, late_mib):
        """Of 5,000 and 50,000 cells, 1 ms each after 2 s, and of 150,000."""
        memory = [watched_job.Memory("job", list(range(100)), [200.0] * 60 + [late_mib] * 40)]
        sizes = {5_000: 7.0, 50_000: 52.0, 150_000: cpu_sec}
        made = {size: watched_job.Job("", 1.0, seconds, memory) for size, seconds in sizes.items()}
        return full_size.describe({size: [{"segment": job, "shard": job}] for size, job in made.items()})

    met = figures(52 + 130, 220)
    assert met["shard"]["ratio"] == 1.3
    assert full_size.find_unmet(met) == []
    assert len(full_size.find_unmet(figures(52 + 131, 221))) == 4
    assert len(full_size.find_unmet(figures(150 * 1.9, 220))) == 4
    monkeypatch.setenv("RELIABILITY_OUT", str(tmp_path / "rows.jsonl"))
    full_size.record(met, pd.DataFrame({"ID": ["a"]}))
    assert "not counted, 1.3 ms, below 50,000 cells 1.0 ms: 1.3 x" in (tmp_path / "rows.jsonl").read_text()
