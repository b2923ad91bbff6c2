"""The command `trainer.export`: what it writes computes what the run's model computes, and says what the numbers mean."""

import dataclasses
import json

import keras
import numpy as np
import pytest

import tiny_train
import trainer_data
from hpa_proto import storage
from hpa_proto.errors import ConfigError
from trainer import backbones, checkpoints, export, exported_model, loop, models, pretrained, run_folder, trained_model
from trainer.config import TrainConfig
from trainer.export import ExportConfig
from trainer.exported_model import ConversionError
from trainer.optimizers import OptimizerConfig

tiny_train.register()

NAMES = ["class 3", "class 0", "class 14"]
needs_tensorflow = pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="written with TensorFlow")


def random_planes(num_channels, size_px, *, num_cells=3):
    rng = np.random.default_rng(7)
    return rng.integers(0, 256, (num_cells, num_channels, size_px, size_px), dtype=np.uint8)


def lively_classifier(name, *, num_channels, size_px):
    """Builds a classifier whose logits differ: untrained backbones give features near 0, which any error would leave equal."""
    keras.utils.set_random_seed(3)
    classifier = models.build_classifier(
        name, num_classes=len(NAMES), num_channels=num_channels, image_size_px=size_px, dropout=0.5
    )
    features = keras.Model(classifier.input, classifier.get_layer("embedding").output)
    images = np.moveaxis(random_planes(num_channels, size_px, num_cells=8), 1, -1)
    values = keras.ops.convert_to_numpy(features(images, training=False))
    kernel = np.random.default_rng(3).normal(size=(values.shape[1], len(NAMES)))
    logits = values @ kernel
    scale = 2 / logits.std(axis=0)
    classifier.get_layer("logits").set_weights([kernel * scale, -logits.mean(axis=0) * scale])
    return classifier


def write_run(path, classifier, *, model="tiny", channels="rgby", size_px=32, label_scope="single"):
    """Writes the folder of a run that ended with this classifier."""
    config = TrainConfig(data_dir="data", run_dir=str(path), model=model, dropout=0.5)
    record = {
        "config": config.decisive(),
        "dtype_policy": "float32",
        "classes": [{"label": int(name.split()[1]), "name": name} for name in NAMES],
        "label_scope": label_scope,
        "channels": [{"r": "red", "g": "green", "b": "blue", "y": "yellow"}[initial] for initial in channels],
        "image_size_px": size_px,
        "manifest_sha256": "0" * 64,
    }
    folder = run_folder.RunFolder(str(path))
    folder.open(record)
    checkpoints.Checkpoints(str(path)).save_best(classifier, monitor="val_loss", value=0.5, epoch=4)
    return path


def expected_probabilities(classifier, planes, *, multi_label=False):
    images = np.moveaxis(planes, 1, -1).astype(np.float32)
    logits = keras.ops.convert_to_numpy(classifier(images, training=False)).astype(np.float64)
    if multi_label:
        return 1 / (1 + np.exp(-logits))
    return np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)


def run_onnx(path, planes):
    onnxruntime = pytest.importorskip("onnxruntime")
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(None, {"planes": planes}), strict=True)), session


@pytest.fixture(scope="module")
def classifier():
    return lively_classifier("tiny", num_channels=4, size_px=32)


@pytest.fixture(scope="module")
def run_dir(classifier, tmp_path_factory):
    return write_run(tmp_path_factory.mktemp("runs") / "first", classifier)


@pytest.fixture(scope="module")
def exported(run_dir, tmp_path_factory):
    """Everything at once: the three formats, with embeddings; the folder and what the command printed."""
    if keras.backend.backend() != "tensorflow":
        pytest.skip("written with TensorFlow")
    for name in exported_model.ONNX_PACKAGES:
        pytest.importorskip(name)
    out_dir = tmp_path_factory.mktemp("exports") / "exported"
    config = export.make_config(
        ["export", f"--run_dir={run_dir}", f"--out_dir={out_dir}", "--formats=saved_model,keras,onnx", "--embeddings"]
    )
    export.run(config)
    return out_dir


def test_saved_model_gives_keras_probabilities_and_class_names(exported, classifier):
    import tensorflow as tf

    planes = random_planes(4, 32)
    signatures = tf.saved_model.load(str(exported / "saved_model")).signatures
    found = signatures["serving_default"](planes=tf.constant(planes))
    np.testing.assert_allclose(found["probabilities"], expected_probabilities(classifier, planes), atol=1e-5)
    assert found["embedding"].shape == (3, 16)
    assert found["probabilities"].dtype == tf.float32
    assert [name.decode() for name in signatures["class_names"]()["class_names"].numpy()] == NAMES
    one = signatures["serving_default"](planes=tf.constant(planes[:1]))
    np.testing.assert_allclose(one["probabilities"], found["probabilities"][:1], atol=1e-6)


