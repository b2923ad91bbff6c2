"""Would an accelerator wait? Cores that the input of a device of a given speed needs here, for each format."""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Mapping

from hpa_proto import benchmark_report, benchmarking, storage
from hpa_proto.benchmarking import Work
from trainer import benchmark_data
from trainer.benchmark_data import Pictures
from trainer.benchmark_input import InputSuite
from trainer.benchmark_pipeline import pipeline_work

# EfficientNetB6 at 528 px (timm's tf_efficientnet_b6), mixed precision: device, what, images a second, file of _SOURCE.
_SOURCE = "github.com/huggingface/pytorch-image-models, results/"
PUBLISHED_SPEEDS = (
    ("RTX 3090", "training", 54.4, "benchmark-train-amp-nchw-pt112-cu113-rtx3090.csv"),
    ("RTX 3090, channels last", "training", 62.8, "benchmark-train-amp-nhwc-pt112-cu113-rtx3090.csv"),
    ("RTX 3090", "prediction", 254.2, "benchmark-infer-amp-nchw-pt240-cu124-rtx3090.csv"),
    ("RTX 4090, compiled", "prediction", 372.4, "benchmark-infer-amp-nchw-pt291-cu128-4090-dynamo.csv"),
    ("RTX 5090, compiled", "prediction", 612.4, "benchmark-infer-amp-nchw-pt291-cu130-5090-dynamo.csv"),
)

# Of each format: a raw picture has 1.1 MB.
_NUM_EXAMPLES = 256


class WaitSuite(InputSuite):
    """The whole pipeline for each format of the data sets."""

    name = "wait"
    title = "CPU time that the whole pipeline takes a four-channel picture, by format"

    def prepare(self, folder: str) -> None:
        """Writes the pictures in every format."""
        formats = {f"jpeg-planes, quality {quality}": ("jpeg-planes", quality) for quality in (95, 85)}
        formats |= {"png": ("png", 0), "raw": ("raw", 0)}
        self._works = {}
        for title, (name, quality) in formats.items():
            source = benchmark_data.write_dataset(
                storage.join(folder, title.replace(" ", "_")),
                self.pictures.planes,
                image_format=name,
                quality=quality,
                num_examples=_NUM_EXAMPLES,
            )
            self._works[title] = pipeline_work(source)

    def variants(self) -> dict[str, Work]:
        """Returns the pipeline of each format."""
        return self._works


def measure_wait(pictures: Pictures, *, images_per_second: float, repeats: int, round_sec: float) -> str:
    """Measures the pipeline here and writes how many cores a device needs, as Markdown.

    Args:
      pictures: to measure on.
      images_per_second: speed of the device.
      repeats: rounds.
      round_sec: least time of one timing.
    """
    with tempfile.TemporaryDirectory() as folder:
        figures = benchmarking.run_suite(WaitSuite(pictures), folder=folder, repeats=repeats, round_sec=round_sec)
    msec = {figure.name: statistics.median(figure.cpu) for figure in figures}
    size_px = pictures.planes.shape[-1]
    answer = format_wait(msec, images_per_second=images_per_second, num_cores=benchmarking.num_cores(), size_px=size_px)
    return f"{answer}\n\nMeasured on {pictures.description}, {benchmark_report.describe_machine()}."


def format_wait(msec: Mapping[str, float], *, images_per_second: float, num_cores: int, size_px: int) -> str:
    """Writes the answer as Markdown.

    Args:
      msec: format -> CPU milliseconds a picture of the whole pipeline.
      images_per_second: speed of the device.
      num_cores: of this machine.
      size_px: side of the pictures.
    """
    lines = [
        f"Input for a device that takes {images_per_second:g} four-channel pictures of {size_px} px a "
        f"second, on this machine of {num_cores} cores:",
        "",
        "| format | CPU time a picture | cores it needs | would it wait here? |",
        "| --- | --- | --- | --- |",
    ]
    for name, each in msec.items():
        cores = images_per_second * each / 1000
        lines.append(f"| {name} | {each:.2f} ms | {cores:.2f} | {'**yes**' if cores > num_cores else 'no'} |")
    caption = (
        f"Published speeds of EfficientNetB6 at {benchmark_data.SIZE_PX} px in mixed precision ({_SOURCE}), and the cores "
        f"that pictures of {size_px} px need here at these:"
    )
    lines += ["", caption, ""]
    lines += ["| device | what | images/s | " + " | ".join(msec) + " | source |", "| --- " * (4 + len(msec)) + "|"]
    for device, what, speed, source in PUBLISHED_SPEEDS:
        cores_each = " | ".join(f"{speed * each / 1000:.2f}" for each in msec.values())
        lines.append(f"| {device} | {what} | {speed:g} | {cores_each} | {source} |")
    return "\n".join(lines)
