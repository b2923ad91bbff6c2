"""Suites of what the device does: augmentation against a chain of layers, the training step against its input."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import cv2
import keras
import numpy as np
from keras import layers, ops

from hpa_proto import storage
from hpa_proto.benchmarking import Figure, Ratio, Suite, Work
from trainer import benchmark_data, dataset, optimizers, strategy, training_model
from trainer.augment import Augment, AugmentConfig
from trainer.benchmark_data import SPLIT, Pictures
from trainer.config import TrainConfig
from trainer.source import Source

_AUGMENT_BATCH = 8


class Augmented(keras.Model):
    """Compiles a function of (images, step) on the backend that is set, as a training step would."""

    def __init__(self, function: Callable[[Any, Any], Any], *parts: keras.layers.Layer):
        super().__init__(name="augmented", dtype="float32")
        self.function = function
        # Their random state is to be this model's.
        self.parts = parts
        self.built = True

    def call(self, inputs: tuple[Any, Any]) -> Any:
        """Returns a number a picture: what comes back to the host must not cost more than the work."""
        images, steps = inputs
        return ops.mean(self.function(images, steps[0]), axis=(1, 2, 3))


class AugmentSuite(Suite):
    """The fused warp against the chain of Keras layers that draws from the same ranges."""

    name = "augment"
    title = f"augmentation of pictures of three channels, batches of {_AUGMENT_BATCH}"

    def __init__(self, pictures: Pictures):
        super().__init__()
        self._pictures = pictures
        self._step = 0

    def prepare(self, folder: str) -> None:
        """Takes a batch and builds the variants."""
        batch = np.resize(self._pictures.planes[:, :3].transpose(0, 2, 3, 1), (_AUGMENT_BATCH, *_hwc(self._pictures)))
        self._batch = ops.convert_to_tensor(np.ascontiguousarray(batch))
        self._labels = ops.convert_to_tensor(np.eye(_AUGMENT_BATCH, 12, dtype=np.float32))
        geometry = AugmentConfig()
        chain = keras.Sequential(
            [
                layers.RandomFlip("horizontal_and_vertical"),
                layers.RandomRotation(geometry.rotation_degrees / 360, fill_mode="constant"),
                layers.RandomTranslation(geometry.shift, geometry.shift, fill_mode="constant"),
                # The layer's unit is the tangent.
                layers.RandomShear(0.18, 0.18, fill_mode="constant"),
                layers.RandomZoom(geometry.zoom, fill_mode="constant"),
            ]
        )
        self._models = {
            "chain of five Keras layers": Augmented(
                lambda images, _: chain(ops.cast(images, "float32"), training=True), chain
            ),
            "one warp": self._fused(AugmentConfig(gain=0, gamma=0, noise=0)),
            "one warp, then gain, gamma, noise": self._fused(geometry),
        }

    def _fused(self, config: AugmentConfig) -> Augmented:
        augment = Augment(config, seed=0)
        return Augmented(lambda images, step: augment(images, self._labels, step=step)[0])

    def variants(self) -> dict[str, Work]:
        """Returns the ways to augment a batch."""
        return {name: lambda model=model: self._apply(model) for name, model in self._models.items()}

    def _apply(self, model: Augmented) -> float:
        # The step is no constant: a compiler would draw the noise once and for all.
        self._step += 1
        model.predict_on_batch((self._batch, ops.full((_AUGMENT_BATCH,), self._step, dtype="int32")))
        return _AUGMENT_BATCH

    def ratios(self) -> Sequence[Ratio]:
        """Returns the fused ones against the chain."""
        chain, warp, full = self._models
        return (
            Ratio("one warp against the chain", warp, chain, at_least=4),
            Ratio("all augmentation against the chain alone", full, chain),
        )


def _hwc(pictures: Pictures) -> tuple[int, int, int]:
    return (*pictures.planes.shape[2:], 3)


class StepSuite(Suite):
    """The training step with a batch that lies on the device, and fed by the pipeline."""

    name = "step"
    title = "the training step: a batch that lies on the device against the pipeline"
    # A step of each kind before each timing: the buffers are full again, and stay so.
    settle_sec = 1e-3
    # A hundredth is looked for, and two steps of the same kind differ by several.
    least_rounds = 15

    def __init__(self, pictures: Pictures, *, model: str, size_px: int, batch_size: int):
        super().__init__()
        self._pictures, self._size_px, self._batch_size = pictures, size_px, batch_size
        self._model = model
        self.title = f"the training step of {model}, {size_px} px, batches of {batch_size}"
        self._waited_sec: list[float] = []
        self._fed_sec: list[float] = []

    def prepare(self, folder: str) -> None:
        """Writes the pictures at the step's size and builds the model."""
        planes = np.array(
            [
                [cv2.resize(plane, (self._size_px, self._size_px), interpolation=cv2.INTER_AREA) for plane in cell]
                for cell in self._pictures.planes
            ]
        )
        num_examples = self._pictures.source.num_examples(SPLIT)
        source = benchmark_data.write_dataset(storage.join(folder, "step"), planes, num_examples=num_examples)
        config = TrainConfig(source.data_dir, storage.join(folder, "run"), self._model, batch_size=self._batch_size)
        self._devices = strategy.open_devices(config)
        self._runner = _build_runner(config, source, self._devices)
        self._batches = _batches(source, self._batch_size)
        self._batch = self._hold(next(self._batches))

    def _put(self, batch: dict[str, Any]) -> dict[str, Any]:
        batch.pop("id")
        return self._devices.put(batch)

    def _hold(self, batch: dict[str, Any]) -> dict[str, Any]:
        # One device takes a batch from the host's memory with the step; here it is to lie there before.
        if self._devices.num_devices > 1:
            return self._put(batch)
        return {name: ops.copy(ops.convert_to_tensor(value)) for name, value in self._put(batch).items()}

    def variants(self) -> dict[str, Work]:
        """Returns a step of either kind."""
        return {"batch on the device": self._step_alone, "fed by the pipeline": self._step_fed}

    def _step_alone(self) -> float:
        self._wait(self._runner.train(self._batch))
        return self._batch_size

    def _step_fed(self) -> float:
        start = time.perf_counter()
        batch = next(self._batches)
        self._waited_sec.append(time.perf_counter() - start)
        self._wait(self._runner.train(self._put(batch)))
        self._fed_sec.append(time.perf_counter() - start)
        return self._batch_size

    @staticmethod
    def _wait(logs: dict[str, Any]) -> None:
        float(ops.convert_to_numpy(logs["loss"]))

    def ratios(self) -> Sequence[Ratio]:
        """Returns the speed that is left with input: 1 less the share lost."""
        return (
            Ratio(
                "fed by the pipeline against a batch on the device",
                "fed by the pipeline",
                "batch on the device",
                at_least=0.98,
            ),
        )

    def own_figures(self) -> Sequence[Figure]:
        """Returns how long the fed steps waited for their batch."""
        # The first compiles.
        shares = [100 * waited / total for waited, total in zip(self._waited_sec[1:], self._fed_sec[1:], strict=True)]
        return (
            Figure(
                self.name,
                "share of a fed step that it waited for its batch",
                "%",
                tuple(shares),
                less_is_better=True,
            ),
        )


def _build_runner(config: TrainConfig, source: Source, devices: strategy.Devices) -> training_model.StepRunner:
    with devices.scope():
        model = training_model.build_training_model(config, source, num_parts=devices.num_parts)
        optimizer = optimizers.build_optimizer(
            config.optimizer,
            steps_per_epoch=100,
            epochs=config.epochs,
            first_step=0,
            scale_loss=keras.config.dtype_policy().name == "mixed_float16",
        )
        model.compile(optimizer=optimizer, jit_compile=keras.backend.backend() == "jax")
        optimizer.build(model.trainable_variables)
    return training_model.StepRunner(model)


def _batches(source: Source, batch_size: int) -> Iterator[dict[str, Any]]:
    return dataset.iterate(
        dataset.training_dataset(source, split=SPLIT, batch_size=batch_size, seed=0),
        source,
        split=SPLIT,
        as_numpy=keras.backend.backend() != "tensorflow",
    )