def test_keras_file_gives_keras_probabilities_and_class_names(exported, classifier):
    model = keras.saving.load_model(exported / "model.keras", safe_mode=True)
    planes = random_planes(4, 32)
    found = model.predict(planes, verbose=0)
    np.testing.assert_allclose(found["probabilities"], expected_probabilities(classifier, planes), atol=1e-5)
    assert np.ptp(found["probabilities"], axis=0).max() > 0.1, "the cells are too alike to tell anything"
    layer = model.get_layer("probabilities")
    assert (layer.class_names, layer.channels) == (NAMES, ["red", "green", "blue", "yellow"])


def test_onnx_file_gives_keras_probabilities_and_class_names(exported, classifier):
    planes = random_planes(4, 32)
    found, session = run_onnx(exported / "model.onnx", planes)
    np.testing.assert_allclose(found["probabilities"], expected_probabilities(classifier, planes), atol=1e-5)
    assert found["embedding"].shape == (3, 16)
    metadata = session.get_modelmeta().custom_metadata_map
    assert json.loads(metadata["class_names"]) == NAMES
    assert json.loads(metadata["channels"]) == ["red", "green", "blue", "yellow"]
    assert session.get_inputs()[0].type == "tensor(uint8)"
    assert session.get_inputs()[0].shape == ["batch", 4, 32, 32]


def test_embedding_is_the_pooled_features(exported, classifier):
    planes = random_planes(4, 32)
    features = keras.Model(classifier.input, classifier.get_layer("embedding").output)
    wanted = keras.ops.convert_to_numpy(features(np.moveaxis(planes, 1, -1), training=False))
    model = keras.saving.load_model(exported / "model.keras", safe_mode=True)
    np.testing.assert_allclose(exported_model.predict(model, planes)["embedding"], wanted, atol=1e-4)


def test_nothing_of_the_training_is_left(exported):
    model = keras.saving.load_model(exported / "model.keras", safe_mode=True)
    planes = random_planes(4, 32)
    first, second = (keras.ops.convert_to_numpy(model(planes, training=True)["probabilities"]) for _ in range(2))
    np.testing.assert_array_equal(first, second)
    layers = [layer.name for part in (model, model.get_layer("tiny")) for layer in part.layers]
    assert "dropout" not in layers
    assert "embedding" in layers


def test_model_card_says_what_the_numbers_mean(exported):
    card = json.loads((exported / export.CARD_NAME).read_text())
    assert (card["run"], card["model"], card["probabilities"]) == ("first", "tiny", "softmax")
    assert card["classes"] == [{"label": int(name.split()[1]), "name": name} for name in NAMES]
    assert card["channels"] == ["red", "green", "blue", "yellow"]
    assert card["input"] == {"name": "planes", "dtype": "uint8", "shape": [None, 4, 32, 32], "axes": "BCHW"}
    assert card["outputs"]["probabilities"] == {"dtype": "float32", "shape": [None, 3]}
    assert card["outputs"]["embedding"] == {"dtype": "float32", "shape": [None, 16]}
    assert (card["checkpoint"]["name"], card["checkpoint"]["epoch"]) == ("best", 4)
    assert set(card["versions"]) >= {"keras", "tensorflow", "onnxruntime"}
    for entry in card["formats"].values():
        assert (exported / entry["file"]).exists()
        assert max(entry["max_abs_difference_to_keras"].values()) <= exported_model.TOLERANCE


def test_a_new_training_can_start_from_the_keras_file(exported, classifier):
    fresh = models.build_classifier("tiny", num_classes=5, num_channels=4, image_size_px=32)
    pretrained.load_weights(fresh, pretrained.find_weights("tiny", str(exported / "model.keras")))
    for name in ("preprocess", "backbone"):
        for wanted, found in zip(
            classifier.get_layer(name).get_weights(), fresh.get_layer(name).get_weights(), strict=True
        ):
            np.testing.assert_array_equal(found, wanted)


@needs_tensorflow
@pytest.mark.parametrize(("model", "channels"), [("efficientnetb0", "rgb"), ("mobilenetv3small", "rgby")])
def test_onnx_works_for_real_backbones(model, channels, tmp_path):
    pytest.importorskip("tf2onnx")
    classifier = lively_classifier(model, num_channels=len(channels), size_px=32)
    run_dir = write_run(tmp_path / "run", classifier, model=model, channels=channels)
    export.run(ExportConfig(str(run_dir), str(tmp_path / "out"), formats=("onnx",)))
    planes = random_planes(len(channels), 32)
    found, _ = run_onnx(tmp_path / "out" / "model.onnx", planes)
    wanted = expected_probabilities(classifier, planes)
    assert np.ptp(wanted, axis=0).max() > 0.1, "the cells are too alike to tell anything"
    assert list(found) == ["probabilities"]
    np.testing.assert_allclose(found["probabilities"], wanted, atol=1e-4)


