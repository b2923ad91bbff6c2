"""A trained classifier as a model of its own: uint8 planes in, probabilities out, class names inside; and its files.

Nothing of the training is left in it: no augmentation, no dropout, no 16-bit policy. Its input "planes" is
uint8[B, C, H, W], as the input pipeline gives them; one cell is `planes[np.newaxis]`. Its outputs are "probabilities",
float32[B, K], and on demand "embedding", float32[B, D], the pooled features.

The three formats:
  saved_model: signature "serving_default" as above; signature "class_names", without input, gives string[K]. (Not one more
    output: TensorFlow Serving wants all outputs of a signature to be as long as the batch.) Needs TensorFlow only:

        model = tf.saved_model.load("exported/saved_model")
        probabilities = model.signatures["serving_default"](planes=tf.constant(planes))["probabilities"]
        class_names = model.signatures["class_names"]()["class_names"]

  keras: with layers of this package, so import this module first; works on every Keras backend:

        model = keras.saving.load_model("exported/model.keras", safe_mode=True)
        probabilities = model(planes)["probabilities"]
        class_names = model.get_layer("probabilities").class_names

  onnx: class names and channels are JSON lists in the metadata. Needs onnxruntime only. All families but ConvNeXt, whose
    grouped convolutions Keras compiles with XLA, where tf2onnx cannot look in:

        session = onnxruntime.InferenceSession("exported/model.onnx")
        [probabilities] = session.run(["probabilities"], {"planes": planes})
        class_names = json.loads(session.get_modelmeta().custom_metadata_map["class_names"])
"""

from __future__ import annotations

import importlib.util
import json
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import keras
import numpy as np

from hpa_proto.errors import ConfigError
from trainer import models
from trainer.probabilities import Probabilities

FILE_NAMES: dict[str, str] = {"saved_model": "saved_model", "keras": "model.keras", "onnx": "model.onnx"}
FORMATS: tuple[str, ...] = tuple(FILE_NAMES)
TOLERANCE = 1e-4
ONNX_PACKAGES = ("tf2onnx", "onnx", "onnxruntime")
# The newest that tf2onnx writes and that runtimes of the last years read.
_ONNX_OPSET = 17
_INPUT = "planes"

Outputs = dict[str, np.ndarray]


class ConversionError(ArithmeticError):
    """A written model does not compute what the Keras model does."""


def check_formats(formats: Sequence[str]) -> None:
    """Checks that formats are known and can be written here.

    Raises:
      ConfigError: an unknown format, a package that is missing, or a Keras backend that cannot write it.
    """
    if not formats or set(formats) - set(FORMATS):
        raise ConfigError(f"--formats={','.join(formats)}: choose from {', '.join(FORMATS)}")
    missing = [name for name in ONNX_PACKAGES if importlib.util.find_spec(name) is None]
    if "onnx" in formats and missing:
        raise ConfigError(
            f"--formats: onnx needs {', '.join(missing)}; `pip install tf2onnx onnx onnxruntime`, or leave onnx out"
        )
    needing = [name for name in formats if name != "keras"]
    if needing and keras.backend.backend() != "tensorflow":
        raise ConfigError(
            f"--formats: {', '.join(needing)} can be written with KERAS_BACKEND=tensorflow, not "
            f"{keras.backend.backend()}; a run of any backend can be exported with it"
        )


def build_exported_model(
    classifier: keras.Model,
    class_names: Sequence[str],
    *,
    channels: Sequence[str],
    multi_label: bool,
    embeddings: bool = False,
) -> keras.Model:
    """Builds the model that is exported, sharing a classifier's weights.

    Args:
      classifier: of `models.build_classifier`, from [B, H, W, C].
      class_names: in the order of its logits.
      channels: names of its channels.
      multi_label: sigmoid instead of softmax.
      embeddings: "embedding" is an output too.

    Returns:
      A model from uint8[B, C, H, W] to {"probabilities": float32[B, K]} and perhaps {"embedding": float32[B, D]}.
    """
    embedding = classifier.get_layer("embedding").output
    # Past the dropout.
    logits = classifier.get_layer("logits")(embedding)
    features = keras.Model(classifier.input, {"embedding": embedding, "logits": logits}, name=classifier.name)
    model = models.with_planes_input(features)
    probabilities = Probabilities(
        class_names, channels=channels, multi_label=multi_label, dtype="float32", name="probabilities"
    )
    outputs = {"probabilities": probabilities(model.output["logits"])}
    if embeddings:
        outputs["embedding"] = model.output["embedding"]
    return keras.Model(model.input, outputs, name=f"{classifier.name}_exported")


def predict(model: keras.Model, planes: np.ndarray) -> Outputs:
    """Computes a model's outputs, as NumPy arrays, for uint8[B, C, H, W]."""
    return {name: keras.ops.convert_to_numpy(value) for name, value in model(planes, training=False).items()}


