"""The file formats of the data sets: IDX, `.amat` text and packed `.npz`, each with a clear error for a damaged file.

The parsers take bytes and return arrays; only `read_bytes`, `read_npz`, `write_npz` and `replacing` touch the disk.
"""

from __future__ import annotations

import gzip
import io
import os
import secrets
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np

GZIP_MAGIC = b"\x1f\x8b"
IDX_UNSIGNED_BYTE = 0x08


class DataError(RuntimeError):
    """A data set is missing, damaged, or cannot be downloaded; the message says which file and what to do.

    digest: the SHA-256 of a file that is whole but not the one expected, else None.
    """

    def __init__(self, message: str, digest: str | None = None) -> None:
        super().__init__(message)
        self.digest = digest


def read_bytes(path: Path) -> bytes:
    """Return the content of `path`, decompressed when it is gzip (told by its first two bytes, not by its name).

    Raises DataError when the file cannot be read or its gzip stream is cut short or damaged.
    """
    try:
        content = path.read_bytes()
        return gzip.decompress(content) if content.startswith(GZIP_MAGIC) else content
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"cannot be read: {error}") from error


def parse_idx(content: bytes) -> np.ndarray:
    """Return the uint8 array, of any shape, that is stored in an IDX file.

    The header is big-endian: two zero bytes, the type code (0x08, unsigned byte, is the only one taken here), the
    number of dimensions as one byte, then one 32-bit size for each dimension. The values follow in C order.
    Format: Y. LeCun, C. Cortes, C. Burges, "The MNIST database of handwritten digits". The result is read-only.
    Raises DataError when the header is not that of an IDX file of bytes, or the size is not what the header says.
    """
    if len(content) < 4 or content[:2] != b"\0\0" or content[2] != IDX_UNSIGNED_BYTE or content[3] == 0:
        raise DataError(f"not an IDX file of unsigned bytes: it starts with 0x{content[:4].hex()}, expected 0x000008..")
    header = 4 + 4 * content[3]
    shape = tuple(np.frombuffer(content[4:header].ljust(header - 4, b"\0"), ">u4").tolist())
    expected = header + int(np.prod(shape, dtype=object))
    if len(content) != expected:
        kind = "truncated" if len(content) < expected else "too long"
        raise DataError(f"{kind}: {len(content)} bytes, but its header of shape {shape} asks for {expected}")
    return np.frombuffer(content, np.uint8, offset=header).reshape(shape)


def parse_amat(content: bytes, columns: int) -> np.ndarray:
    """Return the bits of an `.amat` text, packed: uint8 (rows, ceil(columns / 8)) as `np.packbits(axis=1)` gives.

    The text holds one row a line, `columns` numbers 0 or 1, separated by white space.
    Raises DataError, with the row, when anything else is found.
    """
    if not content.strip():
        raise DataError("empty, expected lines of 0 and 1")
    try:
        bits = np.loadtxt(io.BytesIO(content), dtype=np.uint8, ndmin=2, comments=None)
    except ValueError as error:
        # NumPy goes on to advise an argument of its own, which the user cannot pass.
        raise DataError(f"not rows of 0 and 1: {str(error).partition(';')[0]}") from error
    if bits.shape[1] != columns or bits.max() > 1:
        raise DataError(f"rows of {bits.shape[1]} numbers up to {bits.max()}, expected {columns} numbers 0 or 1")
    return np.packbits(bits, axis=1)


def read_npz(path: Path) -> dict[str, np.ndarray]:
    """Return the named arrays of an `.npz` file, never unpickling. Raises DataError when it is damaged."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            return dict(arrays)
    except Exception as error:  # damaged bytes make zipfile, its decompressors and NumPy raise a dozen unrelated types
        raise DataError(f"not a whole .npz file: {error}") from error


def write_npz(path: Path, arrays: Mapping[str, np.ndarray], compression: int = zipfile.ZIP_DEFLATED) -> None:
    """Write `arrays` as an `.npz` file that `np.load` reads, compressed by any method of `zipfile`, atomically.

    The same arrays give the same bytes, for no date of writing is stored. LZMA is a seventh smaller than DEFLATE on
    handwritten digits; `np.savez_compressed` offers DEFLATE only.
    """
    with replacing(path) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        for name, array in arrays.items():
            member = zipfile.ZipInfo(f"{name}.npy")
            member.compress_type = compression
            with archive.open(member, "w") as file:
                np.lib.format.write_array(file, np.ascontiguousarray(array), allow_pickle=False)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a temporary path in the folder of `path`; move it onto `path` on success, delete it on any error.

    A reader of `path` so sees the old content or the whole new content, never a part.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
