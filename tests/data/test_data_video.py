"""The video path, on .avi files that these tests write: decoding, the index, clips, and what is wrong with files."""

import json
import os
import sys

import numpy as np
import pytest

from minidl.data import (
    Compose,
    DataError,
    DataLoader,
    MissingExtra,
    RandomCrop,
    RandomHorizontalFlip,
    ToFloat,
    Transformed,
    VideoClips,
    hmdb51,
    hmdb51_split,
    make_moving_digits,
    read_frames,
    torus_motion,
    ucf101,
    ucf101_split,
    write_video,
)
from minidl.data import video as video_module
from minidl.data.video import index_videos, inspect


def counting(frames, height=16, width=16):
    """A video whose frame t is filled with 10 t: a clip shows which frames it is made of."""
    return np.broadcast_to((np.arange(frames, dtype=np.uint8) * 10)[:, None, None], (frames, height, width))


def numbers(clip):
    """Which frames of `counting` are in a clip (C, T, H, W)."""
    return (clip[0, :, 0, 0] // 10).tolist()


def clips_of(folder, names, **options):
    return VideoClips(folder, [(name, i) for i, name in enumerate(names)], ["x"], **{"frames": 4, **options})


@pytest.fixture
def folder(tmp_path):
    for i, frames in enumerate([20, 12, 9]):
        write_video(tmp_path / f"{i}.avi", counting(frames))
    return tmp_path


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return make_moving_digits(tmp_path_factory.mktemp("made") / "digits", train=24, test=9, seed=3, frames=12)


# --- frames


@pytest.mark.parametrize(("height", "width"), [(16, 16), (13, 17), (2, 2)])
def test_lossless_videos_come_back_byte_by_byte(tmp_path, height, width):
    gray = np.random.default_rng(0).integers(0, 256, (5, height, width), dtype=np.uint8)
    write_video(tmp_path / "gray.avi", gray)
    np.testing.assert_array_equal(read_frames(tmp_path / "gray.avi", range(5), "gray"), gray[None])
    picked = read_frames(tmp_path / "gray.avi", [4, 0, 0], "gray")
    np.testing.assert_array_equal(picked[0], gray[[4, 0, 0]])
    colour = np.random.default_rng(1).integers(0, 256, (5, height, width, 3), dtype=np.uint8)
    write_video(tmp_path / "colour.avi", colour)
    read = read_frames(tmp_path / "colour.avi", range(5))
    assert read.dtype == np.uint8 and read.flags.c_contiguous
    np.testing.assert_array_equal(read, colour.transpose(3, 0, 1, 2))


def test_mjpeg_and_scaling(tmp_path):
    write_video(tmp_path / "a.avi", counting(6, 30, 40), codec="mjpeg")
    clip = read_frames(tmp_path / "a.avi", [1, 5], "rgb", size=(12, 8))
    assert clip.shape == (3, 2, 12, 8)
    assert np.abs(clip.astype(int) - np.array([10, 50])[None, :, None, None]).max() <= 3


def test_read_frames_names_file_and_frame(tmp_path):
    write_video(tmp_path / "a.avi", counting(6))
    with pytest.raises(DataError, match=r"a.avi: expected a frame 6, found 6 frames"):
        read_frames(tmp_path / "a.avi", [2, 6])
    with pytest.raises(DataError, match=r"nowhere.avi: cannot be decoded after 0 frames: No such file"):
        read_frames(tmp_path / "nowhere.avi", [0])
    with pytest.raises(ValueError, match="wanted is empty"):
        read_frames(tmp_path / "a.avi", [])
    with pytest.raises(ValueError, match="codec is 'h264'"):
        write_video(tmp_path / "b.avi", counting(3), codec="h264")
    with pytest.raises(ValueError, match="T > 0"):
        write_video(tmp_path / "b.avi", counting(0))


def test_without_pyav_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    wanted = r"needs PyAV.*pip install 'minidl\[video\]'"
    with pytest.raises(MissingExtra, match=f"reading videos {wanted}"):
        clips_of(tmp_path, ["a.avi"])
    with pytest.raises(MissingExtra, match=f"writing videos {wanted}"):
        make_moving_digits(tmp_path / "digits")


# --- clips


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"sampling": "centre"}, [[8, 9, 10, 11], [4, 5, 6, 7], [2, 3, 4, 5]]),
        (
            {"sampling": "centre", "stride": 3},
            [[5, 8, 11, 14], [1, 4, 7, 10], [0, 3, 6, 0]],
        ),  # 9 frames: the last loops
        (
            {"sampling": "uniform", "clips_per_video": 2, "stride": 2},
            [[0, 2, 4, 6], [13, 15, 17, 19], [0, 2, 4, 6], [5, 7, 9, 11], [0, 2, 4, 6], [2, 4, 6, 8]],
        ),
        ({"sampling": "uniform"}, [[8, 9, 10, 11], [4, 5, 6, 7], [2, 3, 4, 5]]),
    ],
)
def test_where_clips_begin(folder, options, expected):
    data = clips_of(folder, ["0.avi", "1.avi", "2.avi"], **options)
    assert [numbers(clip) for clip, _ in data] == expected
    assert [label for _, label in data] == [i // data.clips_per_video for i in range(len(expected))]


def test_random_clips_are_drawn_from_everywhere_and_by_the_generator(folder):
    data = clips_of(folder, ["1.avi"], stride=2)
    begins = {numbers(data.sample(0, np.random.default_rng(seed))[0])[0] for seed in range(60)}
    assert begins == set(range(6))
    loader = DataLoader(data, 1, seed=2)
    assert [numbers(b[0][0]) for _ in range(8) for b in loader] != [numbers(data[0][0])] * 8


def test_short_videos_by_policy(folder):
    assert numbers(clips_of(folder, ["2.avi"], frames=12)[0][0]) == [*range(9), 0, 1, 2]
    with pytest.warns(UserWarning, match="1 of 3 videos .* 2.avi: 9 frames where a clip spans 12"):
        data = clips_of(folder, ["0.avi", "1.avi", "2.avi"], frames=12, short="skip")
    assert len(data) == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"frames": 0}, "frames is 0"),
        ({"stride": 0}, "stride is 0"),
        ({"sampling": "middle"}, "sampling is 'middle'"),
        ({"sampling": "centre", "clips_per_video": 2}, "a video has one centre"),
        ({"corrupt": "ignore"}, "corrupt is 'ignore'"),
        ({"mode": "yuv"}, "mode is 'yuv'"),
    ],
)
def test_mistakes_are_told(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        clips_of(tmp_path, ["a.avi"], **options)


# --- damaged videos


def damaged(folder):
    """One of each kind; returns name -> a word of the reason."""
    import av

    write_video(folder / "whole.avi", np.random.default_rng(0).integers(0, 256, (20, 16, 16), dtype=np.uint8))
    whole = (folder / "whole.avi").read_bytes()
    (folder / "empty.avi").write_bytes(b"")
    (folder / "noise.avi").write_bytes(np.random.default_rng(0).bytes(5000))
    (folder / "cut.avi").write_bytes(whole[: len(whole) * 4 // 5])
    (folder / "text.avi").write_text("not a video\n" * 50)
    (folder / "folder.avi").mkdir()
    write_video(folder / "odd.avi", counting(9, 15, 17))
    with av.open(str(folder / "none.avi"), "w") as container:  # a header, and no frames
        stream = container.add_stream("ffv1", rate=25)
        stream.height = stream.width = 16
        stream.pix_fmt = "gray"
        container.start_encoding()
    with av.open(str(folder / "sound.avi"), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 4000), np.int16), format="s16", layout="mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
    return {
        "empty.avi": "cannot be decoded after 0",
        "noise.avi": "cannot be decoded after 0",
        "cut.avi": "cannot be decoded after 1",
        "text.avi": "cannot be decoded after 0",
        "folder.avi": "cannot be decoded after 0",
        "odd.avi": "15 x 17 pixels where most have 16 x 16",
        "none.avi": "no frames",
        "sound.avi": "there is no video",
        "missing.avi": "No such file",
    }


def test_damaged_videos_are_reported_and_left_out(folder):
    reasons = damaged(folder)
    names = ["0.avi", *reasons, "1.avi"]
    with pytest.warns(UserWarning, match=r"9 of 11 videos in .* cannot be used: .*; and 4 more\. They are left out"):
        data = clips_of(folder, names, sampling="centre")
    assert set(data.skipped) == set(reasons)
    for name, reason in reasons.items():
        assert reason in data.skipped[name], name
    assert [label for _, label in data] == [0, 10]
    with pytest.raises(DataError, match="9 of 11 videos"):
        clips_of(folder, names, corrupt="raise")
    with pytest.raises(DataError, match=r"8 of 9 videos"):
        clips_of(folder, list(reasons), corrupt="raise")
    with pytest.raises(DataError, match="2 of 2 videos"):
        clips_of(folder, ["empty.avi", "missing.avi"])
    with pytest.raises(DataError, match="no videos in the list"):
        clips_of(folder, [])


def test_with_a_size_all_sizes_fit(folder):
    write_video(folder / "odd.avi", counting(9, 15, 17))
    data = clips_of(folder, ["0.avi", "odd.avi"], size=(10, 14))
    assert [clip.shape for clip, _ in data] == [(3, 4, 10, 14)] * 2


def test_a_video_that_breaks_later_is_replaced_by_policy(folder):
    lenient = clips_of(folder, ["0.avi", "1.avi"], sampling="centre")
    strict = clips_of(folder, ["0.avi", "1.avi"], sampling="centre", corrupt="raise")
    (folder / "0.avi").write_bytes(b"")
    with pytest.warns(UserWarning, match=r"0.avi: cannot be decoded.*the next video stands in"):
        clip, label = lenient[0]
    assert (numbers(clip), label) == ([4, 5, 6, 7], 1)
    with pytest.raises(DataError, match=r"0.avi: cannot be decoded"):
        strict[0]
    (folder / "1.avi").unlink()
    with (
        pytest.warns(UserWarning, match="stands in"),
        pytest.raises(DataError, match="none of the 2 videos can be read"),
    ):
        lenient[0]


# --- the index


def test_the_index_saves_decoding_until_a_file_changes(folder, monkeypatch):
    looked = []

    def spy(path):
        looked.append(path.name)
        return inspect(path)

    monkeypatch.setattr(video_module, "inspect", spy)
    names = ["0.avi", "1.avi"]
    first = index_videos(folder, names)
    assert [first[name].frames for name in names] == [20, 12] and sorted(looked) == names
    assert index_videos(folder, names) == first and len(looked) == 2
    index_videos(folder, ["2.avi"])  # another split keeps what is known of this one
    assert index_videos(folder, names) == first and len(looked) == 3
    write_video(folder / "1.avi", counting(7))
    assert index_videos(folder, names)["1.avi"].frames == 7 and looked[3:] == ["1.avi"]
    os.utime(folder / "0.avi", ns=(1, 1))
    index_videos(folder, names)
    assert looked[4:] == ["0.avi"]
    stored = json.loads((folder / "minidl-index.json").read_text())
    assert set(stored["videos"]) == {"0.avi", "1.avi", "2.avi"} and stored["videos"]["1.avi"]["frames"] == 7
    assert not list(folder.glob(".minidl-index*"))


def test_damage_is_remembered_and_missing_files_are_not(folder):
    (folder / "bad.avi").write_bytes(b"no")
    index = folder / "elsewhere.json"
    found = index_videos(folder, ["bad.avi", "missing.avi"], index)
    assert found["bad.avi"].error and found["missing.avi"].error == "No such file or directory"
    assert set(json.loads(index.read_text())["videos"]) == {"bad.avi"}
    assert index_videos(folder, ["bad.avi"], index)["bad.avi"] == found["bad.avi"]


@pytest.mark.parametrize("content", ["", "[]", '{"version": 1}', '{"version": 1, "videos": {"0.avi": {"x": 1}}}'])
def test_a_damaged_index_is_made_anew(folder, content):
    index = folder / "minidl-index.json"
    index.write_text(content)
    with pytest.warns(UserWarning, match="not an index of videos, and made anew"):
        assert index_videos(folder, ["0.avi"])["0.avi"].frames == 20
    assert index_videos(folder, ["0.avi"])["0.avi"].frames == 20


def test_an_index_of_another_version_is_made_anew(folder):
    (folder / "minidl-index.json").write_text('{"version": 0, "videos": 3}')
    assert index_videos(folder, ["0.avi"])["0.avi"].frames == 20


def test_an_index_that_cannot_be_written_costs_only_the_next_time(folder):
    with pytest.warns(UserWarning, match="cannot be written.*index=PATH"):
        data = clips_of(folder, ["0.avi"], index=folder / "no" / "such" / "folder.json")
    assert data.counts == [20]


def test_an_interrupted_scan_keeps_what_it_found(folder, monkeypatch):
    def interrupted(path):
        if path.name == "2.avi":
            raise KeyboardInterrupt
        return inspect(path)

    monkeypatch.setattr(video_module, "inspect", interrupted)
    with pytest.raises(KeyboardInterrupt):
        index_videos(folder, ["0.avi", "1.avi", "2.avi"])
    assert set(json.loads((folder / "minidl-index.json").read_text())["videos"]) == {"0.avi", "1.avi"}


# --- moving digits as videos, through the reader of UCF-101


def test_moving_digits_in_ucf101s_layout(made):
    train = ucf101(*made, frames=8, mode="gray", sampling="centre")
    test = ucf101(*made, split="test", frames=8, mode="gray", sampling="centre")
    assert (len(train), len(test)) == (24, 9)
    assert train.classes == ["Down", "Left", "Right", "Up"]
    groups = [{name.split("_g")[1][:2] for name, _ in data.videos} for data in (train, test)]
    assert not groups[0] & groups[1] and max(groups[1]) <= "07" < min(groups[0])
    assert (made.lists.parent / "README.txt").read_text().count("not UCF-101") == 1
    steps = {"Right": (1, 2), "Left": (-1, 2), "Down": (1, 1), "Up": (-1, 1)}
    for clip, label in train:
        assert clip.shape == (1, 8, 64, 64)
        shift, axis = steps[train.classes[label]]
        frames = clip[0, :, ::4, ::4].astype(float)
        moved = np.roll(frames[:-1], shift, axis)
        assert np.corrcoef(moved.ravel(), frames[1:].ravel())[0, 1] > 0.7  # the rest is noise
        np.testing.assert_array_equal(clip, clip[..., ::4, ::4].repeat(4, 2).repeat(4, 3))


def test_the_videos_hold_what_torus_motion_made(made):
    clips = torus_motion("test", 9, seed=3, frames=12).arrays[0]
    expected = {np.rint(clip.clip(0, 1) * 255).astype(np.uint8).tobytes() for clip in clips}
    data = ucf101(*made, split="test", frames=12, mode="gray")
    assert {np.ascontiguousarray(clip[..., ::4, ::4]).tobytes() for clip, _ in data} == expected


def test_the_files_depend_on_the_seed_alone(made, tmp_path):
    again = make_moving_digits(tmp_path / "a", train=24, test=9, seed=3, frames=12)
    other = make_moving_digits(tmp_path / "b", train=24, test=9, seed=4, frames=12)

    def files(root):
        return {
            p.relative_to(root): p.read_bytes() for p in sorted(root.rglob("*")) if p.suffix != ".json" and p.is_file()
        }

    assert files(again.videos) == files(made.videos) and files(again.lists) == files(made.lists)
    assert files(other.videos) != files(made.videos)


def test_making_them_spoils_nothing_and_leaves_nothing_half_done(made, tmp_path, monkeypatch):
    with pytest.raises(FileExistsError, match="not an empty folder"):
        make_moving_digits(made.lists)
    with pytest.raises(ValueError, match="train is 0"):
        make_moving_digits(tmp_path / "x", train=0)

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("minidl.data.moving.write_video", full)
    with pytest.raises(OSError, match="No space left"):
        make_moving_digits(tmp_path / "x")
    assert not list(tmp_path.iterdir())


def test_clips_through_workers_with_crops_and_exact_resume(made):
    clips = ucf101(*made, frames=6, mode="gray")
    data = Transformed(clips, Compose(ToFloat(), RandomCrop(48), RandomHorizontalFlip()))

    def make(workers):
        return DataLoader(data, 5, shuffle=True, drop_last=True, seed=1, num_workers=workers)

    reference = make(0)
    alone = [batch for _ in range(2) for batch in reference]
    assert alone[0][0].shape == (5, 1, 6, 48, 48) and alone[0][0].dtype == np.float32
    loader, seen = make(2), []
    for batch in loader:
        seen.append(batch)
        if len(seen) == 3:
            break
    resumed = make(1)
    resumed.load_state_dict(loader.state_dict())
    seen += [batch for _ in range(2) for batch in resumed]
    resumed.close()
    for mine, expected in zip(seen, alone, strict=True):
        for a, b in zip(mine, expected, strict=True):
            np.testing.assert_array_equal(a, b)


# --- the lists of UCF-101 and HMDB-51


def write_lists(
    folder, classes="1 Apply\r\n2 Box\r\n", train="Apply/a.avi 1\r\nBox/b.avi 2\r\n\r\n", test="Box/c.avi\n"
):
    for name, text in (("classInd", classes), ("trainlist01", train), ("testlist01", test), ("testlist03", "")):
        (folder / f"{name}.txt").write_bytes(text.encode())
    return folder


def test_ucf101_lists(tmp_path):
    write_lists(tmp_path)
    assert ucf101_split(tmp_path) == ([("Apply/a.avi", 0), ("Box/b.avi", 1)], ["Apply", "Box"])
    assert ucf101_split(tmp_path, "test")[0] == [("Box/c.avi", 1)]


@pytest.mark.parametrize(
    ("lists", "arguments", "message"),
    [
        ({}, ("train", 2), r"trainlist02.txt: no such file; it comes with the official"),
        ({}, ("test", 3), r"testlist03.txt: there are no videos"),
        ({"classes": "1 Apply\n3 Box\n"}, (), r"classInd.txt, class 2: expected '2 ClassName', found '3 Box'"),
        ({"train": "Apply/a.avi 2\n"}, (), r"trainlist01.txt: expected the label 1 of Apply .* found 'Apply/a.avi 2'"),
        ({"train": "Cook/a.avi 1\n"}, (), "with a class of classInd.txt, found 'Cook/a.avi 1'"),
        ({"train": "a.avi\n"}, (), "expected 'Class/video.avi'"),
        ({"train": "Apply/../../a.avi 1\n"}, (), "must lie in the folder"),
    ],
)
def test_ucf101_lists_name_file_and_line(tmp_path, lists, arguments, message):
    write_lists(tmp_path, **lists)
    with pytest.raises(DataError, match=message):
        ucf101_split(tmp_path, *arguments)
    with pytest.raises(DataError, match=r"classInd.txt: no such file"):
        ucf101_split(tmp_path / "nowhere")


def test_hmdb51(tmp_path):
    lists, videos = tmp_path / "lists", tmp_path / "videos"
    lists.mkdir()
    for name in ("wave", "brush_hair"):
        (videos / name).mkdir(parents=True)
        for i, letter in enumerate("abc"):
            write_video(videos / name / f"{letter}.avi", counting(6 + i))
        (lists / f"{name}_test_split1.txt").write_text("a.avi 1 \nb.avi 2 \nc.avi 0 \n")
        (lists / f"{name}_test_split2.txt").write_text("a.avi 2 \nb.avi 1 \nc.avi 1 \n")
    assert hmdb51_split(lists)[0] == [("brush_hair/a.avi", 0), ("wave/a.avi", 1)]
    assert [name for name, _ in hmdb51_split(lists, "train", 2)[0]] == [
        "brush_hair/b.avi", "brush_hair/c.avi", "wave/b.avi", "wave/c.avi",
    ]  # fmt: skip
    data = hmdb51(videos, lists, "test", frames=4, sampling="uniform")
    assert data.classes == ["brush_hair", "wave"] and data.counts == [7, 7]
    clip, label = data[1]
    assert (numbers(clip), label) == ([1, 2, 3, 4], 1)
    with pytest.raises(DataError, match=r"expected files \*_test_split3.txt"):
        hmdb51_split(lists, "train", 3)
    (lists / "wave_test_split2.txt").write_text("a.avi 3\n")
    with pytest.raises(DataError, match=r"wave_test_split2.txt: expected 'video.avi' and a flag .* found 'a.avi 3'"):
        hmdb51_split(lists, "train", 2)
    (lists / "wave_test_split2.txt").write_text("../a.avi 1\n")
    with pytest.raises(DataError, match=r"expected 'video.avi'"):
        hmdb51_split(lists, "train", 2)
