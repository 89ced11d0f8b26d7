"""Download one file from the first of several mirrors that delivers it whole."""

from __future__ import annotations

import os
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from http.client import HTTPException
from pathlib import Path
from typing import TypeVar

from .formats import DataError, replacing

T = TypeVar("T")

BLOCK = 1 << 16
SLOWEST = 1024  # bytes per second; a server below it counts as stalled
RETRIED_CLIENT_ERRORS = (408, 429)  # request timeout, too many requests


def fetch(
    urls: Sequence[str],
    path: Path,
    read: Callable[[Path], T],
    *,
    timeout: float = 20.0,
    rounds: int = 3,
    backoff: float = 1.0,
) -> T:
    """Download `path` from the first of `urls` whose content `read` accepts, and return what `read` made of it.

    `read(temporary)` parses the downloaded file and raises DataError when it is wrong; only then is the file moved to
    `path`, so that a part of a file is never seen there. The mirrors are tried in turn, the whole list `rounds` times
    with a pause between that starts at `backoff` seconds and doubles; one that answers with a client error (404) is not
    asked again. `timeout` (seconds) limits the wait for the connection and for each block of data; a server that
    trickles less than 1 KiB/s for that long counts as stalled too.
    Raises DataError, one line that names the file, each mirror with its failure, and the folder for a copy by hand.
    """
    _make_folder(path.parent)
    failures: dict[str, str] = {}
    remaining = list(urls)
    for attempt in range(rounds):
        if attempt and remaining:
            time.sleep(backoff * 2 ** (attempt - 1))
        for url in tuple(remaining):
            try:
                with replacing(path) as temporary:
                    _download(url, temporary, path.name, timeout)
                    return read(temporary)
            except (OSError, HTTPException, DataError) as error:
                failures[url] = _reason(error, timeout)
                if isinstance(error, urllib.error.HTTPError):
                    error.close()
                    if 400 <= error.code < 500 and error.code not in RETRIED_CLIENT_ERRORS:
                        remaining.remove(url)
    raise DataError(
        f"cannot download {path.name}: {'; '.join(f'{url}: {reason}' for url, reason in failures.items())}. "
        f"Put the file into {path.parent} by hand, or name a folder that holds it by --data-dir or $TINYGEN_DATA"
    )


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        writable = os.access(folder, os.W_OK)
    except OSError:
        writable = False
    if not writable:
        raise DataError(f"cannot write to the folder {folder}: name another by --data-dir or $TINYGEN_DATA")


def _download(url: str, path: Path, label: str, timeout: float) -> None:
    """Write the body of `url` to `path`. Raises OSError (TimeoutError for a stalled server) or HTTPException."""
    request = urllib.request.Request(url, headers={"User-Agent": "tinygen"})
    with urllib.request.urlopen(request, timeout=timeout) as response, path.open("wb") as file:
        total = response.length  # None where the server does not tell
        received = at_mark = 0
        mark = time.monotonic()
        with _progress_bar() as bar:
            task = bar.add_task(label, total=total)
            # read1 returns what one receive gave; read would wait for a full block, as long as the server trickles.
            while block := response.read1(BLOCK):
                file.write(block)
                received += len(block)
                bar.update(task, completed=received)
                if (elapsed := time.monotonic() - mark) > timeout:
                    if received - at_mark < SLOWEST * elapsed:
                        raise TimeoutError
                    mark, at_mark = time.monotonic(), received
    if total is not None and received != total:
        raise OSError(f"the connection ended after {received} of {total} bytes")


def _progress_bar():
    from rich.console import Console
    from rich.progress import DownloadColumn, Progress, TransferSpeedColumn

    return Progress(*Progress.get_default_columns(), DownloadColumn(), TransferSpeedColumn(), console=Console(stderr=True))


def _reason(error: Exception, timeout: float) -> str:
    """Return in a few words why a download failed, on one line."""
    if isinstance(error, urllib.error.HTTPError):
        return f"HTTP {error.code}"
    cause = error.reason if isinstance(error, urllib.error.URLError) else error
    if isinstance(cause, TimeoutError):
        return f"stalled for {timeout:g} s"
    return " ".join(f"{cause}".split()) or type(cause).__name__
