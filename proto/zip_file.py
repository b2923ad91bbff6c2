"""ZIP archives that somebody else may have made: .npz, .keras, and what torch.save writes."""

from __future__ import annotations

import lzma
import struct
import tokenize
import zipfile
import zlib

# What zipfile raises on a damaged archive, by what was damaged. RuntimeError, for one, where the bit of encryption is set,
# and in its subclass NotImplementedError for a way of packing that it does not know. Not OSError, which bzip2 raises too:
# whoever lets an OSError of the file itself through tells the two apart.
DAMAGE: tuple[type[Exception], ...] = (
    zipfile.BadZipFile,
    RuntimeError,
    zlib.error,
    lzma.LZMAError,
    struct.error,
    EOFError,
    ValueError,
    LookupError,
    OverflowError,
    MemoryError,
)
# What NumPy raises on a damaged .npy or .npz.
ARRAY_DAMAGE: tuple[type[Exception], ...] = (*DAMAGE, TypeError, SyntaxError, tokenize.TokenError)

_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)


def check_members(archive: zipfile.ZipFile) -> None:
    """Checks that every member is one that zipfile reads in little memory.

    It unpacks bzip2 and LZMA as far as the packed bytes go, whatever size the archive says: 342 bytes become 300 MB. Neither
    NumPy nor Keras nor torch packs like that.

    Raises:
      BadZipFile: a member is packed in another way, or encrypted.
    """
    for member in archive.infolist():
        if member.compress_type not in _METHODS:
            raise zipfile.BadZipFile(
                f"{member.filename!r} in it is packed by method {member.compress_type}; wanted: stored or deflated"
            )
        if member.flag_bits & 1:
            raise zipfile.BadZipFile(f"{member.filename!r} in it is encrypted")
