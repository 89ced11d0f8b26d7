"""The downloader against a server on the loopback interface (`conftest.py` makes every other address an error)."""

import gzip
import hashlib
import os
import socket
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from tinygen import data
from tinygen.data import DataError, catalogue, download
from tinygen.data.download import fetch

CONTENT = np.random.default_rng(0).bytes(200_000)


class Server:
    """Serves by path: bytes are sent whole, an int is a status without body, a function writes to the handler itself.

    A list is answered one entry a request, the last one for ever. `requests` counts by path; `release` ends the stalls.
    """

    def __init__(self):
        self.routes, self.requests, self.release = {}, Counter(), threading.Event()
        owner = self

        class Handler(BaseHTTPRequestHandler):
            release = self.release

            def do_GET(self):
                count = owner.requests[self.path]
                owner.requests[self.path] += 1
                answer = owner.routes.get(self.path, 404)
                if isinstance(answer, list):
                    answer = answer[min(count, len(answer) - 1)]
                if callable(answer):
                    answer(self)
                elif isinstance(answer, int):
                    self.send_response(answer)
                    self.end_headers()
                else:
                    start(self, len(answer))
                    self.wfile.write(answer)

            def log_message(self, *args):
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.handle_error = lambda request, address: None  # clients that give up are part of the tests
        self.thread = threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.01})
        self.thread.start()

    def url(self, path):
        return f"http://127.0.0.1:{self.http.server_port}{path}"

    def close(self):
        self.release.set()
        self.http.shutdown()
        self.http.server_close()
        self.thread.join()


def start(handler, length):
    handler.send_response(200)
    handler.send_header("Content-Length", str(length))
    handler.end_headers()


def truncated(handler):
    start(handler, len(CONTENT))
    handler.wfile.write(CONTENT[:1000])


def truncated_without_length(handler):
    handler.send_response(200)
    handler.end_headers()
    handler.wfile.write(CONTENT[:1000])


