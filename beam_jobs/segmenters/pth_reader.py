"""Reads files of torch.save without running anything in them, and without torch.

A pickle is a program. The unpickler here knows the few names that rebuild tensors, makes an inert record of any class of a
network, and refuses every other name before it could be called; nothing is ever imported. The formats of torch.save: a zip
archive since torch 1.6, before that a row of pickles with the numbers behind them.
"""

from __future__ import annotations

import _compat_pickle
import collections
import errno
import io
import pickle
import struct
import sys
import zipfile
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

import numpy as np

from hpa_proto import storage, zip_file
from hpa_proto.errors import ConfigError

_DTYPES = {
    "DoubleStorage": np.float64,
    "FloatStorage": np.float32,
    "HalfStorage": np.float16,
    "LongStorage": np.int64,
    "IntStorage": np.int32,
    "ShortStorage": np.int16,
    "CharStorage": np.int8,
    "ByteStorage": np.uint8,
    "BoolStorage": np.bool_,
}
# Functions, not classes, that modules of old torch versions name; they stand for themselves and are never called.
_INERT_FUNCTIONS = {("torch", "device"), ("torch.nn.backends.thnn", "_get_thnn_function_backend")}
_INERT_MODULES = ("torch.nn.functional",)
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_MAX_PROGRAM_BYTES = 64 << 20
_MAX_MODULES = 10_000

# What zipfile, pickle, struct and numpy raise on a damaged file.
_DAMAGE = (*zip_file.DAMAGE, pickle.UnpicklingError, TypeError, AttributeError, AssertionError)


class _Record:
    """Stands for an object of any class: keeps the state that a pickle gives it and does nothing."""

    def __init__(self, *arguments: object, **named: object):
        self.state: object = {}

    def __setstate__(self, state: object) -> None:
        self.state = state


# The one in C takes memory for as many objects as a pickle says it will number: 16 GB for four bytes.
class _Unpickler(pickle._Unpickler):
    def __init__(self, file: BinaryIO, storages: _Storages, *, path: str):
        # Modules that were pickled by Python 2 hold byte strings.
        super().__init__(file, encoding="utf-8")
        self._storages = storages
        self._path = path

    def find_class(self, module: str, name: str) -> object:
        # torch.save writes the names of Python 2: subprocess is called commands there.
        module, name = _compat_pickle.NAME_MAPPING.get((module, name), (module, name))
        module = _compat_pickle.IMPORT_MAPPING.get(module, module)
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _TensorBuilder()
        if (module, name) == ("torch._utils", "_rebuild_parameter"):
            return _ParameterBuilder()
        if (module, name) == ("collections", "OrderedDict"):
            return collections.OrderedDict
        if (module, name) == ("builtins", "set"):
            return set
        if module in ("torch", "torch.storage") and name in _DTYPES:
            return _StorageType(name)
        top = module.split(".")[0]
        # A class is told by its name, since looking would mean importing. The standard library has no part of a network.
        is_class = name.split(".")[-1].lstrip("_")[:1].isupper()
        is_foreign = top not in sys.stdlib_module_names
        if is_foreign and (is_class or module in _INERT_MODULES or (module, name) in _INERT_FUNCTIONS):
            return type(name, (_Record,), {})
        raise ConfigError(
            f"{self._path}: it names {module}.{name}, which is no tensor and no class of a network. Loading this file with "
            "torch.load could run a program; nothing of it was run here. Get the weights from their publisher"
        )

    def persistent_load(self, pid: object) -> object:
        if isinstance(pid, tuple) and pid[0] == "module":
            # Before torch 1.6 a module's class travels with its source text.
            return pid[1]
        if not (isinstance(pid, tuple) and pid[0] == "storage" and isinstance(pid[1], _StorageType)):
            raise pickle.UnpicklingError("an unknown kind of storage")
        if len(pid) > 5 and pid[5] is not None:
            raise pickle.UnpicklingError("a storage that is part of another one")
        if not isinstance(pid[2], str | int):
            raise pickle.UnpicklingError("a storage without a name")
        return self._storages.get(str(pid[2]), np.dtype(_DTYPES[pid[1].name]), num_values=pid[4])


class _StorageType(NamedTuple):
    name: str


class _TensorBuilder:
    """Makes a tensor when it is called. No function: a pickle can set a function's attributes, and so change it for good."""

    __slots__ = ()

    def __call__(
        self, values: np.ndarray, offset: int, shape: tuple[int, ...], strides: tuple[int, ...], *_: object
    ) -> np.ndarray:
        last = offset + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
        if (
            not isinstance(values, np.ndarray)
            or min((offset, *shape, *strides)) < 0
            or (0 not in shape and last >= values.size)
        ):
            raise pickle.UnpicklingError("a tensor that lies outside of its numbers")
        steps = [stride * values.itemsize for stride in strides]
        return np.lib.stride_tricks.as_strided(values[offset:], shape, steps, writeable=False)


class _ParameterBuilder:
    """Likewise, of a parameter: the tensor that it holds."""

    __slots__ = ()

    def __call__(self, tensor: object, *_: object) -> object:
        return tensor


