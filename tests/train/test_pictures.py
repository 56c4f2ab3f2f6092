"""Pictures: pixels stay squares, captions say what is there, and wrong input is named."""

import io

import numpy as np
import pytest
from PIL import Image

from minidl.train import pictures
from minidl.train.pictures import BLUE, ORANGE
from minidl.train.pictures.canvas import WRONG, as_rgb

rng = np.random.default_rng(0)
DIRECTIONS = ["Right", "Left", "Down", "Up"]
RECORDS = [
    {"epoch": e, "step": 10 * e, "train_loss": 2.0**-e, "val_loss": 1.9**-e, "train_accuracy": 1 - 0.5**e}
    for e in range(1, 9)
]
GAN = [
    {"step": i, **{name: 0.1 + abs(float(rng.standard_normal())) for name in ("loss", "g_loss", "d_grad", "g_grad")},
     "d_real": 0.6, "d_fake": 0.4, **({"classes": i // 100} if i % 100 == 0 else {})}
    for i in range(1, 600)
]  # fmt: skip
GREY = rng.random((6, 8, 8))
SOME = {
    "grid": lambda: pictures.image_grid(GREY, "Images", "below", labels=range(6)),
    "coloured grid": lambda: pictures.image_grid(rng.random((17, 3, 32, 32)), "Images"),
    "confusions": lambda: pictures.confusion_matrix([0, 1, 1, 3], [0, 1, 2, 3], DIRECTIONS, "Confusions"),
    "many confusions": lambda: pictures.confusion_matrix(
        np.arange(101), np.arange(101)[::-1], [f"class {i}" for i in range(101)], "Confusions"
    ),
    "curves": lambda: pictures.curves(RECORDS, {"loss": ["train_loss", "val_loss"], "a": ["train_accuracy"]}, "Curves"),
    "gan": lambda: pictures.gan_health(GAN, more={"classes": ["classes"]}),
    "manifold": lambda: pictures.manifold(rng.random((5, 7, 4, 4)), "Codes", "x", (np.arange(7.0), np.arange(5.0))),
    "interpolations": lambda: pictures.interpolations(rng.random((3, 9, 8, 8)), "Walks"),
    "arithmetic": lambda: pictures.arithmetic(
        [("+", "sevens", GREY[:3]), ("-", "ones", GREY[:3])], GREY, "Sums", more=[([(1, "fours", GREY[:1])], GREY[:4])]
    ),
    "films": lambda: pictures.film_strip(
        rng.random((4, 1, 12, 16, 16)), [0, 1, 2, 3], [0, 1, 3, 3], [0.9, 0.8, 0.7, 1.0], DIRECTIONS, "Films"
    ),
}  # fmt: skip


def pixels(figure):
    """(H, W, 3) uint8, by way of a PNG file."""
    return np.asarray(Image.open(io.BytesIO(pictures.png(figure))).convert("RGB"))


def hex_of(color):
    return tuple(int(color[i : i + 2], 16) for i in (1, 3, 5))


def count(picture, color):
    return int((picture == hex_of(color)).all(-1).sum())


def find(picture, tile):
    """Upper left corner of an exact copy of a tile (h, w, 3) uint8, or None."""
    windows = np.lib.stride_tricks.sliding_window_view(picture[..., 0], tile.shape[:2])
    candidates = np.argwhere((windows[..., 0, 0] == tile[0, 0, 0]) & (windows[..., -1, -1] == tile[-1, -1, 0]))
    height, width = tile.shape[:2]
    return next(((y, x) for y, x in candidates if (picture[y : y + height, x : x + width] == tile).all()), None)


def as_tile(image, scale):
    """(H, W) or (H, W, 3) in [0, 1] -> what it must look like, enlarged."""
    rgb = image if image.ndim == 3 else np.stack([image] * 3, -1)
    return np.kron(np.rint(rgb * 255).astype(np.uint8), np.ones((scale, scale, 1), np.uint8))


@pytest.mark.parametrize("name", SOME)
def test_pictures_decode_and_show_something(name):
    picture = pixels(SOME[name]())
    height, width, _ = picture.shape
    assert 100 < height < 2200 and 600 < width < 2300
    ink = (picture < 250).any(2)
    assert 0.01 < ink.mean() < 0.95
    assert (picture[[0, -1]] == 255).all() and (picture[:, [0, -1]] == 255).all()  # nothing is cut off at an edge


def test_images_of_a_grid_are_enlarged_by_whole_numbers():
    levels = rng.integers(0, 256, (6, 8, 8)) / 255
    picture = pixels(pictures.image_grid(levels, "Images", columns=3))
    corners = [find(picture, as_tile(image, 22)) for image in levels]
    ys, xs = sorted({y for y, _ in corners}), sorted({x for _, x in corners})
    assert corners == [(y, x) for y in ys for x in xs] and (len(ys), len(xs)) == (2, 3)


def test_colours_stay_and_ink_is_dark():
    image = rng.integers(0, 256, (1, 16, 16, 3)) / 255
    assert find(pixels(pictures.image_grid(image, "x")), as_tile(image[0], 11)) is not None
    assert find(pixels(pictures.image_grid(image.transpose(0, 3, 1, 2), "x")), as_tile(image[0], 11)) is not None
    grey = image[..., 0]
    dark = pixels(pictures.image_grid(grey, "x", ink=True))
    assert find(dark, as_tile(1 - grey[0], 11)) is not None


def test_a_manifold_has_no_gaps():
    images = rng.integers(0, 256, (3, 4, 5, 6)) / 255
    whole = images.transpose(0, 2, 1, 3).reshape(15, 24)
    assert find(pixels(pictures.manifold(images, "Codes")), as_tile(whole, 37)) is not None


def test_interpolations_frame_the_ends_only():
    plain = pixels(pictures.interpolations(np.full((2, 5, 8, 8), 0.5), "x", ends=("", "")))
    frames = 2 * 2 * (126**2 - 120**2)  # two rows, two ends, three pixels around 120
    assert count(plain, BLUE) == frames


def test_equations_have_as_many_images_as_terms_and_result():
    shades = np.arange(1, 12) / 12
    images = np.ones((11, 4, 4)) * shades[:, None, None]
    picture = pixels(pictures.arithmetic([("+", "a", images[:3]), ("-", "b", images[3:5])], images[5:9], "x",
                                         more=[([("-", "c", images[9:10])], images[10:])]))  # fmt: skip
    for shade in shades:
        assert find(picture, as_tile(np.full((4, 4), shade), 19)) is not None


def test_film_strips_mark_what_is_wrong():
    clips = rng.random((2, 5, 16, 16))

    def strip(truths, predictions):
        return pixels(pictures.film_strip(clips, truths, predictions, None, DIRECTIONS, "x"))

    right, wrong = strip([0, 1], [0, 1]), strip([0, 1], [0, 2])
    assert count(right, WRONG) == 0 and count(right, BLUE) > 30
    assert count(wrong, WRONG) > 30 and 0 < count(wrong, BLUE) < count(right, BLUE)


def test_long_clips_show_their_first_and_last_frame():
    clips = np.ones((1, 20, 16, 16)) * (np.arange(20) / 255)[None, :, None, None]
    picture = pixels(pictures.film_strip(clips, [0], [0], title="x", most=4))
    shown = [i for i in range(20) if find(picture, np.full((128, 128, 3), i, np.uint8)) is not None]
    assert shown == [0, 6, 13, 19]


def test_confusions_are_counted():
    truth, predicted = np.array([0, 0, 0, 1, 1, 2]), np.array([0, 0, 1, 1, 1, 0])
    figure = pictures.confusion_matrix(truth, predicted, ["a", "b", "$c_"], "x")
    (axes,) = figure.axes
    cells = {}
    for text in axes.texts:
        x, y = text.get_position()
        cells.setdefault((round(y), round(x)), []).append(text.get_text())
    assert cells == {(0, 0): ["2", "67%"], (0, 1): ["1", "33%"], (1, 1): ["2", "100%"], (2, 0): ["1", "100%"]}
    assert figure.get_supxlabel() == "4 of 6 right, an accuracy of 66.7%. Rows are shares of a true class."
    picture = pixels(figure)
    assert count(picture, "#0d3c66") > 5000 and count(picture, "#8c3a05") > 5000  # shares of one, right and wrong


def test_a_class_that_does_not_occur_is_named_so():
    figure = pictures.confusion_matrix([0, 0], [0, 1], ["a", "b"], "x")
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["a", "b (none)"]


def test_curves_have_the_data_and_the_usual_colours():
    figure = pictures.curves(RECORDS, {"loss": ["train_loss", "val_loss"], "accuracy": ["train_accuracy"]}, "x")
    loss, accuracy = figure.axes
    np.testing.assert_array_equal(loss.lines[1].get_xydata(), [(r["step"], r["val_loss"]) for r in RECORDS])
    assert [line.get_color() for line in loss.lines] == [BLUE, ORANGE]
    assert [line.get_color() for line in accuracy.lines] == [BLUE]
    assert (loss.get_yscale(), accuracy.get_yscale()) == ("log", "linear")
    assert [text.get_text() for text in loss.get_legend().get_texts()] == ["training", "validation"]


def test_gaps_and_many_points():
    records = [{"step": i, "loss": np.sin(i / 50)} for i in range(1000)]
    records[500]["loss"] = float("nan")
    records += [{"step": 1000, "other": 1.0}, {"step": 1001, "loss": float("inf"), "other": None}]
    figure = pictures.curves(records, {"loss": ["loss"], "other": ["other"]}, "x")
    raw, mean = (line.get_ydata() for line in figure.axes[0].lines)
    assert np.isnan(raw[500]) and np.isfinite(mean[500]) and len(raw) == 1001
    np.testing.assert_allclose(mean[300], np.mean([np.sin(i / 50) for i in range(290, 311)]))
    np.testing.assert_allclose(mean[0], np.mean([np.sin(i / 50) for i in range(11)]))
    assert figure.axes[1].lines[0].get_xydata().tolist() == [[1000, 1.0]]
    pictures.png(figure)


def test_gan_health_takes_the_trainers_records_and_tells_the_players_apart():
    figure = pictures.gan_health([{**{f"train_{k}": v for k, v in r.items()}, "step": r["step"]} for r in GAN])
    losses, probabilities, _ = figure.axes
    assert [text.get_text() for text in losses.get_legend().get_texts()] == ["discriminator", "generator"]
    assert len({line.get_color() for line in losses.lines}) == 2
    assert probabilities.get_ylim()[0] < 0 and probabilities.get_ylim()[1] > 1
    with pytest.raises(ValueError, match="has the column 'd_grad'; the records have step, loss, g_loss"):
        pictures.gan_health([{k: v for k, v in GAN[0].items() if k != "d_grad"}])


def test_titles_wrap_and_hold_dollars():
    short = pixels(pictures.image_grid(GREY, "x"))
    long = pixels(pictures.image_grid(GREY, "a $long_ title " * 20, "a $sub^ title " * 30))
    assert long.shape[1] == short.shape[1] and long.shape[0] > short.shape[0] + 100


def test_a_picture_is_the_same_each_time_and_as_a_file(tmp_path):
    pictures.save(SOME["grid"](), tmp_path / "a.png")
    assert (tmp_path / "a.png").read_bytes() == pictures.png(SOME["grid"]())


def test_pixels_that_are_no_numbers_are_red_and_others_clipped():
    image = np.array([[[np.nan, -3.0], [np.inf, 0.25]]])
    rgb = as_rgb("images", image)
    np.testing.assert_array_equal(rgb[0, 1], [[1, 1, 1], [0.25, 0.25, 0.25]])
    np.testing.assert_array_equal(rgb[0, 0, 1], [0, 0, 0])
    red, green, blue = rgb[0, 0, 0]
    assert red > 0.7 and max(green, blue) < 0.3


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: pictures.image_grid(np.zeros((2, 4, 8, 8)), "x"), r"images have the shape \(2, 4, 8, 8\): it must be"),
        (lambda: pictures.image_grid(np.zeros((8, 8)), "x"), r"\(N, H, W\), \(N, 1, H, W\), \(N, 3, H, W\) or"),
        (lambda: pictures.image_grid(np.zeros((0, 8, 8)), "x"), "there is nothing to draw"),
        (lambda: pictures.image_grid(np.zeros((2, 8, 8), np.uint8), "x"), "images are uint8: .* images / 255"),
        (lambda: pictures.image_grid(GREY, "x", labels=["a"]), "1 labels for 6 images"),
        (lambda: pictures.image_grid(GREY, "x", columns=0), "columns is 0"),
        (lambda: pictures.manifold(GREY, "x"), r"it must be \(R, C, H, W\)"),
        (lambda: pictures.manifold(np.zeros((2, 3, 4, 4)), "x", ticks=[1, 2]), "need 3 for columns and 2 for rows"),
        (lambda: pictures.interpolations(np.zeros((2, 1, 4, 4)), "x"), "needs at least two"),
        (lambda: pictures.arithmetic([("*", "a", GREY)], GREY, "x"), r"the sign of a term is '\*'"),
        (lambda: pictures.arithmetic([], GREY, "x"), "no terms"),
        (lambda: pictures.arithmetic([("+", "a", GREY[0])], GREY, "x"), "images of 'a' have the shape"),
        (
            lambda: pictures.film_strip(np.zeros((2, 3, 8, 8)), [0], [0, 1], title="x"),
            "truths has 1 labels for 2 clips",
        ),
        (lambda: pictures.film_strip(np.zeros((1, 3, 8, 8)), [0], [4], None, DIRECTIONS, "x"), "has the label 4"),
        (
            lambda: pictures.film_strip(np.zeros((1, 3, 8, 8)), [0], [0], [1.5], DIRECTIONS, "x"),
            r"between 1.5 and 1.5: they must be in \[0, 1\]",
        ),
        (
            lambda: pictures.confusion_matrix([0], [2], ["a", "b"], "x"),
            "predicted has the label 2: there are 2 classes",
        ),
        (lambda: pictures.confusion_matrix([0], [-1], ["a", "b"], "x"), "predicted has the label -1"),
        (lambda: pictures.confusion_matrix([0.0], [1], ["a", "b"], "x"), r"truth has shape \(1,\) and dtype float64"),
        (lambda: pictures.confusion_matrix([0, 1], [1], ["a", "b"], "x"), "truth has 2 labels and predicted 1"),
        (lambda: pictures.curves(RECORDS, {"a": ["nothing"]}, "x"), "'a' has the column 'nothing'; .* epoch, step"),
        (lambda: pictures.curves([], {"a": ["b"]}, "x"), "nothing to draw: 0 records"),
    ],
)
def test_what_does_not_fit_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
