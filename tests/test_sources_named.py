"""The sets that are known by name: digests, pickles that would run something, downloads; and real zips."""

from __future__ import annotations

import functools
import gzip
import hashlib
import http.server
import io
import os
import pickle
import shutil
import sys
import tarfile
import threading
import time
import zlib
from pathlib import Path

import numpy as np
import pytest

from conftest import DATA
from made import codes, keys
from opsin import sources
from opsin.errors import DataError, MachineError
from opsin.sources import cifar, downloads, named
from opsin.vocabulary import Dataset

# ── Fashion-MNIST ──


@pytest.mark.skipif(not named.DEBIAN_FASHION.is_dir(), reason="Debian's dataset-fashion-mnist is not installed")
def test_fashion_mnist_from_debian() -> None:
    data = sources.read("fashion-mnist")
    assert (len(data.train), len(data.test)) == (60_000, 10_000)
    assert set(data.counts().values()) == {7000}
    assert data.classes[9] == "Ankle boot"
    assert data.records[0].key == "test/Ankle boot/00000"
    assert data.store.read("test/Ankle boot/00000").shape == (28, 28)


def idx(shape: tuple[int, ...], content: bytes) -> bytes:
    return b"".join(n.to_bytes(4, "big") for n in (0x0800 + len(shape), *shape)) + content


@pytest.fixture
def tiny_fashion(tmp_path, monkeypatch):
    """Two training pictures and one for testing in the place of Debian's package, with their digests."""
    contents = {
        "train-images-idx3-ubyte.gz": idx((2, 28, 28), bytes(784) + b"\1" * 784),
        "train-labels-idx1-ubyte.gz": idx((2,), b"\x00\x09"),
        "t10k-images-idx3-ubyte.gz": idx((1, 28, 28), b"\2" * 784),
        "t10k-labels-idx1-ubyte.gz": idx((1,), b"\x03"),
    }
    packed = {name: gzip.compress(content, mtime=0) for name, content in contents.items()}
    md5 = {name: (hashlib.md5(packed[name]).hexdigest(), hashlib.md5(contents[name]).hexdigest()) for name in packed}
    monkeypatch.setattr(named, "FASHION_DIGESTS", md5)
    monkeypatch.setattr(named, "FASHION_COUNTS", {"train": 2, "t10k": 1})
    monkeypatch.setattr(named, "DEBIAN_FASHION", tmp_path)
    for name, content in packed.items():
        (tmp_path / name).write_bytes(content)
    return tmp_path


def test_fashion_files_are_read(tiny_fashion) -> None:
    data = sources.read("fashion-mnist")
    assert keys(data) == ["test/Dress/00000", "train/Ankle boot/00001", "train/T-shirt/00000"]
    assert [data.store.read(key).max() for key in keys(data)] == [2, 1, 0]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (gzip.compress(idx((1,), b"\x04")), "not the published file"),
        (gzip.compress(bytes(10_000_000)), "not the published file"),
        (b"words", "cannot be unpacked"),
        (gzip.compress(idx((1,), b"\x03"))[:-9], "cannot be unpacked"),
    ],
)
def test_a_changed_fashion_file_is_refused(tiny_fashion, content: bytes, says: str) -> None:
    (tiny_fashion / "t10k-labels-idx1-ubyte.gz").write_bytes(content)
    with pytest.raises(DataError, match=says):
        sources.read("fashion-mnist")


# ── CIFAR-10 ──

N = 6  # pictures in a made batch


def pixels(batch: int) -> np.ndarray:
    return np.random.default_rng(batch).integers(0, 256, (N, 3072), dtype=np.uint8)


def labels(batch: int) -> list[int]:
    return [(batch + i) % 10 for i in range(N)]


BATCHES = (*cifar.TRAIN, cifar.TEST)


def python_batches(root: Path, monkeypatch: pytest.MonkeyPatch, protocol: int = 2) -> Path:
    root.mkdir()
    digests = {}
    for i, name in enumerate(BATCHES):
        content = pickle.dumps({"data": pixels(i), "labels": labels(i), "filenames": ["x"] * N}, protocol)
        (root / name).write_bytes(content)
        digests[name] = hashlib.md5(content).hexdigest()
    monkeypatch.setattr(cifar, "DIGESTS", digests)
    return root


