"""Contact sheets and animations: size, order, marks and what they refuse."""

import numpy as np
import pytest
import torch
from PIL import Image

from cf_cxr.explaining.explanation import ExplanationSeries, build_explanation
from cf_cxr.visualization.explanations import animation, animation_frames, contact_sheet


def made(count=4, flips=True, threshold=0.5, warnings=()):
    """Step i is a flat image of level (i + 1) / 10; the query is black but for a white corner."""
    query = torch.full((1, 16, 16), -0.5)
    query[:, :4, :4] = 1
    images = torch.stack([torch.full((1, 16, 16), 0.1 * (i + 1)) for i in range(count)])
    posteriors = np.linspace(0.1, 0.9 if flips else 0.4, count)
    series = ExplanationSeries(images, torch.linspace(0.15, 0.95, count))
    return build_explanation(
        series, posteriors, query, 0.12, "effusion", method="progressive", name="x/a.png",
        threshold=threshold, warnings=warnings,
    )  # fmt: skip


def has_orange(picture) -> bool:
    """Whether some pixel has the colour of the mark, #D55E00."""
    pixels = np.asarray(picture.convert("RGB")).astype(int)
    return bool((np.abs(pixels - [213, 94, 0]).max(-1) < 12).any())


def test_the_sheet_grows_with_its_explanations():
    one, two = contact_sheet(made()), contact_sheet([made(), made(6)], panel_inches=1.5)
    assert one.mode == "RGB"
    # query, 4 steps, difference, colour bar: panels of 1.5 inches with gaps of 0.06 at 100 pixels per inch
    assert one.width == pytest.approx(6 * 156 + 10 + 85, abs=2)
    assert two.width == pytest.approx(8 * 156 + 10 + 85, abs=2)
    assert 150 + 42 < one.height < 300 and two.height > 1.7 * one.height
    assert contact_sheet(made(), panel_inches=0.8).height < one.height


def test_the_counterfactual_is_framed_and_brighter_is_red():
    sheet = contact_sheet(made())
    assert has_orange(sheet) and not has_orange(contact_sheet(made(flips=False), limit=10.0))
    last = np.asarray(sheet)[-100:-30, 5 * 156 + 60 : 5 * 156 + 150].astype(
        int
    )  # the middle of the difference map
    assert (last[..., 0] - last[..., 2]).min() > 50
    first = np.asarray(sheet)[-60:-30, 60:100]  # the query's lower part: level -0.5 is grey 64
    np.testing.assert_allclose(first, 64, atol=2)


def test_a_caution_and_a_title_are_written():
    plain, cautious = contact_sheet(made()), contact_sheet(made(warnings=["this image is odd. " * 8]))
    assert cautious.height > plain.height
    assert np.asarray(contact_sheet(made(), names=["other"])).tobytes() != np.asarray(plain).tobytes()


def test_file_names_are_drawn_as_they_are():
    sizes = {contact_sheet(made(), names=[name]).size for name in ("$\\frac{$.png", "bad\udcff.png", "a.png")}
    assert len(sizes) == 1


def test_nothing_to_show_is_refused():
    with pytest.raises(ValueError, match="no explanations"):
        contact_sheet([])
    with pytest.raises(ValueError, match="2 names for 1 explanations"):
        contact_sheet(made(), names=["a", "b"])


def test_frames_go_there_and_back():
    frames = animation_frames(made(4), side=128)
    assert len(frames) == 8 and {frame.size for frame in frames} == {(128, 128 + 54)}
    grey = [np.asarray(frame.convert("RGB"))[100, 64, 0] for frame in frames]
    levels = [round((0.1 * (i + 1) + 1) * 127.5) for i in range(4)]
    np.testing.assert_allclose(grey, [64, *levels, *levels[2::-1]], atol=1)
    corner = np.asarray(frames[0].convert("RGB"))[8, 8]
    assert corner.tolist() == [255, 255, 255]
    # the dot of the scale turns orange where the decision has flipped (posteriors 0.1, 0.37, 0.63, 0.9)
    assert [has_orange(frame) for frame in frames] == [False, False, False, True, True, True, False, False]
    assert len({frame.tobytes() for frame in frames[:5]}) == 5


def test_a_single_image_makes_two_frames():
    assert len(animation_frames(made(1), side=64)) == 2


@pytest.mark.parametrize("kind", ["gif", "webp"])
def test_the_file_holds_the_frames(tmp_path, kind):
    from PIL import features

    if kind == "webp" and not features.check("webp"):
        pytest.skip("this Pillow has no WebP")
    path = animation(made(4), tmp_path / f"a.{kind}", side=96)
    with Image.open(path) as file:
        assert file.format == kind.upper() and file.n_frames == 8 and file.size == (96, 150)
        assert file.info.get("loop") == 0
        for index, frame in enumerate(animation_frames(made(4), side=96)):
            file.seek(index)
            np.testing.assert_allclose(
                np.asarray(file.convert("RGB")).astype(int),
                np.asarray(frame.convert("RGB")).astype(int),
                atol=1,
            )


def test_other_formats_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"a .gif or a .webp, not mp4"):
        animation(made(), tmp_path / "a.mp4")
    assert list(tmp_path.iterdir()) == []
    assert animation(made(), tmp_path / "partial", format="gif").is_file()
