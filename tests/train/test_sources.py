"""--data: each source on small files in its true format, and what is said of files that are not as they should be."""

import struct

import numpy as np
import pytest
from PIL import Image

from minidl.data import DataError, make_moving_digits
from minidl.data.dataset import gather
from minidl.data.moving import write_video
from minidl.train import TrainingError
from minidl.train.sources import IMAGES, VIDEOS, ImageOptions, VideoOptions, _by_group, images, videos


def numbers(*shape):
    return np.random.default_rng(sum(shape)).integers(0, 256, shape, dtype=np.uint8)


def idx(array):
    return bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def mnist(folder, train=20, test=5, height=7, width=6, classes=10):
    folder.mkdir(exist_ok=True)
    for split, count in (("train", train), ("t10k", test)):
        (folder / f"{split}-images-idx3-ubyte").write_bytes(idx(numbers(count, height, width)))
        (folder / f"{split}-labels-idx1-ubyte").write_bytes(idx(np.arange(count, dtype=np.uint8) % classes))
    return folder


def cifar(folder, labels, names, count=4):
    folder.mkdir(exist_ok=True)
    for name in names:
        (folder / name).write_bytes(b"".join(bytes([3] * labels) + row.tobytes() for row in numbers(count, 3, 32, 32)))
    return folder


def pictures(folder, classes=("apple", "pear"), count=10, size=(9, 12)):
    """RGB files, the value of each telling its number."""
    for c in classes:
        (folder / c).mkdir(parents=True, exist_ok=True)
        for i in range(count):
            height, width = size[0] + i % 2, size[1]
            Image.fromarray(np.full((height, width, 3), 10 * i, np.uint8)).save(folder / c / f"{i}.png")
    return folder


def everything(dataset):
    return gather(dataset, np.arange(len(dataset)))


def assert_images(sets, counts, shape, classes):
    assert (len(sets.train), len(sets.validation), len(sets.test)) == counts
    assert sets.shape == shape and len(sets.classes) == classes
    for part in (sets.train, sets.validation, sets.test):
        x, y = everything(part)
        assert x.dtype == np.float32 and x.shape[1:] == shape
        assert x.min() >= 0 and x.max() <= 1 and y.max() < classes


# ---- images


def test_digits():
    assert_images(images("digits", ImageOptions()), (1167, 130, 500), (1, 8, 8), 10)
    assert images("digits", ImageOptions(size=16)).shape == (1, 16, 16)


def test_mnist_of_any_size(tmp_path):
    mnist(tmp_path)
    assert_images(images(f"mnist:{tmp_path}", ImageOptions()), (18, 2, 5), (1, 7, 6), 10)
    assert_images(images(f"mnist:{tmp_path}", ImageOptions(size=8)), (18, 2, 5), (1, 8, 8), 10)


def test_no_image_is_in_two_sets_and_the_seed_decides(tmp_path):
    mnist(tmp_path, train=200)
    one, two, other = (images(f"mnist:{tmp_path}", ImageOptions(seed)) for seed in (1, 1, 2))
    kept = lambda part: {row.tobytes() for row in everything(part)[0]}
    assert not kept(one.train) & kept(one.validation) and len(kept(one.train) | kept(one.validation)) == 200
    assert kept(one.validation) == kept(two.validation) != kept(other.validation)


def test_sets_of_mnists_form_with_more_classes(tmp_path):
    """EMNIST's letters go up to 26."""
    sets = images(f"mnist:{mnist(tmp_path, train=60, classes=27)}", ImageOptions())
    assert len(sets.classes) == 27 and sets.classes[26] == "26"