def write_formats(model: keras.Model, folder: Path, formats: Sequence[str]) -> dict[str, dict[str, float]]:
    """Writes a model in several formats, reads each again and compares it with the model on random cells.

    Args:
      model: of `build_exported_model`.
      folder: where `FILE_NAMES` go; it is there.
      formats: of FORMATS, checked with `check_formats`.

    Returns:
      Format -> output -> largest absolute difference.

    Raises:
      ConversionError: a difference above TOLERANCE (of an embedding: times its largest absolute value, if above 1).
    """
    planes = np.random.default_rng(0).integers(0, 256, (4, *model.input_shape[1:]), dtype=np.uint8)
    wanted = predict(model, planes)
    archive, serve = _make_archive(model) if set(formats) - {"keras"} else (None, None)
    differences: dict[str, dict[str, float]] = {}
    for name in formats:
        path = folder / FILE_NAMES[name]
        if name == "saved_model":
            archive.write_out(str(path), verbose=False)
        elif name == "keras":
            model.save(path)
        else:
            _write_onnx(model, serve, path)
        differences[name] = _compare(wanted, _READERS[name](path)(planes), path=path)
    return differences


def _make_archive(model: keras.Model) -> tuple[keras.export.ExportArchive, Callable]:
    """Traces the model once, for SavedModel and ONNX."""
    class_names = model.get_layer("probabilities").class_names
    archive = keras.export.ExportArchive()
    serve = archive.add_endpoint(
        "serving_default",
        lambda planes: model(planes, training=False),
        input_signature=[keras.InputSpec(shape=model.input_shape, dtype="uint8", name=_INPUT)],
    )
    archive.add_endpoint(
        "class_names",
        lambda: {"class_names": keras.ops.convert_to_tensor(class_names, dtype="string")},
        input_signature=[],
    )
    return archive, serve


def _write_onnx(model: keras.Model, serve: Callable, path: Path) -> None:
    import onnx
    import tf2onnx

    with _quiet("tf2onnx"):
        proto, _ = tf2onnx.convert.from_function(serve, input_signature=serve.input_signature, opset=_ONNX_OPSET)
    for value in (*proto.graph.input, *proto.graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "batch"
    layer = model.get_layer("probabilities")
    onnx.helper.set_model_props(
        proto,
        {
            "class_names": json.dumps(layer.class_names),
            "channels": json.dumps(layer.channels),
            "multi_label": json.dumps(layer.multi_label),
        },
    )
    try:
        onnx.checker.check_model(proto)
    except onnx.checker.ValidationError as error:
        reason = str(error).partition("\n")[0]
        raise ConversionError(f"{path.name}: tf2onnx cannot convert this model ({reason}); leave onnx out") from error
    path.write_bytes(proto.SerializeToString())


def _read_saved_model(path: Path) -> Callable[[np.ndarray], Outputs]:
    layer = keras.layers.TFSMLayer(str(path), call_endpoint="serving_default")
    return lambda planes: {name: keras.ops.convert_to_numpy(value) for name, value in layer(planes).items()}


def _read_keras(path: Path) -> Callable[[np.ndarray], Outputs]:
    model = keras.saving.load_model(path, safe_mode=True)
    return lambda planes: predict(model, planes)


def _read_onnx(path: Path) -> Callable[[np.ndarray], Outputs]:
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return lambda planes: dict(zip(names, session.run(names, {_INPUT: planes}), strict=True))


_READERS: dict[str, Callable[[Path], Callable[[np.ndarray], Outputs]]] = {
    "saved_model": _read_saved_model,
    "keras": _read_keras,
    "onnx": _read_onnx,
}


def _compare(wanted: Outputs, found: Outputs, *, path: Path) -> dict[str, float]:
    if wanted.keys() != found.keys():
        raise ConversionError(f"{path.name}: has the outputs {', '.join(found)} instead of {', '.join(wanted)}")
    differences = {}
    for name, values in wanted.items():
        differences[name] = float(np.abs(values - found[name]).max())
        scale = 1.0 if name == "probabilities" else max(1.0, float(np.abs(values).max()))
        # Not `>`: what is not a number must not pass.
        if not differences[name] <= TOLERANCE * scale:
            raise ConversionError(
                f"{path.name}: {name} differ by up to {differences[name]:.2g} from Keras' on random cells "
                f"(at most {TOLERANCE * scale:.0e} is allowed); export without this format"
            )
    return differences


@contextmanager
def _quiet(name: str) -> Iterator[None]:
    # tf2onnx tells of optimisations that it had to skip, with stack traces; the result is compared anyway.
    logger = logging.getLogger(name)
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)