def binary_batches(root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    root.mkdir()
    monkeypatch.setattr(cifar, "ROWS", N)
    for i, name in enumerate(BATCHES):
        rows = np.hstack([np.array(labels(i), np.uint8)[:, None], pixels(i)])
        (root / f"{name}.bin").write_bytes(rows.tobytes())
    return root


def packed(root: Path, path: Path) -> Path:
    with tarfile.open(path, "w:gz") as archive:
        archive.add(root, root.name)
    return path


def check_made_cifar(data: Dataset) -> None:
    assert data.classes == cifar.CLASSES
    assert (len(data.train), len(data.test)) == (5 * N, N)
    for number in range(N):
        key = f"test/{cifar.CLASSES[labels(5)[number]]}/{number:05d}"
        np.testing.assert_array_equal(data.store.read(key).transpose(2, 0, 1).ravel(), pixels(5)[number])
    last = f"train/{cifar.CLASSES[labels(4)[-1]]}/{5 * N - 1:05d}"
    np.testing.assert_array_equal(data.store.read(last)[:, :, 2].ravel(), pixels(4)[-1, 2048:])


@pytest.mark.parametrize("make", [python_batches, binary_batches])
def test_batches_in_a_folder_and_in_an_archive(tmp_path, monkeypatch, make) -> None:
    root = make(tmp_path / "cifar-10-batches-py", monkeypatch)
    one, wrapped = sources.read(root), sources.read(tmp_path)
    other = sources.read(packed(root, tmp_path / "cifar-10.tar.gz"))
    for data in (one, wrapped, other):
        check_made_cifar(data)
    assert one.fingerprint == wrapped.fingerprint == other.fingerprint
    assert other.name == "cifar-10"


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_python_batches_of_every_protocol(tmp_path, monkeypatch, protocol: int) -> None:
    # The published ones are of protocol 2, by Python 2. Protocols below 3 write bytes through codecs.encode.
    check_made_cifar(sources.read(python_batches(tmp_path / "p", monkeypatch, protocol)))


def python_2_batch(batch: int) -> bytes:
    """A batch as Python 2 wrote it: byte strings everywhere, numbers for booleans, numpy.core."""
    text = pickle.BINSTRING + (N * 3072).to_bytes(4, "little") + pixels(batch).tobytes()
    array = (
        b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\nK\x00\x85U\x01btR(K\x01K\x06M\x00\x0c\x86"
        b"cnumpy\ndtype\n(U\x02u1K\x00K\x01tR(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89"
        + text
        + b"tb"
    )
    numbers = b"".join(b"K" + bytes([label]) for label in labels(batch))
    return b"\x80\x02}(U\x04data" + array + b"U\x06labels](" + numbers + b"eu."


def test_batches_that_python_2_wrote_are_read_without_a_warning(tmp_path, monkeypatch) -> None:
    root = python_batches(tmp_path / "p", monkeypatch)
    for i, name in enumerate(BATCHES):
        (root / name).write_bytes(python_2_batch(i))
        monkeypatch.setitem(cifar.DIGESTS, name, hashlib.md5(python_2_batch(i)).hexdigest())
    check_made_cifar(sources.read(root))


class Evil:
    def __init__(self, call: tuple[object, tuple[object, ...]]) -> None:
        self.call = call

    def __reduce__(self):
        return self.call


def planted(root: Path, payload: object, monkeypatch: pytest.MonkeyPatch, *, digest: bool) -> None:
    content = pickle.dumps(payload, 2)
    (root / "data_batch_1").write_bytes(content)
    if digest:
        monkeypatch.setitem(cifar.DIGESTS, "data_batch_1", hashlib.md5(content).hexdigest())


@pytest.mark.parametrize("call", [os.system, eval, __import__, np.load, getattr])
def test_a_pickle_that_would_run_something_is_refused_even_with_its_digest(tmp_path, monkeypatch, call) -> None:
    root = python_batches(tmp_path / "p", monkeypatch)
    marker = tmp_path / "ran"
    planted(root, {"data": Evil((call, (f"touch {marker}",)))}, monkeypatch, digest=True)
    with pytest.raises(DataError, match="holds more than arrays: it names"):
        sources.read(root)
    assert not marker.exists()


def test_no_codec_but_latin1_is_let_in(tmp_path, monkeypatch) -> None:
    import _codecs

    root = python_batches(tmp_path / "p", monkeypatch)
    planted(root, Evil((_codecs.encode, ("x", "rot13"))), monkeypatch, digest=True)
    with pytest.raises(DataError, match="codec 'rot13'"):
        sources.read(root)


def test_a_wrong_digest_is_refused_before_anything_is_unpickled(tmp_path, monkeypatch) -> None:
    root = python_batches(tmp_path / "p", monkeypatch)
    planted(root, {"data": pixels(0), "labels": labels(0)}, monkeypatch, digest=False)
    opened: list[str] = []
    monkeypatch.setattr(cifar, "_unpickled", lambda name, data: opened.append(name))
    with pytest.raises(DataError, match="data_batch_1 is not the published batch"):
        sources.read(root)
    assert opened == []


@pytest.mark.parametrize(
    "payload",
    [
        [1, 2],
        {"data": pixels(0)},
        {"data": pixels(0)[:, :9], "labels": labels(0)},
        {"data": pixels(0), "labels": [0, 1]},
        {"data": pixels(0).astype(float), "labels": labels(0)},
        {"data": pixels(0), "labels": [10] * N},
        {"data": pixels(0), "labels": [-1] * N},
        {"data": pixels(0), "labels": ["a"] * N},
    ],
)
def test_a_batch_of_another_form_is_refused(tmp_path, monkeypatch, payload) -> None:
    root = python_batches(tmp_path / "p", monkeypatch)
    planted(root, payload, monkeypatch, digest=True)
    with pytest.raises(DataError, match="data_batch_1"):
        sources.read(root)


def test_broken_binary_batches_are_refused(tmp_path, monkeypatch) -> None:
    root = binary_batches(tmp_path / "b", monkeypatch)
    whole = (root / "test_batch.bin").read_bytes()
    for content, says in ((whole[:-1], "18,438 bytes"), (b"\x0a" + whole[1:], "out of range")):
        (root / "test_batch.bin").write_bytes(content)
        with pytest.raises(DataError, match=says):
            sources.read(root)
    (root / "test_batch.bin").unlink()
    with pytest.raises(DataError, match=r"none called test_batch\.bin"):
        sources.read(root)


def test_broken_and_strange_archives_are_refused(tmp_path, monkeypatch) -> None:
    archive = packed(binary_batches(tmp_path / "b", monkeypatch), tmp_path / "c.tar.gz")
    whole = archive.read_bytes()
    for content in (whole[:-500], whole[: len(whole) // 2], b"words", b""):
        archive.write_bytes(content)
        with pytest.raises(DataError, match="not a whole tar"):
            sources.read(archive)
    with tarfile.open(archive, "w:gz") as made:
        for number in range(100):
            made.addfile(tarfile.TarInfo(f"{number}.txt"), io.BytesIO())
        made.addfile(tarfile.TarInfo("data_batch_1.bin"), io.BytesIO())
    with pytest.raises(DataError, match="not CIFAR-10"):
        sources.read(archive)


def test_a_link_in_an_archive_is_not_followed(tmp_path, monkeypatch) -> None:
    root = binary_batches(tmp_path / "b", monkeypatch)
    with tarfile.open(tmp_path / "c.tar.gz", "w:gz") as made:
        for name in BATCHES[1:]:
            made.add(root / f"{name}.bin", f"{name}.bin")
        link = tarfile.TarInfo("data_batch_1.bin")
        link.type, link.linkname = tarfile.SYMTYPE, str(root / "data_batch_1.bin")
        made.addfile(link)
    with pytest.raises(DataError, match=r"none called data_batch_1\.bin"):
        sources.read(tmp_path / "c.tar.gz")


# ── downloads ──


@pytest.fixture
def server(tmp_path, monkeypatch):
    """The address of a folder served on this machine, which is also the place of the cache's parent."""
    (tmp_path / "www").mkdir()
    monkeypatch.setenv("OPSIN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    handler = functools.partial(Quiet, directory=str(tmp_path / "www"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}/"
        running.shutdown()
        thread.join()


def published(url: str, content: bytes, limit: int = 1000) -> downloads.Published:
    return downloads.Published(url, "sha256:" + hashlib.sha256(content).hexdigest(), limit)


def test_a_file_is_downloaded_once(tmp_path, server) -> None:
    (tmp_path / "www/a.bin").write_bytes(b"content")
    file = published(server + "a.bin", b"content")
    path = downloads.obtain(file)
    assert path == tmp_path / "cache" / "a.bin"
    assert path.read_bytes() == b"content"
    (tmp_path / "www/a.bin").unlink()
    assert downloads.obtain(file) == path
    path.write_bytes(b"changed")
    with pytest.raises(DataError, match=r"not the published file.*Delete it"):
        downloads.obtain(file)


@pytest.mark.parametrize(("sent", "says"), [(b"other", "sent another file"), (b"x" * 1001, "too large")])
def test_a_wrong_download_is_not_kept(tmp_path, server, sent: bytes, says: str) -> None:
    (tmp_path / "www/a.bin").write_bytes(sent)
    with pytest.raises(DataError, match=says):
        downloads.obtain(published(server + "a.bin", b"content"))
    assert list((tmp_path / "cache").iterdir()) == []


def test_no_answer_says_where_to_put_the_file(tmp_path, server, monkeypatch) -> None:
    closed = "http://127.0.0.1:9/cifar-10-binary.tar.gz"
    for url in (server + "missing.bin", closed):
        with pytest.raises(MachineError, match=r"could not be downloaded.*by hand.*'digits'") as caught:
            downloads.obtain(published(url, b""))
        assert str(tmp_path / "cache") in str(caught.value)
        assert caught.value.exit_code == 5
    monkeypatch.setattr(cifar, "ARCHIVE", downloads.Published(closed, cifar.ARCHIVE.digest, 1000))
    with pytest.raises(MachineError, match=r"cifar-10-binary\.tar\.gz could not be downloaded"):
        sources.read("cifar10")
    assert list((tmp_path / "cache").iterdir()) == []


def test_cifar10_by_name_is_downloaded_and_read(tmp_path, server, monkeypatch) -> None:
    archive = packed(binary_batches(tmp_path / "b", monkeypatch), tmp_path / "www" / "c.tar.gz")
    file = published(server + "c.tar.gz", archive.read_bytes(), limit=1 << 20)
    monkeypatch.setattr(cifar, "ARCHIVE", file)
    data = sources.read("cifar10")
    check_made_cifar(data)
    assert data.name == "cifar10"


def test_fashion_by_name_is_downloaded_and_read(tmp_path, server, tiny_fashion, monkeypatch) -> None:
    for name in named.FASHION_DIGESTS:
        shutil.move(tiny_fashion / name, tmp_path / "www" / name)
    monkeypatch.setattr(named, "FASHION_URL", server)
    assert len(sources.read("fashion-mnist")) == 3


def test_the_cache_cannot_be_made(tmp_path, monkeypatch) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("OPSIN_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(MachineError, match="could not write"):
        downloads.obtain(published("http://127.0.0.1:9/a", b""))


@pytest.mark.parametrize(
    ("platform", "variables", "expected"),
    [
        ("linux", {}, "HOME/.cache/opsin"),
        ("linux", {"XDG_CACHE_HOME": "/x"}, "/x/opsin"),
        ("darwin", {}, "HOME/Library/Caches/opsin"),
        ("win32", {"LOCALAPPDATA": "/l"}, "/l/opsin/Cache"),
        ("win32", {"OPSIN_CACHE": "/o"}, "/o"),
    ],
)
def test_the_place_of_the_cache(monkeypatch, platform: str, variables: dict[str, str], expected: str) -> None:
    for name in ("OPSIN_CACHE", "XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "platform", platform)
    assert downloads.cache_dir() == Path(expected.replace("HOME", str(Path.home())))


# ── real sets ──


@pytest.mark.parametrize(
    ("name", "k", "sizes", "refused"),
    [
        ("clothing", 10, (710, 341, 372), {"LICENSE": "not-a-picture"}),
        ("sign-digits", 10, (2062,), {}),
        ("trashnet-small", 6, (2527,), {}),
        ("cifar10-jpg", 10, (50_000, 0, 10_000), {}),
    ],
)
def test_real_zips(name: str, k: int, sizes: tuple[int, ...], refused: dict[str, str]) -> None:
    path = DATA / f"{name}.zip"
    if not path.exists():
        pytest.skip("shared data is not there")
    start = time.process_time()
    data = sources.read(path)
    assert time.process_time() - start < 10  # 1.4 s for the largest on two cores; a quadratic step takes minutes
    assert len(data.classes) == k
    parts = (data.train, data.val, data.test) if len(sizes) == 3 else (data,)
    assert tuple(map(len, parts)) == sizes
    assert codes(data) == refused
    content = data.store.read(data.records[-1].key)
    assert (len(content), zlib.crc32(content)) == (data.records[-1].size, data.records[-1].crc)
