"""Embeddings of cells for people and other programs: two dimensions by PCA or UMAP, a picture by class, an .h5ad file."""

from __future__ import annotations

import dataclasses
import io
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from scipy import linalg

from hpa_proto import labels as hpa_labels
from hpa_proto import storage
from hpa_proto.errors import ConfigError, DatasetError
from trainer.predictions import Predictions

NUM_COMPONENTS = 50
# UMAP's neighbourhood; with fewer cells there is nothing to lay out.
_NUM_NEIGHBORS = 15
_CHUNK_ROWS = 8192
_SEVERAL, _UNLABELLED = "several labels", "no label"
# Not among the colours of classes, some of which are grey.
_SEVERAL_COLOUR, _UNLABELLED_COLOUR = "#000000", "#e4e4e4"
_FIGURE_INCHES, _DPI = (10, 7), 130


@dataclasses.dataclass(frozen=True)
class Pca:
    """Principal components of N cells.

    Attributes:
      coordinates: float32[N, M], the largest component first.
      shares: float64[M], share of the variance along each.
    """

    coordinates: np.ndarray
    shares: np.ndarray


@dataclasses.dataclass(frozen=True)
class EmbeddingMap:
    """Where the cells lie.

    Attributes:
      method: "pca" or "umap".
      pca: of the embeddings.
      umap: float32[N, 2], or None.
    """

    method: str
    pca: Pca
    umap: np.ndarray | None

    @property
    def coordinates(self) -> np.ndarray:
        """Two dimensions: float32[N, 2]."""
        return self.pca.coordinates[:, :2] if self.umap is None else self.umap

    @property
    def axis_titles(self) -> tuple[str, str]:
        """Of the two dimensions."""
        if self.umap is not None:
            return "UMAP 1", "UMAP 2"
        return tuple(f"PC {i + 1} ({self.pca.shares[i]:.0%} of the variance)" for i in range(2))


def compute_map(predictions: Predictions, *, method: str, seed: int = 0) -> EmbeddingMap:
    """Lays cells out by their embeddings.

    Args:
      predictions: with embeddings.
      method: "pca", or "umap" on the first `NUM_COMPONENTS` principal components.
      seed: of UMAP.

    Raises:
      DatasetError: no embeddings, numbers that are none, or too few cells.
      ConfigError: UMAP is not installed.
    """
    if predictions.embeddings is None:
        raise DatasetError(
            "the predictions have no embeddings; write them with `python -m trainer.predict --embeddings`"
        )
    is_bad = ~np.isfinite(predictions.embeddings).all(axis=1)
    if is_bad.any():
        raise DatasetError(f"cell {predictions.cell_ids[is_bad.argmax()]!r} has an embedding that is not finite")
    needed = _NUM_NEIGHBORS + 1 if method == "umap" else 3
    if predictions.num_cells < needed:
        raise DatasetError(f"{predictions.num_cells} cells; {method} needs at least {needed}")
    pca = compute_pca(predictions.embeddings, num_components=NUM_COMPONENTS)
    return EmbeddingMap(method, pca, _compute_umap(pca.coordinates, seed=seed) if method == "umap" else None)


def compute_pca(features: np.ndarray, *, num_components: int) -> Pca:
    """Computes principal components exactly, from the covariance: D is far below N.

    A component's sign is such that its largest loading is positive, so that equal cells give equal pictures.

    Args:
      features: float[N, D]; D at least 2.
      num_components: as many, or D where that is less.
    """
    mean = features.mean(axis=0, dtype=np.float64)
    size = features.shape[1]
    scatter = np.zeros((size, size))
    # By chunks: all of it centred in float64 would take three times the memory.
    for start in range(0, len(features), _CHUNK_ROWS):
        centered = features[start : start + _CHUNK_ROWS] - mean
        scatter += centered.T @ centered
    kept = min(num_components, size)
    variances, vectors = linalg.eigh(scatter, subset_by_index=(size - kept, size - 1))
    variances, vectors = np.maximum(variances[::-1], 0), vectors[:, ::-1]
    vectors = vectors * np.sign(vectors[np.abs(vectors).argmax(axis=0), np.arange(kept)])
    coordinates = (features @ vectors.astype(np.float32) - mean @ vectors).astype(np.float32)
    return Pca(coordinates, variances / max(np.trace(scatter), np.finfo(np.float64).tiny))


def _compute_umap(coordinates: np.ndarray, *, seed: int) -> np.ndarray:
    """Lays out by UMAP (McInnes et al. 2018, arXiv:1802.03426), the same on every run."""
    try:
        import umap
    except ImportError as error:
        raise ConfigError(
            f"--method=umap needs umap-learn ({error}): pip install 'hpa-single-cell[embeddings]', or take --method=pca"
        ) from error
    # A seed allows one thread only; said here, umap need not warn.
    layout = umap.UMAP(n_neighbors=_NUM_NEIGHBORS, random_state=seed, n_jobs=1)
    return layout.fit_transform(coordinates).astype(np.float32)


