"""Readers of MNIST's, CIFAR's and image files, on small files written here byte by byte."""

import gzip
import struct
import sys

import numpy as np
import pytest

from minidl.data import DataError, DataLoader, ImageFolder, MissingExtra, cifar10, cifar100, mnist, read_idx, read_image


def idx(array, code):
    return bytes([0, 0, code, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def numbers(*shape):
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def write_mnist(folder, end="", images=6, labels=6, dash="-"):
    pixels, classes = numbers(images, 5, 4), np.arange(labels, dtype=np.uint8)
    pack = gzip.compress if end else bytes
    for split in ("train", "t10k"):
        (folder / f"{split}-images{dash}idx3-ubyte{end}").write_bytes(pack(idx(pixels, 8)))
        (folder / f"{split}-labels{dash}idx1-ubyte{end}").write_bytes(pack(idx(classes, 8)))
    return pixels, classes


# --- idx


@pytest.mark.parametrize(("end", "dash"), [("", "-"), (".gz", "-"), ("", ".")])
def test_mnist_reads_plain_and_gzipped_files(tmp_path, end, dash):
    pixels, classes = write_mnist(tmp_path, end, dash=dash)
    for split in ("train", "test"):
        images, labels = mnist(tmp_path, split).arrays
        assert images.shape == (6, 1, 5, 4) and images.dtype == np.float32 and labels.dtype == np.int64
        np.testing.assert_allclose(images[:, 0] * 255, pixels, rtol=1e-6)
        np.testing.assert_array_equal(labels, classes)


@pytest.mark.parametrize(
    ("code", "dtype"), [(0x08, "u1"), (0x09, "i1"), (0x0B, ">i2"), (0x0C, ">i4"), (0x0D, ">f4"), (0x0E, ">f8")]
)
def test_idx_of_every_type(tmp_path, code, dtype):
    array = np.array([[-3, 2, 100], [7, 0, -1]]).astype(dtype)
    (tmp_path / "x").write_bytes(idx(array, code))
    read = read_idx(tmp_path / "x")
    np.testing.assert_array_equal(read, array)
    assert read.dtype == np.dtype(dtype).newbyteorder("=") and read.flags.writeable


BODY = idx(numbers(3, 2), 8)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "expected the magic number .* found an empty file"),
        (b"\0\0", "found 0x0000$"),
        (b"\x89PNG" + bytes(20), "found 0x89504e47"),
        (b"\0\0\x07\x01" + bytes(20), "found 0x00000701"),
        (b"\0\0\x08\0" + bytes(20), "found 0x00000800"),
        (BODY[:9], "expected 2 sizes of 4 bytes, found 5 bytes"),
        (BODY[:-1], r"expected 6 bytes of values for the shape \(3, 2\), found only 5"),
        (BODY + b"x", "expected 6 bytes .* found more"),
        (b"\0\0\x08\x04" + b"\xff" * 16 + bytes(9), "found only 9"),  # promises 2**128 bytes
        (gzip.compress(BODY, mtime=0)[:-12], "gzip data are damaged or cut off"),
        (gzip.compress(BODY, mtime=0)[:-8] + bytes(8), "gzip data are damaged"),
        (gzip.compress(BODY[:-2], mtime=0), "found only 4"),
        (b"\x1f\x8b" + bytes(30), "gzip data are damaged"),
    ],
)
def test_idx_names_the_file_and_what_is_wrong(tmp_path, content, message):
    path = tmp_path / "some-idx3-ubyte"
    path.write_bytes(content)
    with pytest.raises(DataError, match=f"some-idx3-ubyte: .*{message}"):
        read_idx(path)


def test_mnist_names_missing_and_contradicting_files(tmp_path):
    with pytest.raises(DataError, match=r"expected a file train-images-idx3-ubyte or .*\.gz, found an empty folder"):
        mnist(tmp_path)
    with pytest.raises(DataError, match="no such folder"):
        mnist(tmp_path / "nowhere")
    write_mnist(tmp_path, images=6, labels=5)
    with pytest.raises(DataError, match=r"images-idx3-ubyte has 6 images, but .*labels-idx1-ubyte has 5 labels"):
        mnist(tmp_path)
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(idx(numbers(6, 2), 8))
    with pytest.raises(DataError, match=r"magic number 2049\), found uint8 of shape \(6, 2\)"):
        mnist(tmp_path)
    with pytest.raises(ValueError, match="split is 'valid'"):
        mnist(tmp_path, "valid")
    with pytest.raises(DataError, match="cannot be read"):
        read_idx(tmp_path)


# --- CIFAR


def records(count, *labels):
    images = numbers(count, 3, 32, 32)
    rows = [bytes([column[i] for column in labels]) + images[i].tobytes() for i in range(count)]
    return images, b"".join(rows)


