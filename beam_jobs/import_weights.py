"""Turns the published weights of HPA-Cell-Segmentation into files that are safe to load.

    python -m beam_jobs.import_weights --pth=dpn_unet_nuclei_v1.pth --out=nuclei.safetensors
    python -m beam_jobs.import_weights --pth=dpn_unet_cell_3ch_v1.pth --out=cell.safetensors

The files are of Zenodo record 4665863: whole pickled modules, and loading a pickle runs what is in it. Here nothing is run;
names and shapes of all 499 tensors are checked. dpn_unet_cell_v2.pth is the cell network that needs no yellow channel. A
renamed file needs --kind.
"""

from __future__ import annotations

import dataclasses

from absl import flags

from beam_jobs import command
from beam_jobs.segmenters import hpacellseg, network_weights, pth_reader
from beam_jobs.segmenters.network_weights import KIND_OF_PUBLISHED_FILE, KINDS, Weights
from hpa_proto import storage
from hpa_proto.errors import ConfigError

_PTH = flags.DEFINE_string("pth", None, "Published weights: a .pth file of torch.save.")
_OUT = flags.DEFINE_string("out", None, "File to write, .safetensors.")
_KIND = flags.DEFINE_enum("kind", None, list(KINDS), "What the network finds; default: by the published file's name.")


@dataclasses.dataclass(frozen=True)
class ImportConfig:
    """What is imported; the fields are the flags."""

    pth: str
    out: str
    kind: str | None = None

    def __post_init__(self) -> None:
        if not self.out.endswith(".safetensors"):
            raise ConfigError(f"--out={self.out}: give a name that ends in .safetensors")
        if not storage.exists(self.pth):
            raise ConfigError(f"--pth={self.pth}: no such file; {network_weights.WHERE_TO_GET}")
        if not (self.kind or KIND_OF_PUBLISHED_FILE.get(_file_name(self.pth))):
            raise ConfigError(
                f"--pth={self.pth}: not the name of a published file ({', '.join(KIND_OF_PUBLISHED_FILE)}); "
                f"say with --kind what it finds: {', '.join(KINDS)}"
            )


def run(config: ImportConfig) -> Weights:
    """Reads, checks and writes the weights, and returns them.

    Raises:
      ConfigError: torch is not installed, or the file is harmful, damaged, or holds other tensors than the network's.
      OSError: the new file cannot be written.
    """
    hpacellseg.check_device("cpu")
    from beam_jobs.segmenters import dpn_unet

    tensors = pth_reader.read_pth(config.pth)
    network_weights.check_tensors(tensors, dpn_unet.state_shapes(), path=config.pth)
    weights = Weights(tensors, config.kind or KIND_OF_PUBLISHED_FILE[_file_name(config.pth)])
    network_weights.write_safetensors(config.out, weights, source_sha256=network_weights.sha256(config.pth))
    return weights


def main(unknown_flags: list[str]) -> None:
    """Imports what the flags name."""
    if unknown_flags:
        raise ConfigError(f"unknown flag {unknown_flags[0]}; see --help")
    config = ImportConfig(command.required("pth", _PTH.value), command.required("out", _OUT.value), _KIND.value)
    weights = run(config)
    num_values = sum(tensor.size for tensor in weights.tensors.values())
    print(f"{config.out}: {len(weights.tensors)} tensors, {num_values / 1e6:.1f} M values, network {weights.kind}")


def _file_name(path: str) -> str:
    return path.rsplit("/", 1)[-1]


if __name__ == "__main__":
    command.run_main(main)