def class_of_cells(predictions: Predictions) -> pd.Series:
    """Names each cell's class for a picture: its given label, or "several labels" or "no label"."""
    names = np.array(predictions.class_names, dtype=object)
    found = names[predictions.labels.argmax(axis=1)]
    num_labels = predictions.labels.sum(axis=1)
    found[num_labels > 1], found[num_labels == 0] = _SEVERAL, _UNLABELLED
    return pd.Series(found, name="class")


def predicted_class_of_cells(predictions: Predictions) -> pd.Series:
    """Names the likeliest class of each cell."""
    names = np.array(predictions.class_names, dtype=object)
    return pd.Series(names[predictions.probabilities.argmax(axis=1)], name="predicted class")


def draw_map(layout: EmbeddingMap, predictions: Predictions) -> bytes:
    """Draws the cells coloured by their given class, or by the predicted one where none has a label: PNG."""
    classes = class_of_cells(predictions)
    if not predictions.labels.any():
        classes = predicted_class_of_cells(predictions)
    counts = classes.value_counts()
    known = [name for name in predictions.class_names if name in counts]
    order = np.random.default_rng(0).permutation(len(classes))
    page = Figure(figsize=_FIGURE_INCHES, layout="constrained")
    axes = page.subplots()
    palette = mpl.colormaps["tab10" if len(predictions.class_names) <= 10 else "tab20"]
    colours = {name: palette(index % palette.N) for index, name in enumerate(predictions.class_names)}
    colours |= {_SEVERAL: _SEVERAL_COLOUR, _UNLABELLED: _UNLABELLED_COLOUR}
    # In random order: class by class, the last would hide the others.
    axes.scatter(
        *layout.coordinates[order].T,
        c=[colours[name] for name in classes.to_numpy()[order]],
        s=float(np.clip(40_000 / len(classes), 1.5, 25)),
        alpha=0.7,
        linewidths=0,
    )
    for name in [*known, *(name for name in (_SEVERAL, _UNLABELLED) if name in counts)]:
        axes.scatter([], [], color=colours[name], label=f"{name} ({counts[name]:,})")
    axes.legend(
        title=f"{classes.name} (cells)", loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False, fontsize=8
    )
    axes.set(xlabel=layout.axis_titles[0], ylabel=layout.axis_titles[1], xticks=[], yticks=[])
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_title(f"{len(classes):,} cells of split {predictions.info.split}, {_runs(predictions)}", fontsize=10)
    buffer = io.BytesIO()
    # Without the version in it: equal cells give equal files.
    page.savefig(buffer, format="png", dpi=_DPI, metadata={"Software": None})
    return buffer.getvalue()


def _runs(predictions: Predictions) -> str:
    return " + ".join(f"{run['name']} ({run['model']})" for run in predictions.info.runs[:1]) or "no run"


def write_anndata(path: str, layout: EmbeddingMap, predictions: Predictions) -> None:
    """Writes cells for scanpy: X are the embeddings, obs what is known of a cell, obsm coordinates and probabilities.

    Args:
      path: .h5ad file, local or an fsspec URL; whole or not at all.
      layout: of the cells.
      predictions: with embeddings.

    Raises:
      ConfigError: anndata is not installed.
    """
    try:
        import anndata
    except ImportError as error:
        raise ConfigError(
            f"--format=anndata needs anndata ({error}): pip install 'hpa-single-cell[anndata]'"
        ) from error
    numbers = np.array([entry.label for entry in predictions.info.classes])
    columns = {
        "fov_id": pd.Categorical(_plain(predictions.fov_ids)),
        "labels": _plain([hpa_labels.format_label_set(numbers[row > 0].tolist()) for row in predictions.labels]),
        "class": _categorical(class_of_cells(predictions), predictions),
        "predicted_class": _categorical(predicted_class_of_cells(predictions), predictions),
        "confidence": predictions.probabilities.max(axis=1),
    }
    cells = pd.DataFrame(columns, index=_plain(predictions.cell_ids), columns=_plain(columns))
    features = pd.DataFrame(index=_plain([f"feature_{i}" for i in range(predictions.embeddings.shape[1])]))
    table = anndata.AnnData(X=predictions.embeddings, obs=cells, var=features)
    table.obsm = {"X_pca": layout.pca.coordinates, "probabilities": predictions.probabilities}
    if layout.umap is not None:
        table.obsm["X_umap"] = layout.umap
    table.uns["pca"] = {"variance_ratio": layout.pca.shares}
    table.uns["class_names"] = np.array(predictions.class_names, dtype=object)
    table.uns["class_labels"] = numbers
    table.uns["split"] = predictions.info.split
    table.uns["runs"] = np.array([run["name"] for run in predictions.info.runs], dtype=object)
    with storage.write_by_name(path) as name:
        table.write_h5ad(name)


def _plain(values: Any) -> pd.Index:
    # Text as objects: files with pandas' own string type are refused by most versions of anndata.
    return pd.Index(np.array(list(values), dtype=object), dtype=object)


def _categorical(names: pd.Series, predictions: Predictions) -> pd.Categorical:
    known = [*predictions.class_names, _SEVERAL, _UNLABELLED]
    present = set(names)
    return pd.Categorical(names, categories=_plain(name for name in known if name in present))
