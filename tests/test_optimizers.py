"""Optimizers and schedules."""

import keras
import numpy as np
import pytest

from hpa_proto.errors import ConfigError
from trainer import optimizers
from trainer.optimizers import OptimizerConfig


def rates(config, steps, **options):
    schedule = optimizers.build_schedule(config, **{"steps_per_epoch": 10, "epochs": 10, **options})
    if isinstance(schedule, float):
        return [schedule] * len(steps)
    return [float(schedule(step)) for step in steps]


def test_constant_is_constant():
    assert rates(OptimizerConfig(schedule="constant", learning_rate=0.1), [0, 50, 99]) == [0.1] * 3


def test_halved_is_halved_every_n_epochs():
    config = OptimizerConfig(schedule="halved", halve_every=2, learning_rate=0.8)
    np.testing.assert_allclose(rates(config, [0, 19, 20, 39, 40, 60]), [0.8, 0.8, 0.4, 0.4, 0.2, 0.1])


def test_cosine_warms_up_and_ends_at_zero():
    config = OptimizerConfig(schedule="cosine", warmup_epochs=1, learning_rate=0.1)
    found = rates(config, range(101))
    assert 0 < found[0] < 0.02
    assert found[10] == pytest.approx(0.1)
    assert np.argmax(found) == 10
    assert found[55] == pytest.approx(0.05, rel=1e-3)
    assert found[100] == pytest.approx(0, abs=1e-8)


def test_accumulated_steps_count_as_one_update():
    config = OptimizerConfig(schedule="halved", halve_every=2, learning_rate=0.8, accumulation_steps=5)
    np.testing.assert_allclose(rates(config, [3, 4, 8]), [0.8, 0.4, 0.2])


def test_the_warm_up_is_at_most_half_of_the_training():
    found = rates(OptimizerConfig(warmup_epochs=10, learning_rate=0.1), range(21), epochs=2)
    assert np.argmax(found) == 10


def minimise(optimizer, num_steps):
    variable = keras.Variable([3.0, -2.0], name="kernel")
    optimizer.build([variable])
    for _ in range(num_steps):
        optimizer.apply([keras.ops.convert_to_numpy(variable)])
    return keras.ops.convert_to_numpy(variable)


@pytest.mark.parametrize("name", optimizers.OPTIMIZERS)
def test_every_optimizer_goes_downhill(name):
    config = OptimizerConfig(optimizer=name, schedule="constant", learning_rate=0.05)
    found = minimise(optimizers.build_optimizer(config, steps_per_epoch=10, epochs=10), 20)
    assert np.linalg.norm(found) < 0.9 * np.linalg.norm([3, -2])


def test_clipping_bounds_the_step():
    config = OptimizerConfig(
        optimizer="sgd", momentum=0, schedule="constant", learning_rate=1, clip_norm=0.5, weight_decay=0
    )
    found = minimise(optimizers.build_optimizer(config, steps_per_epoch=10, epochs=10), 1)
    assert np.linalg.norm(found - [3, -2]) == pytest.approx(0.5, rel=1e-5)


def test_accumulation_updates_every_nth_step():
    config = OptimizerConfig(optimizer="sgd", schedule="constant", learning_rate=0.1, accumulation_steps=3)
    first_two, third = (
        minimise(optimizers.build_optimizer(config, steps_per_epoch=10, epochs=10), steps) for steps in (2, 3)
    )
    assert first_two.tolist() == [3.0, -2.0]
    assert abs(third[0]) < 3


def test_decay_spares_biases_and_normalisation():
    config = OptimizerConfig(optimizer="adamw", schedule="constant", weight_decay=0.5, learning_rate=0.1)
    optimizer = optimizers.build_optimizer(config, steps_per_epoch=10, epochs=10)
    layer = keras.layers.Dense(1, bias_initializer="ones")
    layer.build((None, 1))
    before = [keras.ops.convert_to_numpy(variable).copy() for variable in layer.trainable_variables]
    optimizer.build(layer.trainable_variables)
    optimizer.apply([np.zeros_like(array) for array in before])
    kernel, bias = (keras.ops.convert_to_numpy(variable) for variable in layer.trainable_variables)
    assert bias.tolist() == [1.0]
    assert abs(kernel[0, 0]) < abs(before[0][0, 0])


def test_a_later_optimizer_goes_on_in_the_schedule():
    config = OptimizerConfig(schedule="halved", halve_every=1, learning_rate=0.8)
    optimizer = optimizers.build_optimizer(config, steps_per_epoch=10, epochs=10, first_step=20)
    assert float(keras.ops.convert_to_numpy(optimizer.learning_rate)) == pytest.approx(0.2)


def test_float16_scales_the_loss():
    optimizer = optimizers.build_optimizer(OptimizerConfig(), steps_per_epoch=10, epochs=10, scale_loss=True)
    assert isinstance(optimizer, keras.optimizers.LossScaleOptimizer)


@pytest.mark.parametrize(
    "wrong",
    [
        {"optimizer": "lion"},
        {"schedule": "linear"},
        {"learning_rate": 0.0},
        {"accumulation_steps": 0},
        {"ema_momentum": 1.0},
        {"clip_norm": -1.0},
    ],
)
def test_wrong_values_are_config_errors(wrong):
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        OptimizerConfig(**wrong)