def test_cifar(tmp_path):
    ten = cifar(tmp_path / "10", 1, [*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin"])
    assert_images(images(f"cifar10:{ten}", ImageOptions()), (18, 2, 4), (3, 32, 32), 10)
    hundred = cifar(tmp_path / "100", 2, ["train.bin", "test.bin"], 20)
    assert_images(images(f"cifar100:{hundred}", ImageOptions(size=8)), (18, 2, 20), (3, 8, 8), 100)


def test_a_folder_without_a_test_part(tmp_path):
    """20 % stand in for it, a tenth of the others is held back; the smaller side of the first image is the size."""
    sets = images(f"folder:{pictures(tmp_path)}", ImageOptions())
    assert_images(sets, (14, 2, 4), (3, 9, 9), 2)
    assert sets.classes == ["apple", "pear"]
    values = [{(label, round(float(x.mean()) * 25.5)) for x, label in part} for part in sets[:3]]
    assert sum(map(len, values)) == len(set.union(*values)) == 20


def test_a_folder_with_a_test_part(tmp_path):
    pictures(tmp_path / "train")
    pictures(tmp_path / "test", count=3)
    assert_images(images(f"folder:{tmp_path}", ImageOptions(size=16)), (18, 2, 6), (3, 16, 16), 2)
    pictures(tmp_path / "test", classes=["plum"])
    with pytest.raises(TrainingError, match=r"test has the classes \['apple', 'pear', 'plum'\], train has"):
        images(f"folder:{tmp_path}", ImageOptions())


def test_a_corrupt_picture_is_reported_and_left_out(tmp_path):
    pictures(tmp_path)
    (tmp_path / "pear" / "bad.png").write_bytes(b"\x89PNG no more")
    with pytest.warns(UserWarning, match="1 of 21 images"):
        sets = images(f"folder:{tmp_path}", ImageOptions())
    assert sum(map(len, sets[:3])) == 20


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("mnits:x", "there is no source 'mnits'; did you mean 'mnist'? Known: digits, mnist:FOLDER"),
        ("zzz", "there is no source 'zzz'. Known: digits"),
        ("", "there is no source ''. Known: digits"),
        ("mnist", "--data mnist needs the folder of its files: mnist:FOLDER"),
        ("mnist:", "--data mnist: needs the folder of its files: mnist:FOLDER"),
        ("digits:/tmp", "--data digits:/tmp: digits is made here and takes no folder"),
        ("torus", "--data torus: torus has videos, which this model cannot use. Known: digits, mnist:FOLDER"),
    ],
)
def test_sources_of_images_that_are_none(spec, words):
    with pytest.raises(TrainingError) as caught:
        images(spec, ImageOptions())
    assert words in str(caught.value)


def test_files_that_are_cut_off_or_missing(tmp_path):
    folder = mnist(tmp_path / "mnist")
    path = folder / "train-images-idx3-ubyte"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(DataError, match=r"train-images-idx3-ubyte.* found only"):
        images(f"mnist:{folder}", ImageOptions())
    path.unlink()
    with pytest.raises(DataError, match="expected a file train-images-idx3-ubyte"):
        images(f"mnist:{folder}", ImageOptions())
    with pytest.raises(DataError, match=r"data_batch_1\.bin"):
        images(f"cifar10:{tmp_path}", ImageOptions())
    with pytest.raises(DataError, match="no such folder"):
        images(f"folder:{tmp_path / 'nowhere'}", ImageOptions())


@pytest.mark.parametrize(("train", "test"), [(4, 5), (20, 0)])
def test_too_few_images(tmp_path, train, test):
    spec = f"mnist:{mnist(tmp_path, train, test)}"
    with pytest.raises(TrainingError, match=rf"--data {spec} has too few examples: \d+ to train on, \d to validate"):
        images(spec, ImageOptions())


# ---- videos


@pytest.mark.parametrize(("spec", "shape", "classes"), [("torus", (1, 8, 16, 16), 4), ("order", (1, 24, 12, 12), 2)])
def test_made_clips(spec, shape, classes):
    sets = videos(spec, VideoOptions(count=30))
    assert (len(sets.train), len(sets.validation), len(sets.test)) == (30, 3, 500)
    assert sets.shape == shape and len(sets.classes) == classes
    same, other = videos(spec, VideoOptions(count=30)), videos(spec, VideoOptions(count=30, seed=1))
    np.testing.assert_array_equal(everything(same.train)[0], everything(sets.train)[0])
    assert not np.array_equal(everything(other.train)[0], everything(sets.train)[0])


