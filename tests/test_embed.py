"""The command `trainer.embed`: maps of embeddings as a picture and as a file for scanpy."""

import io
import sys

import cv2
import numpy as np
import pytest
from PIL import Image

from hpa_proto.errors import ConfigError, DatasetError
from trainer import embed, embedding_map, predictions
from trainer.embed import EmbedConfig
from trainer.predictions import ClassInfo, PredictionsInfo

CLASSES = (ClassInfo(16, "Cytosol"), ClassInfo(0, "Nucleoplasm"), ClassInfo(14, "Mitochondria"))


def make_features(classes, *, num_features=12):
    """Draws embeddings whose classes lie apart."""
    rng = np.random.default_rng(0)
    centers = rng.normal(0, 6, (3, num_features))
    return (centers[classes] + rng.normal(size=(len(classes), num_features))).astype(np.float32)


def write(path, *, num_cells=60, label_scope="single", features=True, labels=None):
    classes = np.arange(num_cells) % 3
    one_hot = np.eye(3, dtype=np.float32)[classes]
    if labels is None:
        labels = one_hot if label_scope != "unlabelled" else np.zeros_like(one_hot)
    batch = {
        "cell_id": [f"fov{i // 10}_{i}" for i in range(num_cells)],
        "labels": labels,
        "logits": one_hot,
        "probabilities": 0.1 + 0.7 * one_hot,
    }
    if features:
        batch["embedding"] = make_features(classes)
    run = {"name": "first", "run_dir": "first", "checkpoint": "best", "epoch": 4, "model": "tiny"}
    info = PredictionsInfo(CLASSES, label_scope, label_scope == "all", "test", "0" * 64, (run,), False)
    predictions.write_predictions(str(path), info, [batch])
    return str(path)


@pytest.fixture
def path(tmp_path):
    return write(tmp_path / "p.parquet")


def test_pca_is_that_of_the_singular_value_decomposition():
    features = np.random.default_rng(1).normal(size=(200, 8)).astype(np.float32) * np.arange(1, 9) + 50
    found = embedding_map.compute_pca(features.astype(np.float32), num_components=3)
    u, s, _ = np.linalg.svd(features - features.mean(axis=0), full_matrices=False)
    wanted = u[:, :3] * s[:3]
    signs = np.sign((wanted * found.coordinates).sum(axis=0))
    np.testing.assert_allclose(found.coordinates, wanted * signs, atol=1e-2)
    np.testing.assert_allclose(found.shares, (s**2 / (s**2).sum())[:3], rtol=1e-4)
    decomposition = pytest.importorskip("sklearn.decomposition")
    fitted = decomposition.PCA(3, svd_solver="full").fit(features)
    np.testing.assert_allclose(found.shares, fitted.explained_variance_ratio_, rtol=1e-4)


def test_pca_does_not_depend_on_chunks_or_on_the_order_of_cells(monkeypatch):
    features = make_features(np.arange(100) % 3)
    wanted = embedding_map.compute_pca(features, num_components=2)
    monkeypatch.setattr(embedding_map, "_CHUNK_ROWS", 7)
    found = embedding_map.compute_pca(features[::-1], num_components=2)
    np.testing.assert_allclose(found.coordinates[::-1], wanted.coordinates, atol=1e-3)


def test_equal_embeddings_have_no_direction():
    found = embedding_map.compute_pca(np.ones((5, 4), np.float32), num_components=50)
    assert found.coordinates.shape == (5, 4)
    np.testing.assert_array_equal(found.shares, 0)
    assert np.isfinite(found.coordinates).all()


def test_the_picture_shows_every_class_in_its_colour(path, tmp_path):
    assert embed.run(EmbedConfig(path)) == 60
    data = (tmp_path / "p-pca.png").read_bytes()
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)[:, :, ::-1].astype(int)
    for colour in ((31, 119, 180), (255, 127, 14), (44, 160, 44)):
        # Of the legend's dots, which are opaque.
        assert (np.abs(image - colour).sum(axis=2) < 20).sum() > 20
    assert embed.run(EmbedConfig(path)) == 60
    assert (tmp_path / "p-pca.png").read_bytes() == data
    assert not Image.open(io.BytesIO(data)).text


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        ({}, ["Cytosol", "Nucleoplasm", "Mitochondria"]),
        ({"label_scope": "unlabelled"}, ["no label"] * 3),
        ({"label_scope": "all", "labels": [[1, 1, 0], [0, 0, 1], [0, 0, 0]]}, ["several labels", "Mitochondria", "no label"]),
    ],
)  # fmt: skip
def test_classes_of_cells(tmp_path, options, wanted):
    found = predictions.read_predictions(write(tmp_path / "p.parquet", num_cells=3, **options))
    assert embedding_map.class_of_cells(found).tolist() == wanted
    assert embedding_map.predicted_class_of_cells(found).tolist() == ["Cytosol", "Nucleoplasm", "Mitochondria"]


