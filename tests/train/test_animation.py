"""Animated GIFs: frames, times, colours, and captions that tell right from wrong."""

import io
from itertools import pairwise

import numpy as np
import pytest
from PIL import Image, ImageSequence

from minidl.train.animation import clips_gif, images_gif
from minidl.train.pictures import BLUE, mosaic
from minidl.train.pictures.canvas import WRONG

rng = np.random.default_rng(0)
DIRECTIONS = ["Right", "Left", "Down", "Up"]
CLIPS = rng.random((6, 5, 16, 16))


def frames_of(gif):
    """Frames (T, H, W, 3) int, and how long each is shown, ms."""
    with Image.open(io.BytesIO(gif)) as opened:
        assert opened.format == "GIF" and opened.info["loop"] == 0  # for ever
        read = [(np.asarray(f.convert("RGB")).astype(int), f.info["duration"]) for f in ImageSequence.Iterator(opened)]
    return np.stack([frame for frame, _ in read]), [time for _, time in read]


def count(picture, color):
    return int((picture == [int(color[i : i + 2], 16) for i in (1, 3, 5)]).all(-1).sum())


def test_size_frames_and_times():
    frames, times = frames_of(clips_gif(CLIPS, DIRECTIONS, columns=4, scale=3, fps=8))
    assert frames.shape == (5, 2 * 48 + 3 * 10, 4 * 48 + 5 * 10, 3)  # two rows of four, no captions
    assert sum(times) == 620 and set(times) <= {120, 130}  # 5/8 s in hundredths, without drift


def test_every_pixel_becomes_a_square():
    frames, _ = frames_of(clips_gif(CLIPS, DIRECTIONS, scale=3))
    for i, clip in enumerate(CLIPS):
        y, x = 10 + i // 4 * 58, 10 + i % 4 * 58
        wanted = np.kron(clip, np.ones((1, 3, 3)))[..., None] * 255
        assert np.abs(frames[:, y : y + 48, x : x + 48] - wanted).max() <= 2
    assert (frames[:, :10] == 255).all() and (frames[:, :, -10:] == 255).all()


def test_colours_survive():
    clips = np.zeros((1, 3, 4, 8, 8))
    clips[0, :, 1], clips[0, 0, 2], clips[0, 2, 3] = 1.0, 1.0, 0.5
    frames, _ = frames_of(clips_gif(clips, DIRECTIONS, scale=2))
    inside = frames[:, 10:26, 10:26].reshape(4, -1, 3)
    assert (inside == inside[:, :1]).all()
    assert np.abs(inside[:, 0] - [[0, 0, 0], [255, 255, 255], [255, 0, 0], [0, 0, 128]]).max() <= 1


def test_short_clips_hold_their_last_frame():
    clips = [rng.random((3, 8, 8)), rng.random((1, 6, 8, 8)), rng.random((1, 8, 8))]
    frames, _ = frames_of(clips_gif(clips, DIRECTIONS, scale=1))
    assert len(frames) == 6
    first, second, third = (frames[:, 10:18, x : x + 8] for x in (10, 28, 46))
    assert (first[3:] == first[2]).all() and (first[0] != first[2]).any()
    assert (third == third[0]).all()
    assert all((a != b).any() for a, b in pairwise(second))


def caption(truth, predicted, sure=None, clips=CLIPS[:1]):
    """The caption of one clip (38, W, 3)."""
    truths = None if truth is None else [truth]
    predictions = None if predicted is None else [predicted]
    frames, _ = frames_of(clips_gif(clips, DIRECTIONS, truths, predictions, None if sure is None else [sure], scale=8))
    assert (frames[:, :48] == frames[0, :48]).all()  # it stands still
    return frames[0, 10:48]


def test_right_and_wrong_differ_in_colour_and_in_form():
    right, wrong = caption(0, 0), caption(1, 0)
    assert count(right, WRONG) == 0 and count(right, BLUE) > 20
    assert count(wrong, BLUE) == 0 and count(wrong, WRONG) > 20
    mark = np.s_[:16, 10:24]
    assert ((right[mark] < 250).any(-1) != (wrong[mark] < 250).any(-1)).sum() > 10  # a tick and a cross, also in grey
    assert (right[17:32] == 255).all() and (wrong[17:32] < 250).any()  # what it is, stands below only if it is wrong


def test_the_caption_names_the_prediction():
    assert (caption(0, 0) != caption(1, 1)).any()
    assert (caption(1, 0)[17:] != caption(2, 0)[17:]).any() and (caption(1, 0)[:17] == caption(2, 0)[:17]).all()
    undecided, truth_only = caption(None, 2), caption(2, None)
    for plain in (undecided, truth_only):
        assert count(plain, BLUE) == count(plain, WRONG) == 0 and (plain < 100).any()


