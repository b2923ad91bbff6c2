"""trainer.augment on whichever backend Keras runs."""

import dataclasses

import keras
import numpy as np
import pytest
from keras import ops
from scipy import stats

from hpa_proto.errors import ConfigError
from trainer import augment, warp
from trainer.augment import NO_AUGMENTATION, Augment, AugmentConfig

SHAPE = (4, 24, 24, 3)
LABELS = np.eye(4, 5, dtype="float32")
JITTER = {"gain": 0.3, "gamma": 0.3, "noise": 0.1}


def random_images(shape=SHAPE, dtype="uint8"):
    return np.random.default_rng(0).integers(0, 256, shape).astype(dtype)


def augmented(config, images=None, labels=LABELS, *, seed=1, step=0, **options):
    images = random_images() if images is None else images
    result = Augment(config, seed=seed)(
        ops.convert_to_tensor(images), ops.convert_to_tensor(labels), step=step, **options
    )
    return tuple(ops.convert_to_numpy(ops.cast(tensor, "float32")) for tensor in result)


def compiled(function):
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        any_batch = [tf.TensorSpec((None, *SHAPE[1:]), tf.uint8), tf.TensorSpec((None, 5)), tf.TensorSpec((), tf.int64)]
        return tf.function(function, input_signature=any_batch)
    if keras.backend.backend() == "jax":
        import jax

        return jax.jit(function)
    return function


def test_no_augmentation_gives_the_same_pixels_and_labels():
    images, labels = augmented(NO_AUGMENTATION)
    np.testing.assert_array_equal(images, random_images())
    np.testing.assert_array_equal(labels, LABELS)


def test_default_alters_every_picture_and_no_label():
    images, labels = augmented(AugmentConfig())
    assert images.shape == SHAPE
    assert (np.abs(images - random_images()).mean(axis=(1, 2, 3)) > 5).all()
    assert images.min() >= 0
    assert images.max() <= 255
    np.testing.assert_array_equal(labels, LABELS)


def test_same_seed_and_step_give_the_same_pictures():
    config = AugmentConfig(cutout=0.2, mixup=0.4)
    first, again = augmented(config, step=7), augmented(config, step=7)
    np.testing.assert_array_equal(first[0], again[0])
    np.testing.assert_array_equal(first[1], again[1])


@pytest.mark.parametrize("other", [{"seed": 1, "step": 8}, {"seed": 2, "step": 7}])
@pytest.mark.parametrize(
    "part",
    [{"rotation_degrees": 40}, {"gain": 0.3}, {"noise": 0.1}, {"cutout": 0.5}, {"mixup": 0.4}],
    ids=lambda part: next(iter(part)),
)
def test_another_step_or_seed_gives_other_pictures(part, other):
    config = dataclasses.replace(NO_AUGMENTATION, **part)
    assert (augmented(config, seed=1, step=7)[0] != augmented(config, **other)[0]).any()


def test_pictures_of_a_batch_are_drawn_apart():
    images = np.repeat(random_images()[:1], 4, axis=0)
    result, _ = augmented(dataclasses.replace(AugmentConfig(), noise=0), images)
    for one in range(4):
        for other in range(one):
            assert (result[one] != result[other]).any()


def test_compiled_step_draws_what_the_eager_one_does():
    config = AugmentConfig(cutout=0.2, mixup=0.4)
    augmenter = Augment(config, seed=3)
    step = compiled(lambda images, labels, step: augmenter(images, labels, step=step))
    images, labels = step(ops.convert_to_tensor(random_images()), ops.convert_to_tensor(LABELS), ops.cast(11, "int64"))
    expected_images, expected_labels = augmented(config, seed=3, step=11)
    np.testing.assert_allclose(ops.convert_to_numpy(images), expected_images, atol=0.5)
    np.testing.assert_allclose(ops.convert_to_numpy(labels), expected_labels, atol=1e-5)