def test_made_clips_of_other_sizes():
    assert videos("torus", VideoOptions(count=10, size=8, frames=5)).shape == (1, 5, 8, 8)
    with pytest.raises(TrainingError, match="--frames is 8: the order task has 24 frames"):
        videos("order", VideoOptions(count=10, frames=8))
    with pytest.raises(TrainingError, match="--flip would exchange left and right"):
        videos("torus", VideoOptions(count=10, flip=True))


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    pytest.importorskip("av", reason="writing videos needs PyAV")
    folder = tmp_path_factory.mktemp("data") / "moving"
    make_moving_digits(folder, train=80, test=8, frames=10, scale=1)
    return folder


def test_real_videos_in_ucf101s_layout(made):
    sets = videos(f"ucf101:{made}", VideoOptions(frames=4, size=8))
    assert sets.shape == (3, 4, 8, 8) and sets.classes == ["Down", "Left", "Right", "Up"]
    assert len(sets.train) + len(sets.validation) == 80 and len(sets.test) == 8
    clip, label = sets.train[0]
    assert clip.dtype == np.float32 and 0 <= clip.min() < clip.max() <= 1 and 0 <= label < 4
    np.testing.assert_array_equal(sets.test[3][0], sets.test[3][0])  # the centre, always


def test_the_names_of_the_original_archives(made, tmp_path):
    (tmp_path / "UCF-101").symlink_to(made / "videos")
    (tmp_path / "ucfTrainTestlist").symlink_to(made / "lists")
    assert len(videos(f"ucf101:{tmp_path}", VideoOptions(frames=4, size=8)).test) == 8


def test_hmdb51(tmp_path):
    pytest.importorskip("av", reason="writing videos needs PyAV")
    place, lists = tmp_path / "hmdb51_org", tmp_path / "testTrainMulti_7030_splits"
    lists.mkdir()
    for c in ("run", "wave"):
        (place / c).mkdir(parents=True)
        rows = []
        for i in range(6):
            write_video(place / c / f"film{i}_{c}_0.avi", numbers(6, 12, 10))
            rows.append(f"film{i}_{c}_0.avi {1 if i < 4 else 2}\n")
        (lists / f"{c}_test_split1.txt").write_text("".join(rows))
    sets = videos(f"hmdb51:{tmp_path}", VideoOptions(frames=3, size=8))
    assert sets.classes == ["run", "wave"] and sets.shape == (3, 3, 8, 8)
    assert (len(sets.train) + len(sets.validation), len(sets.test)) == (8, 4)


def test_clips_of_a_film_stay_together():
    """UCF-101's groups: twenty-five films, several clips of each."""
    listed = [(f"Run/v_Run_g{g:02d}_c{c:02d}.avi", 0) for g in range(1, 26) for c in range(1, 5)]
    listed += [(f"Jump/v_Jump_g{g:02d}_c{c:02d}.avi", 1) for g in range(1, 26) for c in range(1, 4)]
    for seed in range(5):
        learn, held_back = _by_group(listed, seed)
        assert sorted(learn + held_back) == sorted(listed)
        film = lambda name: name.rsplit("_", 1)[0]
        assert not {film(name) for name, _ in learn} & {film(name) for name, _ in held_back}
        assert 0.05 < len(held_back) / len(listed) < 0.15
    assert _by_group(listed, 0) != _by_group(listed, 1)
    with pytest.raises(TrainingError, match="4 videos in 1 group are too few"):
        _by_group(listed[:4], 0)


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("ucf:x", "there is no source 'ucf'; did you mean 'ucf101'?"),
        ("ucf101", "--data ucf101 needs the folder of its files: ucf101:FOLDER"),
        ("torus:x", "torus is made here and takes no folder"),
        ("digits", "--data digits: digits has images, which this model cannot use. Known: torus, order, ucf101:FOLDER"),
        ("ucf101:/nowhere", "expected videos/ or UCF-101/ and lists/ or ucfTrainTestlist/ in it; no such folder"),
        ("hmdb51:/", "expected videos/ or hmdb51_org/ and lists/ or testTrainMulti_7030_splits/ in it"),
    ],
)
def test_sources_of_videos_that_are_none(spec, words):
    with pytest.raises(TrainingError) as caught:
        videos(spec, VideoOptions())
    assert words in str(caught.value)


def test_every_source_says_what_it_is():
    for sources in (IMAGES, VIDEOS):
        assert all(source.summary for source in sources.values())
    assert not IMAGES.keys() & VIDEOS.keys()
