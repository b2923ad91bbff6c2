"""trainer.models and trainer.backbones on whichever backend Keras runs."""

import keras
import numpy as np
import pytest
from keras import ops

import tiny_backbone
from hpa_proto.errors import ConfigError
from trainer import backbones, models

SIZE_PX = 32


@pytest.fixture(autouse=True)
def _tiny(monkeypatch):
    tiny_backbone.register(monkeypatch)


def build(name=tiny_backbone.NAME, **changes):
    options = {"num_classes": 5, "num_channels": 3, "image_size_px": SIZE_PX} | changes
    return models.build_classifier(name, **options)


def random_planes(num_channels=3, num_images=2):
    return np.random.default_rng(0).integers(0, 256, (num_images, num_channels, SIZE_PX, SIZE_PX), dtype=np.uint8)


def outputs(model, inputs):
    return ops.convert_to_numpy(model(ops.convert_to_tensor(inputs)))


@pytest.fixture
def classifier():
    return build()


def test_planes_become_channels_last_in_the_same_data_type():
    planes = random_planes(4)
    images = models.planes_to_channels_last(ops.convert_to_tensor(planes))
    assert keras.backend.standardize_dtype(images.dtype) == "uint8"
    np.testing.assert_array_equal(ops.convert_to_numpy(images), planes.transpose(0, 2, 3, 1))


def test_logits_and_embedding_are_float32(classifier):
    logits = outputs(classifier, random_planes().transpose(0, 2, 3, 1))
    assert (logits.shape, logits.dtype) == ((2, 5), np.float32)
    assert classifier.get_layer("logits").activation is keras.activations.linear
    embed = keras.Model(classifier.input, classifier.get_layer("embedding").output)
    assert outputs(embed, random_planes().transpose(0, 2, 3, 1)).shape == (2, tiny_backbone.NUM_FEATURES)


def test_layers_are_a_chain_of_known_names(classifier):
    names = [layer.name for layer in classifier.layers]
    assert names == ["image", "preprocess", "backbone", "embedding", "dropout", "logits"]


@pytest.mark.parametrize("dtype", ["uint8", "float32", "float16", "bfloat16"])
def test_images_of_every_data_type_give_the_same_logits(classifier, dtype):
    images = random_planes().transpose(0, 2, 3, 1)
    logits = ops.convert_to_numpy(classifier(ops.cast(images, dtype)))
    np.testing.assert_allclose(logits, outputs(classifier, images.astype("float32")), atol=1e-5)


def test_fractions_of_a_pixel_are_not_cut_off(classifier):
    images = random_planes().transpose(0, 2, 3, 1).astype("float32")
    assert (outputs(classifier, images + 0.5) != outputs(classifier, images)).any()


def test_model_of_planes_equals_the_classifier_on_channels_last(classifier):
    planes = random_planes()
    model = models.with_planes_input(classifier)
    assert model.input_shape == (None, 3, SIZE_PX, SIZE_PX)
    assert model.inputs[0].dtype == "uint8"
    np.testing.assert_allclose(outputs(model, planes), outputs(classifier, planes.transpose(0, 2, 3, 1)), atol=1e-6)


def test_saved_model_gives_the_same_logits_in_safe_mode(classifier, tmp_path):
    models.with_planes_input(classifier).save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras", safe_mode=True)
    expected = outputs(classifier, random_planes().transpose(0, 2, 3, 1))
    np.testing.assert_allclose(outputs(loaded, random_planes()), expected, atol=1e-6)


@pytest.mark.parametrize("num_channels", [1, 2, 4])
def test_every_number_of_channels_builds(num_channels):
    logits = outputs(models.build_model(
        tiny_backbone.NAME, num_classes=5, num_channels=num_channels, image_size_px=SIZE_PX
    ), random_planes(num_channels))  # fmt: skip
    assert logits.shape == (2, 5)
    assert logits.std() > 0


def test_input_scaling_is_the_familys_own_and_not_trained(classifier):
    preprocess = classifier.get_layer("preprocess")
    pixels = np.array([100, 110, 120], dtype="float32") + np.array([1, 2, 4], dtype="float32")
    np.testing.assert_allclose(outputs(preprocess, pixels.reshape(1, 1, 1, 3)), 1, atol=1e-4)
    assert not preprocess.trainable_variables
    torch_mode = backbones.find_backbone("efficientnetb6").normalization
    np.testing.assert_allclose(torch_mode.mean, [123.675, 116.28, 103.53])
    np.testing.assert_allclose(torch_mode.std, [58.395, 57.12, 57.375])


@pytest.mark.parametrize(
    ("num_channels", "expected"), [(1, [4]), (2, [4, 4]), (3, [1, 2, 9]), (4, [1, 2, 9, 4])], ids=str
)
def test_numbers_of_rgb_spread_over_other_channels(num_channels, expected):
    assert backbones.spread_over_channels([1, 2, 9], num_channels=num_channels) == expected


