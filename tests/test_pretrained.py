"""trainer.pretrained."""

import hashlib
import io
import pathlib
import urllib.request
import uuid

import keras
import numpy as np
import pytest
from keras import applications, layers, ops

import tiny_backbone
from hpa_proto import storage
from hpa_proto.errors import ConfigError
from trainer import backbones, models, pretrained

SIZE_PX = 32
IMAGENET_MEAN = [0.485, 0.456, 0.406]


@pytest.fixture(autouse=True)
def _tiny(monkeypatch):
    tiny_backbone.register(monkeypatch)


def build(name, weights, *, num_channels=3):
    return models.build_classifier(
        name, num_classes=5, num_channels=num_channels, image_size_px=SIZE_PX, weights=str(weights)
    )


def random_images(num_channels=3):
    shape = (2, SIZE_PX, SIZE_PX, num_channels)
    return np.random.default_rng(0).integers(0, 256, shape).astype("float32")


def embeddings(classifier, images):
    return ops.convert_to_numpy(
        keras.Model(classifier.input, classifier.get_layer("embedding").output)(ops.convert_to_tensor(images))
    )


def stem_kernel(classifier):
    return next(ops.convert_to_numpy(w) for w in classifier.get_layer("backbone").weights if len(w.shape) == 4)


def write_notop(name, path):
    """Writes weights as the published files hold them: EfficientNet's variance is the standard deviation."""
    application = backbones.build_application(name, num_channels=3, image_size_px=SIZE_PX)
    for layer in application.layers:
        if isinstance(layer, layers.Normalization) and layer.weights:
            layer.weights[0].assign(IMAGENET_MEAN)
            layer.weights[1].assign(backbones.IMAGENET_STD)
    application.save(path)
    return application


@pytest.fixture
def tiny_file(tmp_path):
    path = tmp_path / "tiny_notop.h5"
    write_notop("tiny", path)
    return path


# What Keras does itself with weights="imagenet" and preprocess_input.
KERAS_OWN = {
    "vgg16": applications.vgg16.preprocess_input,
    "efficientnetb0": applications.efficientnet.preprocess_input,
    "mobilenetv3small": applications.mobilenet_v3.preprocess_input,
    "convnexttiny": applications.convnext.preprocess_input,
    "resnet50": applications.resnet.preprocess_input,
    "densenet121": applications.densenet.preprocess_input,
    "efficientnetv2b0": applications.efficientnet_v2.preprocess_input,
    "efficientnetv2s": applications.efficientnet_v2.preprocess_input,
}
SLOW = ("mobilenetv3small", "convnexttiny", "resnet50", "densenet121", "efficientnetv2b0", "efficientnetv2s")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if name in SLOW else ()) for name in KERAS_OWN]
)
def test_imagenet_weights_from_a_file_give_what_keras_gives_with_imagenet(name, tmp_path, monkeypatch):
    path = tmp_path / "notop.h5"
    write_notop(name, path)
    monkeypatch.setattr("keras.src.utils.file_utils.get_file", lambda *_, **__: str(path))
    keras_own = backbones.find_backbone(name).application(
        include_top=False, weights="imagenet", input_shape=(SIZE_PX, SIZE_PX, 3), pooling="avg"
    )
    expected = ops.convert_to_numpy(keras_own(KERAS_OWN[name](random_images())))
    found = embeddings(build(name, path), random_images())
    np.testing.assert_allclose(found, expected, atol=2e-3 * expected.std(), rtol=1e-3)


@pytest.mark.parametrize(
    ("variance", "std"),
    [
        (backbones.IMAGENET_STD, backbones.IMAGENET_STD),
        ([1.0, 1.0, 1.0], [1, 1, 1]),
        ([0.04, 0.09, 0.16], [0.2, 0.3, 0.4]),
    ],
)
def test_normalization_is_read_from_the_weights_and_the_published_variance_is_a_deviation(variance, std):
    inputs = keras.Input((8, 8, 3))
    application = keras.Model(inputs, layers.Normalization()(inputs))
    application.layers[1].weights[0].assign(IMAGENET_MEAN)
    application.layers[1].weights[1].assign(variance)
    found = backbones.application_normalization(application, "efficientnetb0")
    np.testing.assert_allclose(found.mean, 255 * np.array(IMAGENET_MEAN), rtol=1e-6)
    np.testing.assert_allclose(found.std, 255 * np.array(std), rtol=1e-6)