def stall(handler):
    """Send half of the content, then nothing."""
    start(handler, len(CONTENT))
    handler.wfile.write(CONTENT[: len(CONTENT) // 2])
    handler.release.wait(20)


def mute(handler):
    """Accept the connection and never answer."""
    handler.release.wait(20)


def trickle(handler):
    """Send one byte at a time, each well within the timeout of a receive."""
    start(handler, len(CONTENT))
    for index in range(len(CONTENT)):
        handler.wfile.write(CONTENT[index : index + 1])
        if handler.release.wait(0.02):
            return


@pytest.fixture
def server():
    server = Server()
    yield server
    server.close()


def read(path):
    """Accept CONTENT only, as a parser with a checksum does."""
    content = path.read_bytes()
    if content != CONTENT:
        raise DataError("wrong checksum")
    return content


def try_fetch(server, folder, *paths, **options):
    options = {"timeout": 0.3, "backoff": 0.01} | options
    return fetch([server.url(path) for path in paths], folder / "file", read, **options)


def test_no_test_can_reach_another_machine():
    for address in ("192.0.2.1", "example.org"):  # reserved for documentation
        with pytest.raises(AssertionError, match="a test tried to"):
            fetch([f"http://{address}/file"], Path("unused"), read)


def test_a_good_file_is_saved_and_read(server, tmp_path):
    server.routes["/good"] = CONTENT
    folder = tmp_path / "new" / "folder"
    assert try_fetch(server, folder, "/good") == CONTENT
    assert os.listdir(folder) == ["file"]
    assert (folder / "file").read_bytes() == CONTENT
    assert server.requests == {"/good": 1}


FAILURES = {
    "truncated": (truncated, "ended after 1000 of 200000 bytes", 3),
    "truncated without a length": (truncated_without_length, "wrong checksum", 3),
    "wrong content": (CONTENT[::-1], "wrong checksum", 3),
    "missing": (404, "HTTP 404", 1),
    "forbidden": (403, "HTTP 403", 1),
    "overloaded": (503, "HTTP 503", 3),
    "too many requests": (429, "HTTP 429", 3),
    "stalls": (stall, "stalled for 0.3 s", 3),
    "never answers": (mute, "stalled for 0.3 s", 3),
    "trickles": (trickle, "stalled for 0.3 s", 3),
}


@pytest.mark.parametrize("failure", FAILURES)
def test_a_failure_is_retried_and_told_in_one_line(server, tmp_path, failure):
    behaviour, reason, requests = FAILURES[failure]
    server.routes["/bad"] = behaviour
    began = time.monotonic()
    with pytest.raises(DataError) as caught:
        try_fetch(server, tmp_path, "/bad")
    assert time.monotonic() - began < 15  # without a timeout a stall lasts 20 s
    message = str(caught.value)
    assert "\n" not in message
    for part in ("cannot download file", server.url("/bad"), reason, str(tmp_path), "--data-dir", "$TINYGEN_DATA"):
        assert part in message
    assert server.requests["/bad"] == requests
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("failure", FAILURES)
def test_the_next_mirror_takes_over(server, tmp_path, failure):
    server.routes |= {"/bad": FAILURES[failure][0], "/good": CONTENT}
    assert try_fetch(server, tmp_path, "/bad", "/good") == CONTENT
    assert server.requests == {"/bad": 1, "/good": 1}
    assert os.listdir(tmp_path) == ["file"]


def test_a_passing_failure_is_retried_with_growing_pauses(server, tmp_path, monkeypatch):
    pauses = []
    monkeypatch.setattr(download.time, "sleep", pauses.append)
    server.routes["/late"] = [503, truncated, CONTENT[:7], CONTENT]
    assert try_fetch(server, tmp_path, "/late", rounds=4, backoff=1.0) == CONTENT
    assert pauses == [1.0, 2.0, 4.0]
    assert server.requests == {"/late": 4}


def test_every_mirror_is_named(server, tmp_path):
    server.routes["/b"] = CONTENT[:10]
    with socket.create_server(("127.0.0.1", 0)) as closed:
        refused = f"http://127.0.0.1:{closed.getsockname()[1]}/c"
    with pytest.raises(DataError) as caught:
        fetch([server.url("/a"), server.url("/b"), refused], tmp_path / "file", read, backoff=0.01, timeout=1)
    message = str(caught.value)
    assert f"{server.url('/a')}: HTTP 404; {server.url('/b')}: wrong checksum; {refused}: " in message
    assert "refused" in message


def test_a_failed_download_leaves_an_older_file_alone(server, tmp_path):
    (tmp_path / "file").write_bytes(b"older")
    server.routes["/bad"] = CONTENT[::-1]
    with pytest.raises(DataError):
        try_fetch(server, tmp_path, "/bad")
    assert (tmp_path / "file").read_bytes() == b"older"
    assert os.listdir(tmp_path) == ["file"]


def test_an_interrupted_download_leaves_nothing(server, tmp_path):
    server.routes["/good"] = CONTENT

    def interrupted(path):
        assert path.read_bytes() == CONTENT
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fetch([server.url("/good")], tmp_path / "file", interrupted)
    assert os.listdir(tmp_path) == []


def test_a_folder_that_cannot_be_made_is_named(server, tmp_path):
    (tmp_path / "occupied").write_bytes(b"")
    with pytest.raises(DataError, match=r"cannot write to the folder .*occupied"):
        try_fetch(server, tmp_path / "occupied", "/good")
    assert not server.requests


# From here on whole data sets, small ones, through `load`.


def idx(array):
    header = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes()
    return header + array.astype(np.uint8).tobytes()


def small_idx_source(server, name, seed):
    """Put a data set of six training and four test images on the server and into the catalogue's form."""
    rng = np.random.default_rng(seed)
    arrays = {}
    for part, count in (("train", 6), ("t10k", 4)):
        arrays[f"{part}-images-idx3-ubyte.gz"] = rng.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        arrays[f"{part}-labels-idx1-ubyte.gz"] = rng.integers(0, 10, count, dtype=np.uint8)
    for file, array in arrays.items():
        server.routes[f"/{name}/{file}"] = gzip.compress(idx(array))
    source = catalogue.Source(
        name=name,
        sizes=(6, 0, 4),
        origin="drawn at random",
        licence="none",
        load=catalogue._load_idx,
        decode=catalogue._decode_idx,
        mirrors=(server.url("/gone/"), server.url(f"/{name}/")),
        files={file: hashlib.sha256(idx(array)).hexdigest() for file, array in arrays.items()},
        folders=(name,),
    )
    return source, list(arrays.values())


@pytest.fixture
def home(tmp_path, monkeypatch):
    """Let the cache be an empty folder and let no other folder be named; return the cache's folder for data sets."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("TINYGEN_DATA", raising=False)
    monkeypatch.setattr(catalogue, "DEBIAN_FOLDER", tmp_path / "debian")
    return tmp_path / "cache" / "tinygen"


@pytest.fixture
def small(server, home, monkeypatch):
    source, arrays = small_idx_source(server, "small", 1)
    monkeypatch.setitem(catalogue.SOURCES, "small", source)
    return arrays


def same(dataset, arrays):
    images, labels, test_images, test_labels = arrays
    np.testing.assert_array_equal(dataset.train.images, images)
    np.testing.assert_array_equal(dataset.train.labels, labels)
    np.testing.assert_array_equal(dataset.test.images, test_images)
    np.testing.assert_array_equal(dataset.test.labels, test_labels)
    return True


def found(name, data_dir=None):
    return next(source.found for source in data.info(data_dir) if source.name == name)


def test_load_downloads_once_into_the_cache(server, home, small):
    assert found("small") is None
    assert same(data.load("small"), small)
    assert len(os.listdir(home / "small")) == 4
    assert found("small") == home / "small"
    asked = server.requests.total()
    assert asked == 8  # each file from the mirror that lacks it, then from the one that has it
    assert same(data.load("small"), small)
    assert server.requests.total() == asked


def test_load_downloads_into_the_folder_that_is_named(server, home, small, tmp_path, monkeypatch):
    monkeypatch.setenv("TINYGEN_DATA", str(tmp_path / "named"))
    data.load("small")
    assert len(os.listdir(tmp_path / "named" / "small")) == 4
    asked = server.requests.total()
    assert same(data.load("small", tmp_path / "argument"), small)  # found in the other folder
    assert server.requests.total() == asked
    monkeypatch.delenv("TINYGEN_DATA")
    data.load("small", str(tmp_path / "argument"))
    assert len(os.listdir(tmp_path / "argument" / "small")) == 4
    assert not home.exists()


@pytest.mark.parametrize("subfolder", ["small", "."])
@pytest.mark.parametrize("compressed", [True, False])
def test_load_finds_files_put_there_by_hand(server, small, tmp_path, subfolder, compressed):
    folder = tmp_path / "by-hand" / subfolder
    folder.mkdir(parents=True)
    for file, array in zip(catalogue.SOURCES["small"].files, small):
        if compressed:
            (folder / file).write_bytes(gzip.compress(idx(array)))
        else:
            (folder / file.removesuffix(".gz")).write_bytes(idx(array))
    assert same(data.load("small", tmp_path / "by-hand"), small)
    assert not server.requests


DAMAGES = {
    "cut": (lambda good: good[:-20], "cannot be read"),
    "a flipped bit": (lambda good: good[:2000] + bytes([good[2000] ^ 1]) + good[2001:], "cannot be read"),
    "cut before compression": (lambda good: gzip.compress(gzip.decompress(good)[:-20]), "truncated"),
    "another array": (lambda good: gzip.compress(idx(np.zeros((6, 28, 28)))), "SHA-256"),
    "a web page": (lambda good: b"<html>Not found</html>", "not an IDX file"),
    "empty": (lambda good: b"", "not an IDX file"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_local_file_is_named_and_neither_used_nor_replaced(server, home, small, damage):
    data.load("small")
    server.requests.clear()
    change, reason = DAMAGES[damage]
    path = home / "small" / "train-images-idx3-ubyte.gz"
    damaged = change(path.read_bytes())
    path.write_bytes(damaged)
    with pytest.raises(DataError) as caught:
        data.load("small")
    message = str(caught.value)
    assert message.startswith(str(path))
    assert reason in message
    assert "delete it" in message
    assert "\n" not in message
    assert path.read_bytes() == damaged
    assert not server.requests
    path.unlink()
    assert same(data.load("small"), small)
    assert server.requests.total() == 2


def test_files_of_the_same_names_from_another_set_are_passed_by(server, home, small, tmp_path, monkeypatch):
    other, other_arrays = small_idx_source(server, "other", 2)
    monkeypatch.setitem(catalogue.SOURCES, "other", other)
    flat = tmp_path / "flat"
    flat.mkdir()
    for file, array in zip(other.files, other_arrays):
        (flat / file).write_bytes(gzip.compress(idx(array)))
    assert same(data.load("other", flat), other_arrays)
    assert not server.requests
    assert same(data.load("small", flat), small)
    assert len(os.listdir(flat / "small")) == 4


def test_a_sets_own_subfolder_goes_before_the_folder_itself(server, small, tmp_path):
    data.load("small", tmp_path)
    for file in catalogue.SOURCES["small"].files:
        (tmp_path / file).write_bytes(b"damaged")
    assert same(data.load("small", tmp_path), small)


def test_no_mirror_reachable_is_one_clear_line(server, home, small):
    server.routes.clear()
    with pytest.raises(DataError) as caught:
        data.load("small")
    message = str(caught.value)
    assert "\n" not in message
    for part in ("train-images-idx3-ubyte.gz", *catalogue.SOURCES["small"].mirrors, str(home / "small")):
        assert part in message


@pytest.fixture
def small_bits(server, home, monkeypatch):
    """Put a binary data set, as `.amat` text, on the server and into the catalogue; return its bits and texts."""
    rng = np.random.default_rng(3)
    bits = {split: rng.integers(0, 2, (count, 784), dtype=np.uint8) for split, count in (("train", 5), ("test", 2))}
    bits["valid"] = bits["train"][:3]
    texts, digests = {}, {}
    for split, rows in bits.items():
        name = f"small_bits_{split}.amat"
        texts[name] = b"".join(b" ".join(b"%d" % bit for bit in row) + b" \n" for row in rows)
        digests[name] = hashlib.sha256(np.packbits(rows, axis=1)).hexdigest()
        server.routes[f"/bits/{name}"] = texts[name]
    source = catalogue.Source(
        name="small-bits",
        sizes=(5, 3, 2),
        origin="drawn at random",
        licence="none",
        load=catalogue._load_binarized,
        decode=catalogue._decode_amat,
        binary=True,
        mirrors=(server.url("/bits/"),),
        files=digests,
        folders=("small-bits",),
    )
    monkeypatch.setitem(catalogue.SOURCES, "small-bits", source)
    return bits, texts


def same_bits(dataset, bits):
    assert dataset.binary
    for split, rows in bits.items():
        np.testing.assert_array_equal(getattr(dataset, split).images, rows.reshape(-1, 28, 28))
        assert getattr(dataset, split).labels is None
    return True


def test_amat_texts_are_downloaded_once_and_kept_packed(server, home, small_bits):
    bits, _ = small_bits
    assert same_bits(data.load("small-bits"), bits)
    assert os.listdir(home / "small-bits") == [catalogue.PACKED_NAME]
    assert found("small-bits") == home / "small-bits"
    assert server.requests.total() == 3
    assert same_bits(data.load("small-bits"), bits)
    assert server.requests.total() == 3


@pytest.mark.parametrize("subfolder", ["small-bits", "."])
def test_amat_texts_put_there_by_hand_stay(server, home, small_bits, tmp_path, subfolder):
    bits, texts = small_bits
    folder = tmp_path / subfolder
    folder.mkdir(exist_ok=True)
    for name, text in texts.items():
        (folder / name).write_bytes(text)
    assert found("small-bits", tmp_path) == folder
    assert same_bits(data.load("small-bits", tmp_path), bits)
    for name, text in texts.items():
        assert (folder / name).read_bytes() == text
        (folder / name).unlink()
    assert same_bits(data.load("small-bits", tmp_path), bits)
    assert not server.requests


def test_an_interrupted_set_keeps_what_it_has(server, home, small_bits):
    bits, _ = small_bits
    missing = "/bits/small_bits_valid.amat"
    content = server.routes.pop(missing)
    with pytest.raises(DataError, match="small_bits_valid"):
        data.load("small-bits")
    assert sorted(os.listdir(home / "small-bits")) == ["small_bits_test.amat", "small_bits_train.amat"]
    server.routes[missing] = content
    server.requests.clear()
    assert same_bits(data.load("small-bits"), bits)
    assert server.requests == {missing: 1}


def test_a_damaged_packed_file_is_named(server, home, small_bits):
    data.load("small-bits")
    path = home / "small-bits" / catalogue.PACKED_NAME
    good = path.read_bytes()
    path.write_bytes(good[:-30])
    with pytest.raises(DataError, match=r"binarized_mnist\.npz: not a whole \.npz file"):
        data.load("small-bits")
    np.savez(path, train=np.zeros((5, 98), np.uint8))
    with pytest.raises(DataError, match=r"binarized_mnist\.npz: array 'train' is missing or not the expected bits"):
        data.load("small-bits")
