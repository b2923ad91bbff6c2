"""What is fuzzed of files of weights that come from elsewhere."""

from __future__ import annotations

import json
import struct

import numpy as np

from beam_jobs.segmenters import network_weights, pth_reader
from faults.fuzz_target import Target, write, zip_of
from hpa_proto.errors import ConfigError


def _pth(data: bytes) -> None:
    for values in pth_reader.read_pth(write("network.pth", data)).values():
        values.sum()


def _pth_program(data: bytes) -> None:
    """The pickle in a zip file of torch.save."""
    _pth(zip_of({"archive/data.pkl": data, "archive/data/0": np.arange(4, dtype=np.float32).tobytes()}))


def _safetensors(data: bytes) -> None:
    path = write("network.safetensors", data)
    network_weights.read_weights(path)


def _pickle_seeds() -> list[bytes]:
    """State dicts as torch.save pickles them, written by hand: torch need not be there."""
    storage_id = b"(X\x07\0\0\0storagectorch\nFloatStorage\nX\x01\0\0\x000X\x03\0\0\0cpuK\x04tQ"
    tensor = b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage_id + b"K\0K\x02K\x02\x86K\x02K\x01\x86\x89}tR"
    return [
        b"\x80\x02}q\0X\x06\0\0\0weightq\x01" + tensor + b"s.",
        b"\x80\x02ccollections\nOrderedDict\n)R(X\x06\0\0\0weight" + tensor + b"u.",
        b"\x80\x02cnet\nModule\n)\x81}X\x0b\0\0\0_parameters}X\x01\0\0\0w" + tensor + b"ssb.",
    ]


def _pth_seeds() -> list[bytes]:
    numbers = np.arange(4, dtype=np.float32).tobytes()
    zipped = [zip_of({"archive/data.pkl": program, "archive/data/0": numbers}) for program in _pickle_seeds()]
    legacy = (
        b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03."
        b"\x80\x02}(X\x10\0\0\0protocol_versionM\xe9\x03X\r\0\0\0little_endian\x88u."
    )
    keys = b"\x80\x02]X\x01\0\0\x000a."
    return [*zipped, legacy + _pickle_seeds()[0] + keys + struct.pack("<q", 4) + numbers]


def _safetensors_seeds() -> list[bytes]:
    header = json.dumps(
        {"__metadata__": {"kind": "nuclei"}, "w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}
    ).encode()
    return [struct.pack("<Q", len(header)) + header + b"\0" * 4]


TARGETS: dict[str, Target] = {
    "pth": Target(_pth, (ConfigError,), _pth_seeds, num_runs=2_000),
    "pth_program": Target(_pth_program, (ConfigError,), _pickle_seeds, num_runs=2_000),
    "safetensors": Target(_safetensors, (ConfigError,), _safetensors_seeds),
}