def test_weights_in_keras_3s_own_h5_format_load_too(tiny_file, tmp_path):
    application = backbones.build_application("tiny", num_channels=3, image_size_px=SIZE_PX)
    application.load_weights(tiny_file)
    application.save_weights(tmp_path / "tiny.weights.h5")
    found = stem_kernel(build("tiny", tmp_path / "tiny.weights.h5"))
    np.testing.assert_array_equal(found, stem_kernel(build("tiny", tiny_file)))


def test_application_saved_whole_as_keras_file_loads(tiny_file, tmp_path):
    application = backbones.build_application("tiny", num_channels=3, image_size_px=48)
    application.load_weights(tiny_file)
    application.save(tmp_path / "tiny.keras")
    found = embeddings(build("tiny", tmp_path / "tiny.keras"), random_images())
    np.testing.assert_allclose(found, embeddings(build("tiny", tiny_file), random_images()), rtol=1e-5)


@pytest.mark.parametrize("wrapped", [False, True])
def test_classifier_of_this_trainer_gives_its_backbone_and_scaling_but_not_its_head(wrapped, tmp_path):
    teacher = build("tiny", "none")
    teacher.get_layer("preprocess").scale.assign([0.5, 0.25, 0.125])
    (models.with_planes_input(teacher) if wrapped else teacher).save(tmp_path / "best.keras")
    pupil = build("tiny", tmp_path / "best.keras")
    np.testing.assert_allclose(embeddings(pupil, random_images()), embeddings(teacher, random_images()), rtol=1e-5)
    kernels = [ops.convert_to_numpy(model.get_layer("logits").kernel) for model in (pupil, teacher)]
    assert (kernels[0] != kernels[1]).any()


@pytest.mark.parametrize("num_channels", [1, 2, 4])
def test_grey_image_gives_the_same_features_with_any_number_of_channels(num_channels, tmp_path):
    teacher = build("tiny", "none")
    teacher.get_layer("preprocess").set_normalization(backbones.Normalization((90.0,) * 3, (50.0,) * 3))
    teacher.save(tmp_path / "best.keras")
    pupil = build("tiny", tmp_path / "best.keras", num_channels=num_channels)
    found = embeddings(pupil, np.repeat(random_images(1), num_channels, axis=-1))
    np.testing.assert_allclose(
        found, embeddings(teacher, np.repeat(random_images(1), 3, axis=-1)), rtol=1e-3, atol=1e-5
    )


def test_widened_kernel_keeps_colours_and_scale():
    kernel = np.random.default_rng(0).normal(size=(3, 3, 3, 8))
    for num_channels in (1, 2, 3, 4):
        wide = pretrained.widen_kernel(kernel, num_channels=num_channels, source="x.h5")
        assert wide.shape == (3, 3, num_channels, 8)
        np.testing.assert_allclose(wide.sum(axis=2), kernel.sum(axis=2))
    np.testing.assert_allclose(wide[:, :, :3], 0.75 * kernel)
    np.testing.assert_allclose(wide[:, :, 3], 0.75 * kernel.mean(axis=2))


def test_kernel_of_blue_green_red_is_turned_to_the_order_of_the_planes(tiny_file):
    application = backbones.build_application("tiny", num_channels=3, image_size_px=SIZE_PX)
    application.load_weights(tiny_file)
    published = ops.convert_to_numpy(application.weights[0])
    np.testing.assert_array_equal(stem_kernel(build("tiny", tiny_file)), published[:, :, ::-1])
    np.testing.assert_allclose(
        stem_kernel(build("tiny", tiny_file, num_channels=4))[:, :, 0], 0.75 * published[:, :, 2]
    )


def test_four_channel_weights_do_not_fit_three(tmp_path):
    build("tiny", "none", num_channels=4).save(tmp_path / "best.keras")
    with pytest.raises(ConfigError, match="made for 4 channels, the data has 3"):
        build("tiny", tmp_path / "best.keras")


def test_weights_of_another_architecture_are_an_error_that_names_the_layer(tiny_file, tmp_path):
    with pytest.raises(ConfigError, match=r"tiny_notop.h5: not the weights of vgg16 .*found 3 saved layers"):
        build("vgg16", tiny_file)
    build("tiny", "none").save(tmp_path / "best.keras")
    with pytest.raises(ConfigError, match=r"best.keras: not the weights of vgg16: stem/kernel is \(3, 3, 3, 8\).*64\)"):
        build("vgg16", tmp_path / "best.keras")