@pytest.mark.parametrize("sure", [0.0, 0.25, 1.0])
def test_the_bar_is_as_long_as_the_probability(sure):
    bar = caption(0, 0, sure)[33:36, 10 : 10 + 128]
    assert count(bar, BLUE) == 3 * round(128 * sure)
    assert count(bar, "#e6e6e6") == 3 * (128 - round(128 * sure))


def test_probabilities_of_all_classes():
    everything = np.array([[0.1, 0.2, 0.7, 0.0]])
    assert clips_gif(CLIPS[:1], DIRECTIONS, [2], [2], everything) == clips_gif(CLIPS[:1], DIRECTIONS, [2], [2], [0.7])


def test_long_names_are_cut_not_spilled():
    names = ["a name that is far too long for so small a clip", "b"]
    frames, _ = frames_of(clips_gif(CLIPS[:2], names, [0, 1], [0, 1], scale=4, columns=2))
    assert (frames[0, :48, 74:84] == 255).all()  # between the clips


def test_default_scale_gives_captions_room():
    small, _ = frames_of(clips_gif(CLIPS[:, :1], DIRECTIONS, [0] * 6, [0] * 6))
    assert small.shape[2] == 4 * 8 * 16 + 50
    large, _ = frames_of(clips_gif(rng.random((4, 1, 112, 400)), DIRECTIONS))
    assert large.shape[2] == 4 * 400 + 50


def test_images_with_labels_and_a_last_one_that_stays():
    frames, times = frames_of(images_gif(rng.random((4, 3, 10, 12)), fps=5, labels=["epoch 1", 2, 3, 4], hold=2))
    assert frames.shape == (4, 400 + 26, 480, 3)
    assert times == [200, 200, 200, 2200]
    assert (frames[0, :26] != frames[1, :26]).any() and (frames[:, :26, -60:] == 255).all()
    mosaics, _ = frames_of(images_gif([mosaic(clip, 5, fill=0) for clip in CLIPS], scale=2))
    assert mosaics.shape == (6, 32, 168, 3)
    assert np.abs(mosaics[3, :32:2, 34:66:2, 0] - CLIPS[3, 1] * 255).max() <= 2


def test_frames_that_are_the_same_keep_their_time():
    frames, times = frames_of(images_gif(np.zeros((5, 4, 4)), fps=10, hold=0))
    assert (len(frames), sum(times)) == (1, 500)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: clips_gif(np.zeros((5, 8, 8)), DIRECTIONS), r"clips have the shape \(5, 8, 8\)"),
        (lambda: clips_gif(np.zeros((2, 2, 5, 8, 8)), DIRECTIONS), r"clip 0 has the shape \(2, 5, 8, 8\)"),
        (lambda: clips_gif([np.zeros((5, 8, 8)), np.zeros((5, 8, 9))], DIRECTIONS), "given: 8 x 8, 8 x 9"),
        (lambda: clips_gif([], DIRECTIONS), "at least one"),
        (lambda: clips_gif([np.zeros((0, 8, 8))], DIRECTIONS), "frames of clip 0 have the shape"),
        (lambda: clips_gif(np.zeros((1, 5, 8, 8), np.uint8), DIRECTIONS), "frames of clip 0 are uint8"),
        (lambda: clips_gif(CLIPS, DIRECTIONS, [0]), "truths has 1 labels for 6 clips"),
        (lambda: clips_gif(CLIPS[:1], DIRECTIONS, None, [4]), "predictions has the label 4: there are 4 classes"),
        (lambda: clips_gif(CLIPS[:1], DIRECTIONS, [0], None, [0.5]), "without predictions"),
        (lambda: clips_gif(CLIPS[:1], DIRECTIONS, [0], [0], [50.0]), "must be in"),
        (lambda: clips_gif(CLIPS[:1], DIRECTIONS, [0], [0], [[0.5]] * 2), r"have shape \(2, 1\): it must be \(1,\)"),
        (lambda: clips_gif(CLIPS, DIRECTIONS, fps=100), "fps is 100: it must be between 0.1 and 50"),
        (lambda: clips_gif(CLIPS, DIRECTIONS, scale=0), "scale is 0"),
        (lambda: clips_gif(CLIPS, DIRECTIONS, scale=1.5), "scale is 1.5: it must be a whole number"),
        (lambda: clips_gif(CLIPS, DIRECTIONS, columns=0), "columns is 0"),
        (lambda: images_gif(np.zeros((2, 8, 8)), labels=["a"]), "1 labels for 2 frames"),
        (lambda: images_gif(np.zeros((2, 8, 8)), hold=-1), "hold is -1"),
        (lambda: images_gif(np.zeros((8, 8))), "frames have the shape"),
    ],
)
def test_what_does_not_fit_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