def test_whole_augmentation_compiles_with_xla_when_the_warp_gathers():
    if keras.backend.backend() != "tensorflow":
        pytest.skip("jit_compile is TensorFlow's; JAX compiles in the test above, torch does not")
    import tensorflow as tf

    augmenter = Augment(AugmentConfig(cutout=0.2, mixup=0.4), seed=3, warp_method="gather")
    step = tf.function(lambda images, labels, step: augmenter(images, labels, step=step), jit_compile=True)
    arguments = tf.constant(random_images()), tf.constant(LABELS), tf.constant(11)
    # XLA draws other random numbers than TensorFlow without it, but the same ones each time.
    first, again = step(*arguments), step(*arguments)
    assert first[0].shape == SHAPE
    np.testing.assert_array_equal(first[0], again[0])
    assert (step(*arguments[:2], tf.constant(12))[0] != first[0]).numpy().any()


def test_all_geometry_is_one_interpolation(monkeypatch):
    calls = []
    interpolate = warp.ops.image.affine_transform
    monkeypatch.setattr(
        warp.ops.image, "affine_transform", lambda *args, **kwargs: calls.append(kwargs) or interpolate(*args, **kwargs)
    )
    augmenter = Augment(AugmentConfig(), seed=1, warp_method="op")
    augmenter(ops.convert_to_tensor(random_images()), ops.convert_to_tensor(LABELS), step=0)
    assert calls == [{"interpolation": "bilinear", "fill_mode": "constant", "fill_value": 0}]


def test_nothing_is_interpolated_without_geometry(monkeypatch):
    monkeypatch.setattr(warp, "warp_images", lambda *_, **__: pytest.fail("warped"))
    augmented(dataclasses.replace(NO_AUGMENTATION, **JITTER))


def test_parts_of_a_batch_get_what_the_whole_batch_gets():
    config = AugmentConfig(cutout=0.2)
    whole, _ = augmented(config, step=5)
    for part in range(2):
        rows = slice(2 * part, 2 * part + 2)
        images, _ = augmented(config, random_images()[rows], LABELS[rows], step=5, part=part, num_parts=2)
        np.testing.assert_allclose(images, whole[rows], atol=1e-2)


def test_switching_one_part_on_does_not_alter_the_draws_of_another():
    gain = dataclasses.replace(NO_AUGMENTATION, gain=0.3)
    plain, _ = augmented(gain)
    cut, _ = augmented(dataclasses.replace(gain, cutout=0.5))
    kept = cut > 0
    assert 0.3 < kept.mean() < 1
    np.testing.assert_array_equal(cut[kept], plain[kept])


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_floating_data_type_is_kept(dtype):
    images = ops.cast(random_images(), dtype)
    result, _ = Augment(AugmentConfig(), seed=1)(images, ops.convert_to_tensor(LABELS), step=0)
    assert keras.backend.standardize_dtype(result.dtype) == dtype
    # The geometry is computed in float32 whatever the pixels are.
    expected, _ = augmented(AugmentConfig())
    np.testing.assert_allclose(ops.convert_to_numpy(ops.cast(result, "float32")), expected, atol=2)


def test_integers_become_float32():
    result, _ = Augment(NO_AUGMENTATION, seed=1)(ops.convert_to_tensor(random_images()), LABELS, step=0)
    assert keras.backend.standardize_dtype(result.dtype) == "float32"


def test_background_stays_0_and_a_dark_channel_of_the_cell_gets_noise():
    images = random_images()
    images[:, :8] = 0
    images[:, 8:, :, 1] = 0
    result, _ = augmented(dataclasses.replace(NO_AUGMENTATION, **JITTER), images)
    assert (result[:, :8] == 0).all()
    assert (result[:, 8:, :, 1] > 0).mean() > 0.2


def test_channels_get_gains_and_gammas_of_their_own():
    images = np.full(SHAPE, 100, dtype="uint8")
    for part, low, high in (("gain", 70, 130), ("gamma", 255 * (100 / 255) ** 1.3, 255 * (100 / 255) ** (1 / 1.3))):
        result, _ = augmented(dataclasses.replace(NO_AUGMENTATION, **{part: 0.3}), images)
        values = result[:, 0, 0]
        np.testing.assert_allclose(result, np.broadcast_to(values[:, None, None], SHAPE), atol=1e-3)
        assert len(np.unique(values.round(3))) == values.size
        assert values.min() >= low - 0.1
        assert values.max() <= high + 0.1


def test_noise_has_at_most_the_wanted_deviation():
    images = np.full((4, 64, 64, 3), 128, dtype="uint8")
    result, _ = augmented(dataclasses.replace(NO_AUGMENTATION, noise=0.1), images)
    deviations = result.std(axis=(1, 2))
    assert deviations.max() <= 0.1 * 255 * 1.05
    assert deviations.max() > 0.03 * 255
    np.testing.assert_allclose(result.mean(axis=(1, 2)), 128, atol=2)