@pytest.mark.parametrize("inside", ["", "cifar-10-batches-bin"])
def test_cifar10(tmp_path, inside):
    folder = tmp_path / inside
    folder.mkdir(exist_ok=True)
    for i in range(1, 6):
        images, content = records(2, [i, 9])
        (folder / f"data_batch_{i}.bin").write_bytes(content)
    (folder / "test_batch.bin").write_bytes(records(3, [7, 8, 9])[1])
    train, labels = cifar10(tmp_path).arrays
    assert train.shape == (10, 3, 32, 32) and train.dtype == np.float32 and labels.dtype == np.int64
    np.testing.assert_allclose(train[8:] * 255, images, rtol=1e-6)
    assert labels.tolist() == [1, 9, 2, 9, 3, 9, 4, 9, 5, 9]
    assert cifar10(tmp_path, "test").arrays[1].tolist() == [7, 8, 9]


def test_cifar100_has_two_labels(tmp_path):
    images, content = records(2, [3, 19], [99, 0])
    (tmp_path / "train.bin").write_bytes(content)
    np.testing.assert_allclose(cifar100(tmp_path).arrays[0] * 255, images, rtol=1e-6)
    assert cifar100(tmp_path).arrays[1].tolist() == [99, 0]
    assert cifar100(tmp_path, labels="coarse").arrays[1].tolist() == [3, 19]
    (tmp_path / "test.bin").write_bytes(records(1, [20], [0])[1])
    with pytest.raises(DataError, match="expected labels below 20, found 20 in record 0"):
        cifar100(tmp_path, "test")


def test_cifar_names_what_is_wrong(tmp_path):
    path = tmp_path / "test_batch.bin"
    for content in (b"", records(2, [0, 1])[1][:-1]):
        path.write_bytes(content)
        with pytest.raises(DataError, match=rf"test_batch.bin: expected records of 3073 bytes, found {len(content)}"):
            cifar10(tmp_path, "test")
    path.write_bytes(records(2, [0, 10])[1])
    with pytest.raises(DataError, match="expected labels below 10, found 10 in record 1"):
        cifar10(tmp_path, "test")
    with pytest.raises(DataError, match=r"data_batch_1.bin: no such file; expected the binary version of CIFAR$"):
        cifar10(tmp_path)
    (tmp_path / "data_batch_1").write_bytes(b"a pickle")
    with pytest.raises(DataError, match="Python version, which is pickled and therefore not read"):
        cifar10(tmp_path)


# --- folders of images


@pytest.fixture
def pictures(tmp_path):
    from PIL import Image

    for i, name in enumerate(["cat/b.png", "cat/a.PNG", "bird/deep/c.bmp", ".hidden/x.png"]):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(numbers(4 + i, 5, 3)).save(tmp_path / name)
    (tmp_path / "cat/notes.txt").write_text("not a picture")
    (tmp_path / "readme.txt").write_text("not a class")
    return tmp_path


def test_image_folder_is_sorted_by_class_and_name(pictures):
    data = ImageFolder(pictures)
    assert data.classes == ["bird", "cat"] and len(data) == 3 and not data.skipped
    assert [(path.name, label) for path, label in data.samples] == [("c.bmp", 0), ("a.PNG", 1), ("b.png", 1)]
    image, label = data[2]
    assert label == 1 and image.dtype == np.uint8
    np.testing.assert_array_equal(image, numbers(4, 5, 3).transpose(2, 0, 1))
    assert ImageFolder(pictures, mode="gray")[0][0].shape == (1, 6, 5)


def test_corrupt_images_by_policy(pictures):
    (pictures / "cat/empty.png").write_bytes(b"")
    (pictures / "cat/cut.png").write_bytes((pictures / "cat/b.png").read_bytes()[:-30])
    with pytest.warns(UserWarning, match=r"2 of 5 images in .* cannot be used: cat/cut.png: .*left out"):
        data = ImageFolder(pictures)
    assert set(data.skipped) == {"cat/cut.png", "cat/empty.png"} and len(data) == 3
    strict = ImageFolder(pictures, corrupt="raise")
    assert len(strict) == 5
    with pytest.raises(DataError, match=r"cut.png: cannot be decoded as an image") as caught:
        list(DataLoader(strict, 1))
    assert caught.value.__notes__ == ["item 3 of ImageFolder"]
    for path in [path for path in pictures.rglob("*.*") if path.is_file()]:
        path.write_bytes(b"GIF89a")
    with pytest.raises(DataError, match="5 of 5 images"):
        ImageFolder(pictures)


def test_image_folders_without_images_are_told(tmp_path):
    with pytest.raises(DataError, match="no such folder"):
        ImageFolder(tmp_path / "nowhere")
    (tmp_path / "cat").mkdir()
    with pytest.raises(DataError, match="found 1 folders, none with images"):
        ImageFolder(tmp_path)
    with pytest.raises(DataError, match="No such file"):
        read_image(tmp_path / "x.png")


def test_images_without_pillow_name_the_extra(tmp_path, monkeypatch):
    for name in [name for name in sys.modules if name.partition(".")[0] == "PIL"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(MissingExtra, match=r"reading images needs pillow.*pip install 'minidl\[train\]'"):
        ImageFolder(tmp_path)


def test_no_reader_unpickles():
    """np.load and the like would run what a downloaded file says. Pickles only travel between our own processes."""
    from pathlib import Path

    import minidl.data

    users = {
        path.name
        for path in Path(minidl.data.__file__).parent.glob("*.py")
        if any(word in path.read_text() for word in ("import pickle", "pickle.load", "np.load(", "joblib", "marshal"))
    }
    assert users == {"workers.py"}