@needs_tensorflow
def test_what_onnx_cannot_express_is_an_error(tmp_path, monkeypatch):
    pytest.importorskip("tf2onnx")

    def grouped(*, include_top, weights, input_shape):
        images = keras.Input(input_shape)
        return keras.Model(images, keras.layers.Conv2D(8, 3, groups=4, name="stem")(images))

    entry = dataclasses.replace(backbones.find_backbone("tiny"), application=grouped)
    monkeypatch.setitem(backbones.BACKBONES, "grouped", entry)
    run_dir = write_run(tmp_path / "run", lively_classifier("grouped", num_channels=4, size_px=32), model="grouped")
    with pytest.raises(ConversionError, match=r"model\.onnx: tf2onnx cannot convert .*StatefulPartitionedCall"):
        export.run(ExportConfig(str(run_dir), str(tmp_path / "out"), formats=("onnx",)))
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_multi_label_runs_give_a_sigmoid_per_class(classifier, tmp_path):
    run_dir = write_run(tmp_path / "run", classifier, label_scope="all")
    card = export.run(ExportConfig(str(run_dir), str(tmp_path / "out"), formats=("keras",)))
    assert card["probabilities"] == "sigmoid"
    planes = random_planes(4, 32)
    found = exported_model.predict(keras.saving.load_model(tmp_path / "out" / "model.keras"), planes)
    wanted = expected_probabilities(classifier, planes, multi_label=True)
    np.testing.assert_allclose(found["probabilities"], wanted, atol=1e-5)


def train_run(tmp_path, **changes):
    """Trains for one epoch; the best and the last checkpoint are then of the same weights."""
    folder = trainer_data.write_dataset(tmp_path / "set", channels="rgb")
    optimizer = OptimizerConfig(learning_rate=3e-3, warmup_epochs=0, **changes.pop("optimizer", {}))
    defaults = {"model": "tinynorm", "batch_size": 12, "epochs": 1, "steps_per_epoch": 4, "tensorboard": False}
    config = TrainConfig(
        data_dir=str(folder), run_dir=str(tmp_path / "run"), optimizer=optimizer, **{**defaults, **changes}
    )
    loop.run(config)
    return tmp_path / "run"


@pytest.mark.parametrize(
    "changes",
    [
        {"optimizer": {"ema_momentum": 0.9}, "imbalance": "class_weight"},
        {"optimizer": {"schedule": "constant"}, "precision": "mixed_float16", "freeze": True, "augment": None},
    ],
    ids=["averaged", "float16_frozen"],
)
def test_best_and_last_checkpoint_of_a_real_run_agree(tmp_path, changes):
    policy = keras.config.dtype_policy()
    try:
        run_dir = train_run(tmp_path, **changes)
        best, last = (trained_model.load_trained_model(str(run_dir), checkpoint=name) for name in ("best", "last"))
    finally:
        keras.config.set_dtype_policy(policy)
    assert best.averaged == last.averaged == ("ema_momentum" in changes["optimizer"])
    assert (best.epoch, last.epoch) == (1, 1)
    assert best.source.class_names == NAMES
    for wanted, found in zip(best.classifier.weights, last.classifier.weights, strict=True):
        np.testing.assert_array_equal(keras.ops.convert_to_numpy(found), keras.ops.convert_to_numpy(wanted))
        assert found.dtype == "float32"
    assert best.classifier.get_layer("backbone").compute_dtype == "float32"
    with np.load(run_dir / "checkpoints" / "last.npz") as arrays:
        own = next(arrays[name] for name in sorted(arrays) if arrays[name].shape == (16, 3))
    kept = keras.ops.convert_to_numpy(last.classifier.get_layer("logits").kernel)
    assert np.array_equal(own, kept) == (not last.averaged), "averages are not the weights themselves"


def test_the_command_prints_the_differences(run_dir, tmp_path, capsys):
    assert export.main(["export", f"--run_dir={run_dir}", f"--out_dir={tmp_path / 'out'}", "--formats=keras"]) == 0
    printed = capsys.readouterr().out
    assert "model.keras: largest difference to Keras on random cells: probabilities 0.0e+00" in printed
    assert "3 classes, softmax" in printed