def test_cutout_hides_one_square():
    images = np.full((16, 40, 40, 2), 255, dtype="uint8")
    result, _ = augmented(dataclasses.replace(NO_AUGMENTATION, cutout=0.25), images, np.eye(16, dtype="float32"))
    for image in result:
        rows, columns = np.nonzero(image[..., 0] == 0)
        assert 1 <= len(rows) <= 100
        assert len(rows) == (np.ptp(rows) + 1) * (np.ptp(columns) + 1)
        np.testing.assert_array_equal(image[..., 0], image[..., 1])
    assert (result == 0).all(axis=-1).sum(axis=(1, 2)).max() == 100


def test_mixup_mixes_labels_as_it_mixes_pictures():
    images = np.zeros((4, 8, 8, 1), dtype="uint8")
    images[:] = np.array([0, 80, 160, 240])[:, None, None, None]
    labels = np.array([[1, 0, 0], [1, 1, 0], [0, 0, 1], [0, 1, 0]], dtype="float32")
    mixed, soft = augmented(dataclasses.replace(NO_AUGMENTATION, mixup=1.0), images, labels)
    partners = np.roll(np.arange(4), 1)
    shares = (mixed[:, 0, 0, 0] - images[partners, 0, 0, 0]) / (
        images[:, 0, 0, 0] - images[partners, 0, 0, 0].astype(float)
    )
    assert ((shares >= 0.5) & (shares <= 1)).all()
    assert len(np.unique(shares.round(4))) == 4
    expected = shares[:, None] * labels + (1 - shares[:, None]) * labels[partners]
    np.testing.assert_allclose(soft, expected, atol=1e-3)
    assert soft.min() >= 0
    assert soft.max() <= 1


def test_mixup_shares_follow_the_beta_distribution():
    zeros, ones = np.zeros((200, 1, 1, 1), "uint8"), np.full((200, 1, 1, 1), 255, "uint8")
    images = np.stack([zeros, ones], axis=1).reshape(400, 1, 1, 1)
    mixed, _ = augmented(dataclasses.replace(NO_AUGMENTATION, mixup=0.4), images, np.eye(400, dtype="float32"))
    shares = np.where(images.ravel() > 0, mixed.ravel(), 255 - mixed.ravel()) / 255
    # Of max(x, 1 - x) for x of Beta(0.4, 0.4).
    expected = 2 * stats.beta(0.4, 0.4).expect(lambda share: share, lb=0.5, ub=1)
    assert shares.mean() == pytest.approx(expected, abs=0.02)
    assert shares.max() > 0.999


def test_draws_cover_their_range():
    table = augment.Augment(AugmentConfig(), seed=1)._draw_table(2000, 3, step=0, part=0, num_parts=1)
    geometry = augment.Augment(AugmentConfig(), seed=1)._geometry(table)
    values = {name: ops.convert_to_numpy(entry) for name, entry in geometry._asdict().items()}
    assert 0.45 < (values["flip_x"] < 0).mean() < 0.55
    assert set(np.unique(values["flip_y"])) == {-1, 1}
    for name, low, high in (
        ("rotation_rad", -np.radians(40), np.radians(40)),
        ("shear_rad", -np.radians(10), np.radians(10)),
        ("zoom", 0.7, 1.3),
        ("shift_x", -0.2, 0.2),
        ("shift_y", -0.2, 0.2),
    ):
        assert low <= values[name].min() < low + 0.02 * (high - low)
        assert high - 0.02 * (high - low) < values[name].max() <= high


@pytest.mark.parametrize(
    ("wrong", "name"),
    [({"zoom": 1.0}, "zoom"), ({"rotation_degrees": -1}, "rotation_degrees"), ({"mixup": float("nan")}, "mixup")],
)
def test_impossible_value_is_an_error_that_names_it(wrong, name):
    with pytest.raises(ConfigError, match=name):
        AugmentConfig(**wrong)


def test_shear_that_was_not_meant_in_degrees_is_an_error():
    with pytest.raises(ConfigError, match="degrees"):
        AugmentConfig(shear_degrees=0.2)
