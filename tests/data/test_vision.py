"""The torchvision sets, read from small files in the sets' own formats."""

import hashlib
import pickle
import struct

import numpy as np
import pytest
import torch

from raysim.core import streams, vision
from raysim.core.interfaces import DataError
from raysim.data import CIFAR10, CIFAR100, MNIST, FashionMNIST


def pixels(purpose, *shape):
    return streams.integers(streams.key(0, purpose), 256, *shape).numpy().astype(np.uint8)


def write_idx(folder, train=30, test=12):
    """Four IDX files: a magic number that says type and axes, the lengths, the bytes."""
    folder.mkdir(parents=True)
    for part, number in (("train", train), ("t10k", test)):
        image, label = pixels(part, number, 28, 28), np.arange(number, dtype=np.uint8) % 10
        head = struct.pack(">iiii", 0x0803, number, 28, 28)
        (folder / f"{part}-images-idx3-ubyte").write_bytes(head + image.tobytes())
        (folder / f"{part}-labels-idx1-ubyte").write_bytes(
            struct.pack(">ii", 0x0801, number) + label.tobytes()
        )


def write_cifar(root, kind, monkeypatch, per_file=6):
    """Pickled batches in the set's own layout; their checksums take the place of the real files'."""
    folder = root / kind.base_folder
    folder.mkdir(parents=True)
    fine = "fine_labels" if "100" in kind.__name__ else "labels"
    meta = {kind.meta["key"]: [f"class {i}" for i in range(100 if "100" in kind.__name__ else 10)]}

    def write(name, content):
        (folder / name).write_bytes(pickle.dumps(content))
        return hashlib.md5((folder / name).read_bytes()).hexdigest()

    for field in ("train_list", "test_list"):
        batches = [
            [name, write(name, {"data": pixels(name, per_file, 3072), fine: list(range(per_file))})]
            for name, _ in getattr(kind, field)
        ]
        monkeypatch.setattr(kind, field, batches)
    monkeypatch.setattr(kind, "meta", {**kind.meta, "md5": write(kind.meta["filename"], meta)})


@pytest.mark.parametrize("kind", [MNIST, FashionMNIST])
def test_idx_files(kind, tmp_path):
    write_idx(tmp_path / kind.__name__ / "raw")
    data = kind(tmp_path).load()
    raw = pixels("train", 30, 28, 28) / 255
    assert data.x_train.shape == (30, 1, 28, 28)
    assert data.x_test.shape == (12, 1, 28, 28)
    assert data.outputs == 10
    assert data.augment is None
    np.testing.assert_allclose(data.x_train[:, 0], (raw - raw.mean()) / raw.std(), atol=1e-6)
    np.testing.assert_array_equal(data.y_test, np.arange(12) % 10)
    assert data.y_test.dtype == np.int64


@pytest.mark.parametrize(("kind", "classes", "files"), [(CIFAR10, 10, 5), (CIFAR100, 100, 1)])
def test_cifar_files(kind, classes, files, tmp_path, monkeypatch):
    write_cifar(tmp_path, getattr(vision.datasets(), kind.__name__), monkeypatch)
    data = kind(tmp_path).load()
    assert data.x_train.shape == (6 * files, 3, 32, 32)
    assert data.outputs == classes
    assert data.augment is None
    name = "data_batch_1" if classes == 10 else "train"
    first = pixels(name, 6, 3072)[2].reshape(3, 32, 32).astype(float)
    for channel in range(3):
        assert np.corrcoef(first[channel].ravel(), data.x_train[2, channel].ravel())[0, 1] > 0.999999
    np.testing.assert_allclose(data.x_train.mean((0, 2, 3)), 0, atol=1e-6)
    np.testing.assert_allclose(data.x_train.std((0, 2, 3)), 1, atol=1e-5)
    np.testing.assert_array_equal(data.y_train, np.tile(np.arange(6), files))


def test_augment_is_passed_on(tmp_path, monkeypatch):
    write_cifar(tmp_path, vision.datasets().CIFAR10, monkeypatch)
    data = CIFAR10(tmp_path, augment=True).load()
    x = torch.from_numpy(data.x_train[None, :8])
    moved = data.augment(x, streams.key(0, torch.arange(1)))
    assert moved.shape == x.shape
    assert not torch.equal(moved, x)


@pytest.mark.parametrize("kind", [MNIST, FashionMNIST, CIFAR10, CIFAR100])
def test_missing_files_are_named_with_the_way_out(kind, tmp_path):
    with pytest.raises(DataError) as error:
        kind(tmp_path).load()
    text = str(error.value)
    assert str(tmp_path) in text
    assert "missing: " in text
    assert "download: true" in text
    assert ("train-images-idx3-ubyte" in text) == (kind in (MNIST, FashionMNIST))


def test_one_missing_file(tmp_path):
    write_idx(tmp_path / "MNIST" / "raw")
    (tmp_path / "MNIST" / "raw" / "t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(DataError, match=r"missing: t10k-labels-idx1-ubyte\."):
        MNIST(tmp_path).load()


@pytest.mark.filterwarnings("ignore:The given buffer is not writable")
def test_damaged_files(tmp_path, monkeypatch):
    write_idx(tmp_path / "MNIST" / "raw")
    file = tmp_path / "MNIST" / "raw" / "train-images-idx3-ubyte"
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(DataError, match="they are there but cannot be read"):
        MNIST(tmp_path).load()
    write_cifar(tmp_path, vision.datasets().CIFAR10, monkeypatch)
    (tmp_path / "cifar-10-batches-py" / "data_batch_3").write_bytes(b"damaged")
    with pytest.raises(DataError, match="they are there but cannot be read"):
        CIFAR10(tmp_path).load()


def test_a_failed_download_says_so(tmp_path, monkeypatch):
    def fail(self):
        raise RuntimeError("no network")

    monkeypatch.setattr(vision.datasets().MNIST, "download", fail)
    with pytest.raises(DataError, match="downloading failed: no network"):
        MNIST(tmp_path, download=True).load()