def test_cells_without_labels_are_coloured_by_the_predicted_class(tmp_path, monkeypatch):
    path = write(tmp_path / "p.parquet", label_scope="unlabelled")
    titles = []
    legend = embedding_map.mpl.axes.Axes.legend
    monkeypatch.setattr(
        embedding_map.mpl.axes.Axes, "legend", lambda self, **k: titles.append(k["title"]) or legend(self, **k)
    )
    embed.run(EmbedConfig(path))
    assert titles == ["predicted class (cells)"]


@pytest.mark.parametrize("method", ["pca", pytest.param("umap", marks=pytest.mark.slow)])
def test_scanpy_can_read_the_file(path, tmp_path, method):
    anndata = pytest.importorskip("anndata")
    if method == "umap":
        pytest.importorskip("umap")
    out = str(tmp_path / "cells.h5ad")
    embed.run(EmbedConfig(path, out, method=method, format="anndata"))
    wanted, found = predictions.read_predictions(path), anndata.read_h5ad(out)
    assert found.obs_names.tolist() == wanted.cell_ids.tolist()
    np.testing.assert_array_equal(found.X, wanted.embeddings)
    np.testing.assert_array_equal(found.obsm["probabilities"], wanted.probabilities)
    assert found.obsm["X_pca"].shape == (60, 12)
    assert ("X_umap" in found.obsm) == (method == "umap")
    first = found.obs.iloc[0]
    assert (first["fov_id"], first["labels"], first["class"]) == ("fov0", "16", "Cytosol")
    assert first["predicted_class"] == "Cytosol"
    assert first["confidence"] == pytest.approx(0.8)
    assert found.obs["class"].cat.categories.tolist() == ["Cytosol", "Nucleoplasm", "Mitochondria"]
    assert list(found.uns["class_names"]) == ["Cytosol", "Nucleoplasm", "Mitochondria"]


@pytest.mark.slow
def test_umap_keeps_classes_apart_and_is_the_same_again(path, tmp_path):
    pytest.importorskip("umap")
    found = predictions.read_predictions(path)
    layouts = [embedding_map.compute_map(found, method="umap", seed=3) for _ in range(2)]
    np.testing.assert_array_equal(layouts[0].coordinates, layouts[1].coordinates)
    points = layouts[0].coordinates
    centers = np.stack([points[k::3].mean(axis=0) for k in range(3)])
    nearest = np.linalg.norm(points[:, None] - centers, axis=2).argmin(axis=1)
    assert nearest.tolist() == [i % 3 for i in range(60)]
    embed.run(EmbedConfig(path, method="umap"))
    assert (tmp_path / "p-umap.png").exists()


@pytest.mark.parametrize(
    ("package", "options", "extra"),
    [
        ("umap", {"method": "umap"}, "embeddings"),
        ("anndata", {"format": "anndata"}, "anndata"),
    ],
)
def test_a_missing_package_is_an_error_that_names_the_extra(path, tmp_path, monkeypatch, package, options, extra):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ConfigError, match=rf"pip install 'hpa-single-cell\[{extra}\]'"):
        embed.run(EmbedConfig(path, **options))
    assert [file.name for file in tmp_path.iterdir()] == ["p.parquet"]


@pytest.mark.parametrize(
    ("options", "method", "reason"),
    [
        ({"features": False}, "pca", "no embeddings; write them with .*--embeddings"),
        ({"num_cells": 2}, "pca", "2 cells; pca needs at least 3"),
        ({"num_cells": 15}, "umap", "15 cells; umap needs at least 16"),
    ],
)
def test_what_cannot_be_laid_out_is_an_error(tmp_path, options, method, reason):
    with pytest.raises(DatasetError, match=reason):
        embed.run(EmbedConfig(write(tmp_path / "p.parquet", **options), method=method))


def test_an_embedding_that_is_not_finite_is_an_error(path):
    found = predictions.read_predictions(path)
    found.embeddings[7, 3] = np.inf
    with pytest.raises(DatasetError, match="cell 'fov0_7' has an embedding that is not finite"):
        embedding_map.compute_map(found, method="pca")


@pytest.mark.parametrize(
    ("flags", "reason"),
    [
        ([], "--predictions is missing"),
        (["--predictions=p", "--method=tsne"], "choose one of pca, umap"),
        (["--predictions=p", "--format=csv"], "choose one of picture, anndata"),
        (["--predictions=p", "--out=map.jpg"], "ends in .png"),
        (["--predictions=p", "--format=anndata", "--out=map.png"], "ends in .h5ad"),
        (["--predictions=nowhere"], "nowhere: no such file"),
    ],
)
def test_wrong_flags_are_one_line_on_stderr(flags, reason, capsys):
    assert embed.main(["embed", *flags]) == 1
    message = capsys.readouterr().err
    assert reason in message
    assert message.count("\n") == 1


def test_the_command_writes_beside_the_predictions(path, tmp_path, capsys):
    assert embed.main(["embed", f"--predictions={path}"]) == 0
    assert capsys.readouterr().out == f"{tmp_path}/p-pca.png: 60 cells\n"
