"""Which fold of a data set a run held out, so that it is predicted on that one and not on what it learned from."""

from __future__ import annotations

from collections.abc import Sequence

from hpa_proto import schema
from hpa_proto.errors import ConfigError
from trainer import run_folder


def held_out_split(run_dirs: Sequence[str]) -> str | None:
    """Returns the fold that runs held out, as a split; None where they are not of folds.

    Raises:
      ConfigError: a folder is no run, or the runs held out different folds.
    """
    configs = [run_folder.read_record(run_dir)["config"] for run_dir in run_dirs]
    splits = {config["validation_split"] if config.get("fold") is not None else None for config in configs}
    if len(splits) > 1:
        raise ConfigError(
            f"--run_dir={','.join(run_dirs)}: no fold was held out by all of these runs; give the --split of cells that none "
            "has seen"
        )
    return splits.pop()


def check_out_of_fold(run_dir: str, *, split: str, manifest_sha256: str) -> None:
    """Checks that a run of folds has not learned from what it is to predict; of other runs, nothing.

    Args:
      run_dir: folder of the run.
      split: to predict.
      manifest_sha256: of the data set to predict.

    Raises:
      ConfigError: the split is a fold that the run learned from, or a fold of another data set.
    """
    record = run_folder.read_record(run_dir)
    config = record["config"]
    if config.get("fold") is None:
        return
    own = {schema.fold_name(fold) for fold in range(config["num_folds"])}
    wanted = own.intersection(schema.split_names(split))
    if not wanted:
        return
    if manifest_sha256 != record["manifest_sha256"]:
        raise ConfigError(
            f"{run_dir}: learned from folds of another data set, whose {config['validation_split']} has other FOVs; give "
            "the run's own --data_dir"
        )
    if seen := sorted(wanted - {config["validation_split"]}):
        raise ConfigError(
            f"--split={split}: {run_dir} learned from {', '.join(seen)}; out of fold it can only predict "
            f"{config['validation_split']}"
        )
