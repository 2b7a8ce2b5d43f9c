"""The grid picture: layout, colours and scale of the difference maps, with known answers."""

import numpy as np
import pytest
from PIL import Image

from cf_cxr.images.grey_levels import GREY_LEVELS
from cf_cxr.visualization.counterfactuals import (
    already_so,
    counterfactual_grid,
    describe_changes,
    describe_do,
)
from cf_cxr.visualization.drawing import difference_limit, printable

SIDE = 16


def result(change: float, do: dict | None = None, factual_image=None) -> dict:
    """A pipeline result whose difference is `change` everywhere."""
    factual = factual_image or Image.new("L", (SIDE, SIDE), 100)
    return {
        "image": Image.new("L", (SIDE, SIDE), round(100 + change * GREY_LEVELS)),
        "factual_image": factual,
        "difference": np.full((SIDE, SIDE), change, dtype=np.float32),
        "do": {"sex": "Female"} if do is None else do,
        "attributes": {"age": 63.0, "sex": "Female"},
        "factual_attributes": {"age": 63.0, "sex": "Male"},
        "units": {"age": "years"},
        "given_by": {"age": "argument", "sex": "inferred"},
        "predictions": {
            "before": {"age": {"mean": 61.0, "std": 8.0}, "sex": {"Male": 0.9, "Female": 0.1}},
            "after": {"age": {"mean": 62.0, "std": 8.0}, "sex": {"Male": 0.2, "Female": 0.8}},
        },
    }


def panels(picture: Image.Image, columns: int, column: int, blocks: int = 1, block: int = 0):
    """Colours (RGB) in the middle of an image panel and of the map panel below it."""
    pixels = np.asarray(picture).astype(int)
    width = (pixels.shape[1] - 95) / columns  # the colour bar takes 95 pixels
    x = int((column + 0.5) * width)
    top, height = block * pixels.shape[0] / blocks, pixels.shape[0] / blocks
    return pixels[int(top + 0.27 * height), x], pixels[int(top + 0.8 * height), x]


def test_panels_show_image_and_signed_difference():
    factual = Image.new("L", (SIDE, SIDE), 100)
    block = [result(c, factual_image=factual) for c in (0.4, -0.4, 0.0)]
    picture = counterfactual_grid(block, limit=0.5)
    assert picture.mode == "RGB" and picture.width > 4 * 200  # enlarged from 16 pixels
    assert panels(picture, 4, 0)[0].tolist() == [100, 100, 100]
    grey, brighter = panels(picture, 4, 1)
    assert grey.tolist() == [151, 151, 151]
    assert brighter[0] > brighter[2] + 80  # red
    _, darker = panels(picture, 4, 2)
    assert darker[2] > darker[0] + 80  # blue
    _, none = panels(picture, 4, 3)
    assert none.min() > 240  # white


def test_one_scale_for_all_images():
    strong, weak = [result(0.8)], [result(0.1)]
    picture = counterfactual_grid([strong, weak], names=["a", "b"])
    _, first = panels(picture, 2, 1, blocks=2, block=0)
    _, second = panels(picture, 2, 1, blocks=2, block=1)
    assert first[1] < 60 and second[1] > 180  # dark red beside pale: not normalised one by one


def test_limit_is_symmetric_robust_and_not_too_small():
    lone = np.zeros((100, 100))
    lone[0, 0] = 2
    assert difference_limit([lone]) == pytest.approx(4 / GREY_LEVELS)
    assert difference_limit([np.full((4, 4), -0.5), np.full((4, 4), 0.25)]) == pytest.approx(0.5)


def test_texts():
    assert describe_do({"sex": "Female", "age": 80.0}) == "do(sex=Female, age=80)"
    assert describe_do({}) == "do()"
    assert describe_changes(result(0.1)) == ["P(Female) 0.10 → 0.80"]
    assert describe_changes(result(0.1, do={"age": 63.0}))[0] == "age 61 → 62 years"


def test_file_names_are_drawn_as_they_are():
    """Neither mathematics nor bytes that are no UTF-8 break the picture."""
    names = ["$\\frac{$.png", "bad\udcff.png", "a$b$c.png"]
    sizes = {counterfactual_grid([[result(0.1)]], names=[name]).size for name in names}
    assert len(sizes) == 1
    assert printable(names[1]) == "bad\\xff.png" and printable("Ä.png") == "Ä.png"


def test_an_intervention_that_changes_nothing_is_seen():
    assert already_so(result(0, do={"sex": "Female"})) == []
    assert already_so(result(0, do={"sex": "Male", "age": 63.000001})) == ["sex", "age"]
    assert already_so(result(0, do={"age": 64.0})) == already_so(result(0, do={})) == []


def test_nesting_and_failures():
    shared = result(0.1)
    sizes = [
        counterfactual_grid(results).size
        for results in (shared, [shared], [[shared]], [[shared], {"error": "unreadable", "file": "x.png"}])
    ]
    assert len(set(sizes)) == 1
    two_images = counterfactual_grid([result(0.1), result(0.1)])  # two factual images: two blocks
    assert two_images.height > 1.8 * sizes[0][1]
    with pytest.raises(ValueError, match="no counterfactuals"):
        counterfactual_grid([{"error": "unreadable", "file": "x.png"}])
    with pytest.raises(ValueError, match="2 names for 1 images"):
        counterfactual_grid([[shared]], names=["a", "b"])
