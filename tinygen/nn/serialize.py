"""Named arrays in one safetensors file: written atomically, read without running code."""

import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np


def save_arrays(path: str | os.PathLike, arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str] | None = None) -> None:
    """Write `arrays` and the text `metadata` to `path` in the safetensors format.

    The bytes go to a hidden temporary file in the same folder, reach the disk, and are renamed over `path`: whoever
    reads `path`, even after a crash, finds the old file or the new one, never half of one. Arrays of any order are
    stored in C order; a scalar is stored as an array of shape ().

    Raises TypeError for a value that is no NumPy array or scalar.
    """
    from safetensors.numpy import save

    ready = {}
    for name, value in arrays.items():
        if not isinstance(value, np.ndarray | np.generic | int | float | bool):
            raise TypeError(f"{name!r} is a {type(value).__name__}; a file holds NumPy arrays: convert it first")
        ready[name] = np.asarray(value, order="C")
    write_atomically(path, save(ready, metadata=None if metadata is None else dict(metadata)))


def load_arrays(path: str | os.PathLike) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Read what `save_arrays`, or any safetensors writer, wrote: (arrays by name, metadata by key).

    Raises FileNotFoundError when there is no such file, ValueError when it is damaged or no safetensors file.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(os.fspath(path), framework="numpy") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, dict(file.metadata() or {})  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(f"{os.fspath(path)} is damaged or no safetensors file: {error}") from error


def write_atomically(path: str | os.PathLike, content: bytes) -> None:
    """Replace the file `path` by `content` in one step; missing parent folders are made."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