def test_weights_with_a_top_are_an_error_that_names_the_surplus(tiny_file, tmp_path):
    application = backbones.build_application("tiny", num_channels=3, image_size_px=SIZE_PX)
    pooled = layers.GlobalAveragePooling2D()(application.output)
    keras.Model(application.input, layers.Dense(7, name="predictions")(pooled)).save(tmp_path / "top.keras")
    with pytest.raises(ConfigError, match="only the file has predictions"):
        build("tiny", tmp_path / "top.keras")


def test_keras_file_that_would_run_code_is_refused(tmp_path):
    inputs = keras.Input((SIZE_PX, SIZE_PX, 3))
    keras.Model(inputs, layers.Lambda(lambda images: images * 2)(inputs)).save(tmp_path / "code.keras")
    with pytest.raises(ConfigError, match=r"code.keras: not a Keras model that can be loaded safely"):
        build("tiny", tmp_path / "code.keras")


@pytest.mark.parametrize("name", ["junk.h5", "junk.keras"])
def test_file_that_is_no_weights_file_is_an_error(name, tmp_path):
    (tmp_path / name).write_bytes(b"no weights")
    with pytest.raises(ConfigError, match=name):
        build("tiny", tmp_path / name)


def test_missing_file_or_unknown_kind_is_an_error_before_anything_is_built(tmp_path):
    with pytest.raises(ConfigError, match="no such file"):
        pretrained.find_weights("tiny", str(tmp_path / "absent.h5"))
    with pytest.raises(ConfigError, match=r"\.h5 or \.keras"):
        pretrained.find_weights("tiny", "noisy-student")
    assert pretrained.find_weights("tiny", "none") is None


def test_found_file_has_its_md5(tiny_file):
    found = pretrained.find_weights("tiny", str(tiny_file))
    assert found.md5 == hashlib.md5(tiny_file.read_bytes()).hexdigest()
    assert found.path == str(tiny_file)


def test_weights_at_a_url_are_those_of_the_file(tiny_file):
    url = f"memory://{uuid.uuid4().hex}/tiny_notop.h5"
    with pytest.raises(ConfigError, match=f"{url}: there is no such file"):
        build("tiny", url)
    storage.write_bytes(url, tiny_file.read_bytes())
    np.testing.assert_array_equal(stem_kernel(build("tiny", url)), stem_kernel(build("tiny", tiny_file)))
    storage.write_bytes(url, b"damaged")
    with pytest.raises(ConfigError, match=f"^{url}: not the weights of tiny"):
        build("tiny", url)


def test_imagenet_without_network_says_what_to_fetch_and_where_to_put_it(tmp_path, monkeypatch):
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))

    def refuse(*_, **__):
        raise urllib.error.URLError("Network is unreachable")

    monkeypatch.setattr(urllib.request, "urlopen", refuse)
    with pytest.raises(ConfigError) as error:
        pretrained.find_weights("efficientnetb6", "imagenet")
    for part in (
        "https://storage.googleapis.com/keras-applications/efficientnetb6_notop.h5",
        "md5 9ecce42647a20130c1f39a5d4cb75743",
        str(tmp_path / "models" / "efficientnetb6_notop.h5"),
        "Network is unreachable",
    ):
        assert part in str(error.value)
    assert not list((tmp_path / "models").iterdir())


def test_imagenet_is_fetched_once_and_checked(tmp_path, monkeypatch):
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    entry = backbones.Backbone(
        applications.VGG16,
        backbones.find_backbone("tiny").normalization,
        "https://x/w.h5",
        hashlib.md5(b"w").hexdigest(),
    )
    monkeypatch.setitem(backbones.BACKBONES, "tiny", entry)
    fetched = []
    monkeypatch.setattr(urllib.request, "urlopen", lambda url, **_: fetched.append(url) or io.BytesIO(b"w"))
    for _ in range(2):
        assert pathlib.Path(pretrained.find_weights("tiny", "imagenet").path).read_bytes() == b"w"
    assert fetched == ["https://x/w.h5"]
    (tmp_path / "models" / "w.h5").write_bytes(b"altered")
    with pytest.raises(ConfigError, match="delete it"):
        pretrained.find_weights("tiny", "imagenet")


def test_imagenet_weights_of_a_backbone_without_any_are_an_error():
    with pytest.raises(ConfigError, match="resnet10w16 has no ImageNet weights"):
        pretrained.find_weights("resnet10w16", "imagenet")
