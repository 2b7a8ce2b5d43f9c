"""Pictures of explanations: a contact sheet of the series with what changed, and an animation."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ..explaining.explanation import Explanation, probability_text
from .drawing import (
    check_names,
    difference_limit,
    finish,
    new_figure,
    show_difference,
    show_grey,
    wrapped,
)

MARK = "#D55E00"  # of the counterfactual, the first image across the boundary
_LABEL_INCHES = 0.42  # two lines of caption above a panel
_TITLE_INCHES = 0.2  # a line of the message
_BAR_INCHES = 0.85


def contact_sheet(
    explanations: Explanation | Sequence[Explanation],
    *,
    names: Sequence[str] | None = None,
    limit: float | None = None,
    panel_inches: float = 1.5,
) -> Image.Image:
    """One picture of explanations, a row each.

    A row has the message, and below it the query with the classifier's posterior, the series with the posterior asked
    for and reached (the counterfactual, the first image across the decision boundary, in an orange frame), and the
    difference map, counterfactual - query: red where it is brighter, blue where it is darker. All maps share one
    scale, symmetric about zero and labelled in grey levels of 255.

    Args:
        explanations: one or several.
        names: a title per query; default: `Explanation.name` without its folders.
        limit: end of the colour scale, on the scale of `difference` ([-2, 2]); default: `difference_limit`.
        panel_inches: side of a panel, at 100 pixels per inch; images are enlarged to it.

    Returns:
        An RGB PIL image.

    Raises:
        ValueError: there is nothing to show, or `names` does not fit.
    """
    rows = [explanations] if isinstance(explanations, Explanation) else list(explanations)
    if not rows:
        raise ValueError("There are no explanations to show.")
    names = [Path(e.name).name or e.name for e in rows] if names is None else names
    names = check_names(names, len(rows), "explanations")
    if limit is None:
        limit = difference_limit([e.difference for e in rows])
    columns = 2 + max(len(e) for e in rows)
    width = columns * (panel_inches + 0.06) + 0.1 + _BAR_INCHES
    texts = [[e.message, *(f"Caution: {w}" for w in e.warnings)] for e in rows]
    titles = [wrapped(f"{n}: {' '.join(text)}", int((width - 0.2) * 14)) for n, text in zip(names, texts)]
    heights = [_TITLE_INCHES * len(t) + _LABEL_INCHES + panel_inches + 0.12 for t in titles]
    top = sum(heights) + 0.05
    figure = new_figure(width, top)
    for explanation, title, height in zip(rows, titles, heights):
        maps = _draw_row(figure, explanation, title, top, panel_inches, columns, limit)
        top -= height
    bar = _axes(figure, width - _BAR_INCHES + 0.05, 0.12, 0.14, min(panel_inches, 3.0))
    return finish(figure, maps, bar, "change", 7)


def _draw_row(figure, explanation: Explanation, title, top: float, side: float, columns: int, limit: float):
    """Draws one explanation below `top` (inches from the bottom); returns its difference map."""
    height = figure.get_figheight()
    for line, text in enumerate(title):
        figure.text(
            0.1 / figure.get_figwidth(),
            (top - 0.06 - _TITLE_INCHES * line) / height,
            text,
            parse_math=False,
            va="top",
            fontsize=8.5,
            fontweight="bold" if line == 0 else "normal",
        )
    bottom = top - _TITLE_INCHES * len(title) - _LABEL_INCHES - side

    def panel(column: int, caption: str):
        axes = _axes(figure, 0.1 + column * (side + 0.06), bottom, side, side)
        axes.set_xticks([])
        axes.set_yticks([])
        axes.set_title(caption, fontsize=7.5, pad=3, linespacing=1.25, parse_math=False)
        return axes

    def number(value) -> str:
        return probability_text(float(value), explanation.threshold)

    query = f"query: {number(explanation.source_posterior)}\n{explanation.decision}"
    show_grey(panel(0, query), explanation.source_image)
    steps = zip(explanation.images, explanation.targets, explanation.posteriors)
    for step, (picture, target, reached) in enumerate(steps):
        axes = panel(1 + step, f"target {number(target)}\nreached {number(reached)}")
        show_grey(axes, picture)
        if step == explanation.counterfactual_index:
            for spine in axes.spines.values():
                spine.set(edgecolor=MARK, linewidth=2.5)
    which = "last image" if explanation.counterfactual is None else "counterfactual"
    axes = panel(columns - 1, f"what changed\n{which} − query")
    return show_difference(axes, explanation.difference, limit)


def _axes(figure, left: float, bottom: float, width: float, height: float):
    """Axes at a place in inches from the lower left corner."""
    w, h = figure.get_size_inches()
    return figure.add_axes((left / w, bottom / h, width / w, height / h))


# ---------------------------------------------------------------------------------------------- animation

_GREYS = 248  # of the 256 colours of a GIF; the rest draw the text and the scale
_COLOURS = {"white": (255, 255, 255), "grey": (130, 130, 130), "mark": (213, 94, 0), "blue": (86, 180, 233)}
_FOOT = 54  # pixels below the picture
_HOLD, _STEP = 1200, 280  # milliseconds of the first and last frame, and of the others


def animation_frames(explanation: Explanation, side: int = 384) -> list[Image.Image]:
    """The query, the series, and the series back: 2 S frames for S images.

    Below each picture a scale from 0 to 1 has the decision boundary (tick), the posterior asked for (ring) and reached
    (dot, orange where the decision has flipped).

    Args:
        explanation: what to show.
        side: of the picture in pixels; a frame is `(side, side + 54)`.

    Returns:
        Images of mode P with one palette: 248 greys and the colours of the scale.
    """
    series = range(len(explanation))
    order = [None, *series, *reversed(series[:-1])]
    return [_frame(explanation, step, side) for step in order]


def animation(
    explanation: Explanation, path: str | os.PathLike, *, side: int = 384, format: str | None = None
) -> Path:
    """Writes the explanation as an endless animation, there and back.

    Args:
        explanation: what to show.
        path: ends in `.gif` or `.webp`.
        side: of the picture in pixels.
        format: `"gif"` or `"webp"`, where the name does not say it.

    Raises:
        ValueError: for another format.
    """
    path = Path(path)
    kind = (format or path.suffix.lstrip(".")).lower()
    if kind not in ("gif", "webp"):
        raise ValueError(f"An animation is a .gif or a .webp, not {kind or 'without ending'}: {path}.")
    first, *others = animation_frames(explanation, side)
    durations = [_HOLD] + [_STEP] * len(others)
    durations[len(explanation)] = _HOLD
    if kind == "webp":
        first, others = first.convert("RGB"), [frame.convert("RGB") for frame in others]
        options = {"lossless": True}
    else:
        options = {"optimize": False, "disposal": 1}
    first.save(
        path, format=kind.upper(), save_all=True, append_images=others, duration=durations, loop=0, **options
    )
    return path


def _frame(explanation: Explanation, step: int | None, side: int) -> Image.Image:
    """The query (None) or one image of the series, with its scale."""
    picture = explanation.source_image if step is None else explanation.images[step]
    picture = picture.resize((side, side), Image.Resampling.BICUBIC)
    greys = np.rint(np.asarray(picture, dtype=np.float32) / 255 * (_GREYS - 1)).astype(np.uint8)
    frame = Image.new("P", (side, side + _FOOT))
    frame.paste(Image.frombytes("P", picture.size, greys.tobytes()))
    levels = np.rint(np.linspace(0, 255, _GREYS)).astype(np.uint8)
    palette = np.concatenate(
        [np.repeat(levels, 3), np.array(list(_COLOURS.values()), dtype=np.uint8).ravel()]
    )
    frame.putpalette(palette.tobytes())
    index = {name: _GREYS + i for i, name in enumerate(_COLOURS)}
    draw, font = ImageDraw.Draw(frame), ImageFont.load_default(size=13)
    draw.fontmode = "1"  # no shades between: they would be other colours of the palette

    threshold = explanation.threshold
    reached = explanation.source_posterior if step is None else float(explanation.posteriors[step])
    text = f"{explanation.class_name}: {probability_text(reached, threshold)}   "
    text += (
        "query"
        if step is None
        else f"asked for {probability_text(float(explanation.targets[step]), threshold)}"
    )
    right = f"{0 if step is None else step + 1}/{len(explanation)}"
    draw.text((10, side + 6), text, fill=index["white"], font=font)
    draw.text((side - 10, side + 6), right, fill=index["white"], font=font, anchor="ra")

    left, width, y = 14, side - 28, side + 38
    place = lambda p: left + p * width  # noqa: E731
    draw.line((left, y, left + width, y), fill=index["grey"], width=2)
    draw.line((place(threshold), y - 8, place(threshold), y + 8), fill=index["white"], width=1)
    if step is not None:
        x = place(float(explanation.targets[step]))
        draw.ellipse((x - 7, y - 7, x + 7, y + 7), outline=index["white"])
    flipped = (reached >= threshold) != (explanation.source_posterior >= threshold)
    x, colour = place(reached), index["mark" if flipped else "blue"]
    draw.ellipse((x - 4, y - 4, x + 4, y + 4), fill=colour)
    return frame


__all__ = ["animation", "animation_frames", "contact_sheet"]