class _Storages:
    """The numbers of a file by key. `get` may be called before they are read, so arrays are filled in later."""

    def __init__(self, *, num_bytes: int):
        self.arrays: dict[str, np.ndarray] = {}
        self._bytes_left = num_bytes

    def get(self, key: str, dtype: np.dtype, *, num_values: object) -> np.ndarray:
        if key not in self.arrays:
            # A file cannot hold more numbers than it has bytes: a made-up size must not eat the memory.
            if not isinstance(num_values, int) or not 0 <= num_values * dtype.itemsize <= self._bytes_left:
                raise pickle.UnpicklingError(
                    f"storage {key} says that it has {num_values} values; the file is too short"
                )
            self._bytes_left -= num_values * dtype.itemsize
            self.arrays[key] = np.empty(num_values, dtype)
        return self.arrays[key]


def read_pth(path: str) -> dict[str, np.ndarray]:
    """Reads the tensors of a file of torch.save: a pickled module, a state dict, or a checkpoint that holds one.

    Args:
      path: file or URL.

    Returns:
      Arrays by name, without a leading `module.` (DataParallel) and without num_batches_tracked; in any order.

    Raises:
      ConfigError: the pickle asks for something that is no part of a network, is damaged, or holds no tensors.
      OSError: not there or not readable.
    """
    with storage.open_read(path) as file:
        num_bytes = file.seek(0, io.SEEK_END)
        file.seek(0)
        is_zip = file.read(4) == b"PK\x03\x04"
        file.seek(0)
        try:
            found = (_read_zip if is_zip else _read_legacy)(file, _Storages(num_bytes=num_bytes), path=path)
            tensors = dict(_named_tensors(found))
        except ConfigError:
            raise
        except (*_DAMAGE, OSError) as error:
            # A damaged archive may send the reader to a place before the file's start; every other OSError is the disk's.
            if isinstance(error, OSError) and error.errno != errno.EINVAL:
                raise
            raise ConfigError(f"{path}: damaged, or no file of torch.save ({error}); fetch it again") from error
    tensors = {name.removeprefix("module."): tensor for name, tensor in tensors.items()}
    tensors = {name: tensor for name, tensor in tensors.items() if not name.endswith("num_batches_tracked")}
    if not tensors:
        raise ConfigError(f"{path}: no tensors in it; wanted: a module or a state dict as torch.save writes it")
    return tensors


def _read_zip(file: BinaryIO, storages: _Storages, *, path: str) -> object:
    with zipfile.ZipFile(file) as archive:
        zip_file.check_members(archive)
        programs = [name for name in archive.namelist() if name.endswith("/data.pkl")]
        if len(programs) != 1:
            raise pickle.UnpicklingError(f"{len(programs)} files called data.pkl in the archive; wanted: one")
        if archive.getinfo(programs[0]).file_size > _MAX_PROGRAM_BYTES:
            raise pickle.UnpicklingError("its data.pkl is too long")
        folder = programs[0].removesuffix("data.pkl")
        if f"{folder}byteorder" in archive.namelist():
            with archive.open(f"{folder}byteorder") as order:
                if order.read(len(b"little")) != b"little":
                    raise pickle.UnpicklingError("written on a big-endian machine")
        found = _Unpickler(io.BytesIO(archive.read(programs[0])), storages, path=path).load()
        for key, values in storages.arrays.items():
            with archive.open(f"{folder}data/{key}") as data:
                _fill(values, data)
    return found


def _read_legacy(file: BinaryIO, storages: _Storages, *, path: str) -> object:
    magic, _version, system = (_Unpickler(file, storages, path=path).load() for _ in range(3))
    if magic != _LEGACY_MAGIC:
        raise pickle.UnpicklingError("it does not begin as torch.save does")
    if not system["little_endian"]:
        raise pickle.UnpicklingError("written on a big-endian machine")
    found = _Unpickler(file, storages, path=path).load()
    listed = _Unpickler(file, storages, path=path).load()
    if not all(isinstance(key, str | int) for key in listed):
        raise pickle.UnpicklingError("a storage without a name")
    keys = [str(key) for key in listed]
    if not storages.arrays.keys() <= set(keys):
        raise pickle.UnpicklingError("a storage that is not in the file")
    for key in keys:
        values = storages.arrays[key]
        (num_values,) = struct.unpack("<q", file.read(8))
        if num_values != values.size:
            raise pickle.UnpicklingError(f"storage {key} has {num_values} values; the module says {values.size}")
        _fill(values, file)
    return found


def _fill(values: np.ndarray, file: BinaryIO) -> None:
    data = file.read(values.nbytes)
    if len(data) != values.nbytes:
        raise EOFError(f"{len(data)} of {values.nbytes} bytes of a tensor")
    values.view(np.uint8)[:] = np.frombuffer(data, np.uint8)


def _named_tensors(found: object) -> Iterator[tuple[str, np.ndarray]]:
    if isinstance(found, dict):
        found = found.get("state_dict", found)
    left, num_modules = [("", found)], 0
    while left:
        prefix, module = left.pop()
        num_modules += 1
        if num_modules > _MAX_MODULES:
            raise pickle.UnpicklingError("modules within modules without end")
        is_module = isinstance(module, _Record) and isinstance(module.state, dict)
        state = module.state if is_module else {"_parameters": module if isinstance(module, dict) else {}}
        for group in ("_parameters", "_buffers", "_modules"):
            for name, value in (state.get(group) or {}).items():
                if isinstance(value, np.ndarray):
                    yield f"{prefix}{name}", value
                elif isinstance(value, _Record):
                    left.append((f"{prefix}{name}.", value))