def test_a_model_that_computes_something_else_leaves_nothing(tmp_path):
    classifier = lively_classifier("tiny", num_channels=4, size_px=32)
    classifier.get_layer("logits").set_weights([np.full((16, 3), np.nan), np.zeros(3)])
    run_dir = write_run(tmp_path / "run", classifier)
    with pytest.raises(ConversionError, match=r"model\.keras: probabilities differ by up to nan"):
        export.run(ExportConfig(str(run_dir), str(tmp_path / "out"), formats=("keras",)))
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_a_small_difference_is_an_error(classifier, tmp_path, monkeypatch):
    run_dir = write_run(tmp_path / "run", classifier)

    def read(path):
        model = keras.saving.load_model(path)
        return lambda planes: {"probabilities": exported_model.predict(model, planes)["probabilities"] + 2e-4}

    monkeypatch.setitem(exported_model._READERS, "keras", read)
    with pytest.raises(ConversionError, match=r"differ by up to 0\.0002"):
        export.run(ExportConfig(str(run_dir), str(tmp_path / "out"), formats=("keras",)))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"formats": ("keras", "tflite")}, "tflite.*choose from saved_model, keras, onnx"),
        ({"formats": ()}, "choose from"),
        ({"checkpoint": "newest"}, "choose one of best, last"),
        ({"checkpoint": "last"}, "no last checkpoint"),
        ({"run_dir": "nowhere"}, "nowhere is no run"),
    ],
)
def test_what_cannot_work_is_a_config_error(run_dir, tmp_path, changes, reason):
    arguments = {"run_dir": str(run_dir), "out_dir": str(tmp_path / "out"), "formats": ("keras",), **changes}
    with pytest.raises(ConfigError, match=reason):
        export.run(ExportConfig(**arguments))
    assert not (tmp_path / "out").exists()


def test_a_run_without_any_checkpoint_is_an_error(classifier, tmp_path):
    run_dir = write_run(tmp_path / "run", classifier)
    (run_dir / checkpoints.BEST_NAME).unlink()
    with pytest.raises(ConfigError, match="no best checkpoint; train until its first epoch ends"):
        export.run(ExportConfig(str(run_dir), str(tmp_path / "out"), formats=("keras",)))


def test_a_checkpoint_of_another_model_is_an_error(tmp_path):
    run_dir = write_run(tmp_path / "run", lively_classifier("tiny", num_channels=3, size_px=32))
    with pytest.raises(ConfigError, match="not the weights of the run's model"):
        export.run(ExportConfig(str(run_dir), str(tmp_path / "out"), formats=("keras",)))


@pytest.mark.parametrize("place", ["local", "memory"])
def test_an_export_is_never_written_over(run_dir, tmp_path, place):
    out_dir = str(tmp_path) if place == "local" else "memory://test-export"
    storage.write_text(f"{out_dir}/export.json", "{}")
    with pytest.raises(ConfigError, match="not there yet"):
        export.run(ExportConfig(str(run_dir), out_dir, formats=("keras",)))


def test_missing_onnx_packages_are_named(run_dir, tmp_path, monkeypatch):
    monkeypatch.setattr(exported_model, "ONNX_PACKAGES", ("no_such_onnx",))
    with pytest.raises(ConfigError, match="no_such_onnx; `pip install tf2onnx onnx onnxruntime`"):
        export.run(ExportConfig(str(run_dir), str(tmp_path / "out"), formats=("keras", "onnx")))


def test_other_backends_are_told_to_use_tensorflow(run_dir, tmp_path, monkeypatch):
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    with pytest.raises(ConfigError, match="saved_model can be written with KERAS_BACKEND=tensorflow"):
        export.run(ExportConfig(str(run_dir), str(tmp_path / "out"), formats=("saved_model",)))


@pytest.mark.parametrize(
    ("flags", "reason"),
    [
        (["--out_dir=out"], "--run_dir is missing"),
        (["--run_dir=runs/first"], "--out_dir is missing"),
        (["--run_dir=runs/first", "--out_dir=out", "--nosuchflag"], "nosuchflag"),
        (["--run_dir=runs/first", "--out_dir=out", "stray"], "stray"),
    ],
)
def test_wrong_flags_are_one_line_on_stderr(flags, reason, capsys):
    assert export.main(["export", *flags]) == 1
    assert reason in capsys.readouterr().err


def test_flags_reach_the_config():
    flags = ["--run_dir=runs/a", "--out_dir=b", "--formats=onnx,keras", "--checkpoint=last", "--embeddings"]
    assert export.make_config(["export", *flags]) == ExportConfig("runs/a", "b", ("onnx", "keras"), "last", True)
    assert export.make_config(["export", *flags[:2]]) == ExportConfig("runs/a", "b")