def test_mixed_precision_keeps_pixels_and_logits_in_float32():
    keras.mixed_precision.set_global_policy("mixed_bfloat16")
    try:
        mixed = build()
    finally:
        keras.mixed_precision.set_global_policy("float32")
    compute = {layer.name: layer.compute_dtype for layer in mixed.layers}
    assert compute["backbone"] == "bfloat16"
    assert {compute[name] for name in ("embedding", "dropout", "logits")} == {"float32"}
    assert mixed.get_layer("backbone").layers[1].variable_dtype == "float32"
    # Scaled in float32 and rounded once: the offset of 122.3 is not rounded to bfloat16's 122.5.
    mixed.get_layer("preprocess").set_normalization(backbones.Normalization((122.3, 122.3, 122.3), (1.0, 1.0, 1.0)))
    images = np.full((1, SIZE_PX, SIZE_PX, 3), 124.0, dtype="float32")
    scaled = keras.Model(mixed.input, mixed.get_layer("preprocess").output)(ops.convert_to_tensor(images))
    values = ops.convert_to_numpy(ops.cast(scaled, "float32"))[0, 0, 0]
    np.testing.assert_allclose(values, 1.7, rtol=2**-8)
    assert outputs(mixed, images).dtype == np.float32


def test_one_step_of_training_moves_all_but_the_scaling(classifier):
    model = build()
    model.compile("sgd", keras.losses.CategoricalCrossentropy(from_logits=True))
    before = [np.array(ops.convert_to_numpy(weight)) for weight in model.weights]
    model.train_on_batch(random_planes().transpose(0, 2, 3, 1), np.eye(5, dtype="float32")[:2])
    moved = {w.path: (ops.convert_to_numpy(w) != b).any() for w, b in zip(model.weights, before, strict=True)}
    assert {path for path, changed in moved.items() if not changed} == {"preprocess/scale", "preprocess/offset"}


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"name": "efficientnetb9"}, "efficientnetb9.*efficientnetb6"),
        ({"num_channels": 5}, "5 channels"),
        ({"num_channels": 0}, "0 channels"),
        ({"image_size_px": 31}, "at least 32 px"),
        ({"num_classes": 0}, "0 classes"),
        ({"dropout": 1.0}, "dropout"),
    ],
    ids=str,
)
def test_impossible_model_is_an_error(changes, text):
    with pytest.raises(ConfigError, match=text):
        build(**changes)


def test_registry_has_the_hashes_that_keras_states():
    from keras.src.applications import convnext, efficientnet, efficientnet_v2, mobilenet_v3, resnet

    expected = {f"efficientnet{size}": hashes[1] for size, hashes in efficientnet.WEIGHTS_HASHES.items()}
    expected |= {f"efficientnetv2{s.strip('-')}": hashes[1] for s, hashes in efficientnet_v2.WEIGHTS_HASHES.items()}
    expected |= {name.replace("_", ""): hashes[1] for name, hashes in convnext.WEIGHTS_HASHES.items()}
    expected |= {f"mobilenetv3{s}": mobilenet_v3.WEIGHTS_HASHES[f"{s}_224_1.0_float"][1] for s in ("small", "large")}
    expected |= {name: resnet.WEIGHTS_HASHES[name][1] for name in ("resnet50", "resnet101")}
    checked = {name: entry.weights_hash for name, entry in backbones.BACKBONES.items() if name in expected}
    assert checked == {name: expected[name] for name in checked}
    # Tests that ran before in this process may have left small backbones of their own in the registry.
    own = {name for name in backbones.BACKBONES if name.startswith("tiny")}
    assert set(backbones.BACKBONES) - set(checked) - own == {"vgg16", "densenet121", "resnet10w16"}


@pytest.mark.parametrize(
    ("name", "num_channels", "num_features"),
    [
        ("efficientnetb0", 4, 1280),
        ("efficientnetv2b0", 1, 1280),
        ("mobilenetv3small", 2, 576),
        ("convnexttiny", 4, 768),
        ("vgg16", 3, 512),
        ("resnet50", 3, 2048),
        ("densenet121", 4, 1024),
        ("resnet10w16", 4, 128),
    ],
)
def test_every_family_builds_and_leaves_its_preprocessing_to_one_layer(name, num_channels, num_features):
    model = build(name, num_channels=num_channels)
    images = random_planes(num_channels).transpose(0, 2, 3, 1)
    assert outputs(model, images).shape == (2, 5)
    assert model.get_layer("embedding").output.shape == (None, num_features)
    assert len(model.get_layer("backbone").output.shape) == 4
    kinds = {type(layer) for layer in model.get_layer("backbone").layers}
    assert not kinds & {keras.layers.Rescaling, keras.layers.Normalization, keras.layers.Lambda}


def test_every_family_with_layers_of_its_own_is_saved_and_loaded(tmp_path):
    model = build("convnexttiny")
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras", safe_mode=True)
    images = random_planes().transpose(0, 2, 3, 1)
    np.testing.assert_allclose(outputs(loaded, images), outputs(model, images), atol=1e-6)


def test_efficientnetb6_has_the_published_number_of_trainable_parameters():
    model = build("efficientnetb6", num_classes=12, image_size_px=64)
    assert sum(int(np.prod(weight.shape)) for weight in model.trainable_weights) == 40_763_364
