"""Pictures of an evaluation: what is drawn equals the numbers, and what is missing is said to be missing."""

import json

import matplotlib
import numpy as np
import pytest
from PIL import Image

from cf_cxr.attributes import AttributeSchema
from cf_cxr.causal_graph import CausalGraph
from cf_cxr.evaluation.plots import write_plots
from cf_cxr.evaluation.plots.clouds import (
    MAX_LOGIT,
    embedding_figure,
    judge_density_figure,
    logit,
    project_embeddings,
)
from cf_cxr.evaluation.plots.comparison import comparison_figure
from cf_cxr.evaluation.plots.films import choose_series, examples_figure, write_examples
from cf_cxr.evaluation.plots.frame import MAX_BYTES, TRAINING_JUDGE_NOTE, number_text, write_png
from cf_cxr.evaluation.plots.scores import amplification_figure, effectiveness_figure
from cf_cxr.visualization.drawing import DIFFERENCE_COLOURS

N, SIDE, NAN = 40, 16, float("nan")
SCHEMA = AttributeSchema(
    [
        {"name": "age", "kind": "continuous", "minimum": 0, "maximum": 100, "unit": "years"},
        {"name": "sex", "kind": "binary", "categories": ["Male", "Female"]},
        {"name": "site", "kind": "categorical", "categories": ["A", "B", "C"]},
        {"name": "ratio", "kind": "continuous", "minimum": 0, "maximum": 1},
        {"name": "finding", "kind": "binary", "categories": ["No Finding", "Effusion"]},
    ]
)
GRAPH = CausalGraph({"age": [], "sex": [], "site": [], "ratio": [], "finding": ["age"]})
DOS = ("age", "sex", "site")
CHANGES = {"age": 38, "sex": -13, "site": 0}  # of the example images, in grey levels
FILES = ["effectiveness.png", "amplification.png", "judge_densities.png", "embedding_pca.png", "examples.png"]


def records(seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)

    def predictions(attributes):
        categorical = np.eye(3)[attributes[:, 2].astype(int)] * 0.7 + 0.1
        binary = {j: np.clip(0.1 + 0.8 * attributes[:, SCHEMA.index(j)], 0, 1) for j in ("sex", "finding")}
        return {"age": attributes[:, 0] + 3, "ratio": attributes[:, 3], "site": categorical, **binary}

    n, age, ratio = np.arange(N), rng.uniform(20, 90, N), rng.uniform(0, 1, N)
    out = {
        "factual": np.stack([age, n % 2, n % 3, ratio, n // 4 % 2], 1),
        "real/embedding": rng.normal(size=(N, 6)) * [5, 3, 1, 1, 1, 1],
    }
    out |= {f"real/judge/{j}": p for j, p in predictions(out["factual"]).items()}
    for k in DOS:
        changed = out["factual"].copy()
        changed[:, SCHEMA.index(k)] = np.roll(changed[:, SCHEMA.index(k)], 1)
        out[f"do/{k}/attributes"] = changed
        out[f"do/{k}/embedding"] = out["real/embedding"] + 1
        out |= {f"do/{k}/judge/{j}": p for j, p in predictions(changed).items()}
    return out


def results() -> dict:
    effectiveness = {"age": [8.0, 7.5, 8.6], "sex": [97.0, 96.0, 98.0], "site": [91.0, 90.0, 93.0]}
    amplification = {
        "age": {"sex": [-1.5, -2.0, -0.9], "site": [3.0, 2.0, 4.5], "ratio": [0.1, 0.05, 0.2]},
        "sex": {"age": [-0.5, -0.8, -0.1], "site": [NAN] * 3, "ratio": [0.2, 0.1, 0.3], "finding": None},
        "site": {
            "age": [0.4, 0.1, 0.7],
            "sex": [2.0, 1.0, 2.5],
            "ratio": [0.0] * 3,
            "finding": [5.0, NAN, NAN],
        },
    }
    rows = {k: {"effectiveness": effectiveness[k], "amplification": amplification[k]} for k in DOS}
    real = {"age": [6.0, 5.5, 6.4], "sex": [93.0, 92.0, 94.5], "site": [88.0, 87.0, 90.0]}
    real |= {"ratio": [0.3, 0.2, 0.35], "finding": [85.0, 80.0, 89.0]}
    return {
        "real": real,
        "do": rows,
        "mean_abs_amplification": {"auc_points": [2.9, 2.0, 3.5]},
        "identity": {"judge_is_training_classifier": False},
    }


def examples(count: int = 2, side: int = SIDE) -> dict[str, np.ndarray]:
    rng, data = np.random.default_rng(1), records()
    image = rng.integers(64, 192, (count, 1, side, side))
    out = {"image": image.astype(np.uint8), "factual": data["factual"][:count]}
    for k, change in CHANGES.items():
        out[f"do/{k}/image"] = (image + change).astype(np.uint8)
        out[f"do/{k}/attributes"] = data[f"do/{k}/attributes"][:count]
    return out


def drawn_bars(figure) -> dict[str, float]:
    return {p.get_gid(): p.get_height() for axes in figure.axes for p in axes.patches if p.get_gid()}


def drawn_whiskers(figure) -> dict[str, tuple[float, float]]:
    out = {}
    for axes in figure.axes:
        for lines in axes.collections:
            if (lines.get_gid() or "").startswith("whisker/"):
                ((x0, y0), (x1, y1)) = lines.get_segments()[0]
                out[lines.get_gid().removeprefix("whisker/")] = (y0, y1) if x0 == x1 else (x0, x1)
    return out


def texts(figure) -> list[str]:
    return [t.get_text() for t in figure.texts] + [t.get_text() for axes in figure.axes for t in axes.texts]


def figures(data):
    """Every figure of an evaluation of counterfactuals."""
    return (
        effectiveness_figure(SCHEMA, GRAPH, data),
        amplification_figure(SCHEMA, GRAPH, data),
        judge_density_figure(records(), SCHEMA, data),
        embedding_figure(records(), SCHEMA, data),
        examples_figure(examples(), SCHEMA, data),
        examples_figure({k: v for k, v in examples().items() if "do/" not in k or "sex" in k}, SCHEMA, data),
    )


def test_files_are_sensible_pictures(tmp_path):
    """Also of results as they are read from results.json, and in the package's own style, whatever the user's is."""
    data = records() | {f"examples/{k}": v for k, v in examples().items()}
    with matplotlib.rc_context({"axes.facecolor": "black", "text.color": "white"}):
        write_plots(tmp_path / "new", data, SCHEMA, GRAPH, json.loads(json.dumps(results())))
    assert {path.name for path in (tmp_path / "new").iterdir()} == set(FILES)
    for path in (tmp_path / "new").iterdir():
        picture = Image.open(path)
        assert picture.format == "PNG" and "transparency" not in picture.info and picture.mode in ("RGB", "P")
        assert 500 <= picture.width <= 1800 and 250 <= picture.height <= 2400
        assert path.stat().st_size <= MAX_BYTES
        colours = np.asarray(picture.convert("RGB"))
        assert colours[0, -1].tolist() == [255, 255, 255] and colours.std() > 10
        assert path.name == "examples.png" or colours.mean() > 200


def test_noisy_large_examples_stay_small(tmp_path):
    path = write_examples(tmp_path / "e.png", examples(4, 192), SCHEMA, results())
    assert path.stat().st_size <= MAX_BYTES and Image.open(path).width > 400


def test_effectiveness_bars_are_the_numbers():
    figure = effectiveness_figure(SCHEMA, GRAPH, results())
    bars, whiskers = drawn_bars(figure), drawn_whiskers(figure)
    assert bars["sex/sex/real"] == 93 and whiskers["sex/sex/real"] == (92, 94.5)
    assert bars["sex/sex/counterfactual"] == 97 and whiskers["sex/sex/counterfactual"] == (96, 98)
    assert bars["age/age/counterfactual"] == 8 and whiskers["age/age/counterfactual"] == (7.5, 8.6)
    assert bars["age/sex/counterfactual"] == pytest.approx(93 - 1.5)  # real + amplification
    assert whiskers["age/sex/counterfactual"] == pytest.approx((91, 92.1))
    assert bars["site/finding/counterfactual"] == 90 and "site/finding/counterfactual" not in whiskers
    assert not any(name.startswith("age/finding") for name in bars)  # a descendant
    assert "finding under do(age)" in " ".join(texts(figure)).replace("\n", " ")
    stars = [t for t in texts(figure) if t.endswith(" ★")]
    assert sorted(stars) == ["8.00 ★", "91.0 ★", "97.0 ★"]


def test_amplification_bars_are_the_numbers():
    figure = amplification_figure(SCHEMA, GRAPH, results())
    bars, whiskers = drawn_bars(figure), drawn_whiskers(figure)
    cells = [(k, j, i) for k, row in results()["do"].items() for j, i in row["amplification"].items()]
    expected = {f"{k}/{j}/difference": i for k, j, i in cells if i and np.isfinite(i[0])}
    assert bars == {name: i[0] for name, i in expected.items()}
    assert whiskers == {name: tuple(i[1:]) for name, i in expected.items() if np.isfinite(i[1])}
    assert "mean |·| 2.90 [2.00, 3.50]" in figure.axes[0].get_title()
    for axes in figure.axes:
        assert any(np.allclose(line.get_ydata(), 0) for line in axes.lines)  # zero line
        low, high = axes.get_ylim()
        assert low < 0 < high


def test_units_are_never_mixed_and_missing_values_are_said_to_be_missing():
    for draw, which in ((effectiveness_figure, "counterfactual"), (amplification_figure, "difference")):
        figure = draw(SCHEMA, GRAPH, results())
        shown = [{p.get_gid().split("/")[1] for p in axes.patches if p.get_gid()} for axes in figure.axes]
        assert shown[0] == {"sex", "site", "finding"} and {"age"} in shown and {"ratio"} in shown
        assert len(shown) == 3
        assert any("years" in axes.get_ylabel() for axes in figure.axes[1:])
        assert "AUC" in figure.axes[0].get_ylabel() and "years" not in figure.axes[0].get_ylabel()
        marks = [t for axes in figure.axes for t in axes.texts if t.get_text() == "n/a"]
        assert {t.get_gid() for t in marks} == {f"sex/site/{which}", f"sex/finding/{which}"}
        assert not {t.get_gid() for t in marks} & set(drawn_bars(figure))
        for mark in marks:  # inside the axes
            low, high = mark.axes.get_ylim()
            assert low <= mark.xy[1] < high


def test_training_judge_is_noted_on_every_figure():
    data = results()
    assert not any(TRAINING_JUDGE_NOTE in texts(figure) for figure in figures(data))
    data["identity"]["judge_is_training_classifier"] = True
    for figure in figures(data):
        (note,) = [t for t in figure.texts if t.get_text() == TRAINING_JUDGE_NOTE]
        box = note.get_window_extent(figure.canvas.get_renderer())
        width, height = figure.bbox.size
        assert box.x0 >= 0 and box.x1 <= width and box.y1 <= height  # in the picture


def test_scores_below_chance_move_the_axis():
    data = results()
    assert effectiveness_figure(SCHEMA, GRAPH, data).axes[0].get_ylim()[0] == 50
    data["do"]["sex"]["effectiveness"] = [6.0, 4.0, 9.0]
    assert effectiveness_figure(SCHEMA, GRAPH, data).axes[0].get_ylim()[0] == 0


def test_many_attributes_stay_readable():
    names = "age|cardiothoracic ratio|cardiomegaly|view position|manufacturer|pleural effusion".split("|")
    ranges = [{"minimum": 0, "maximum": 100, "unit": "years"}, {"minimum": 0, "maximum": 1}]
    kinds = [{"kind": "continuous", **r} for r in ranges]
    kinds += [{"kind": "binary", "categories": ["no", "yes"]}] * 4
    schema = AttributeSchema([{"name": n, **k} for n, k in zip(names, kinds)])
    graph = CausalGraph({n: [] for n in names})
    score = {n: [90.0, 89.0, 91.0] for n in names} | {"age": [7.0, 6.0, 8.0], names[1]: [0.012, 0.01, 0.02]}
    small = {j: [-0.004, -0.1, 0.1] for j in names}
    rows = {k: {"effectiveness": score[k], "amplification": small} for k in names}
    figure = effectiveness_figure(schema, graph, {"real": score, "do": rows})
    figure.canvas.draw()
    render, width = figure.canvas.get_renderer(), figure.bbox.width
    boxes = [axes.get_window_extent(render) for axes in figure.axes]
    assert len(boxes) == 3 and boxes[0].y0 > boxes[1].y1 and boxes[1].y0 > boxes[2].y1  # below one another
    legend = figure.legends[0].get_window_extent(render)
    assert 0 <= legend.x0 and legend.x1 <= width and legend.y1 < boxes[2].y0
    for axes in figure.axes:
        ticks = axes.get_xticklabels()
        boxes = [label.get_window_extent(render) for label in ticks]
        assert all(a.x1 < b.x0 or tick.get_rotation() for a, b, tick in zip(boxes, boxes[1:], ticks))
    assert "0.0120 ★" in texts(figure)  # small numbers keep their digits
    assert number_text(-0.004) == "0.00" and number_text(-3.14159) == "−3.14" and number_text(97.44) == "97.4"


def test_densities_integrate_to_one():
    assert logit([0.5, 0.0, 1.0, 1e-9]).tolist() == [0, -8, 8, -8]
    assert logit(1 / (1 + np.exp(-3.0))) == pytest.approx(3)
    figure = judge_density_figure(records(), SCHEMA, results())
    rows = {axes.get_gid(): axes for axes in figure.axes if axes.get_gid()}
    shown = ("age/years", "sex/Male", "sex/Female", "site/A", "site/B", "site/C")
    assert set(rows) == {f"density/{x}" for x in shown}
    for axes in rows.values():
        steps = {p.get_gid(): p.get_data() for p in axes.patches if p.get_gid()}
        assert set(steps) == {"real", "counterfactual"}
        for data in steps.values():
            assert (data.values * np.diff(data.edges)).sum() == pytest.approx(1)


def test_densities_show_the_intervened_class():
    data, exaggerated = records(), 0.999
    data["do/sex/judge/sex"] = np.where(data["do/sex/attributes"][:, 1] == 1, exaggerated, 1 - exaggerated)
    data["do/site/judge/site"] = np.full((N, 3), [1.0, 0.0, 0.0])  # saturated
    figure = judge_density_figure(data, SCHEMA, results())
    lines = [(axes.get_gid(), line) for axes in figure.axes for line in axes.lines if line.get_gid()]
    medians = {(where, line.get_gid()): line.get_xdata()[0] for where, line in lines}
    assert medians["density/sex/Female", "median/real"] == pytest.approx(np.log(9))
    assert medians["density/sex/Female", "median/counterfactual"] == pytest.approx(np.log(999))
    assert medians["density/sex/Male", "median/counterfactual"] == pytest.approx(-np.log(999))
    assert medians["density/site/A", "median/counterfactual"] == MAX_LOGIT
    assert medians["density/site/B", "median/counterfactual"] == -MAX_LOGIT
    assert medians["density/age/years", "median/real"] == pytest.approx(3)  # judge minus intended
    data["do/site/attributes"][:, 2] = np.minimum(data["do/site/attributes"][:, 2], 1)  # never to C
    (axes,) = [
        a for a in judge_density_figure(data, SCHEMA, results()).axes if a.get_gid() == "density/site/C"
    ]
    assert [t.get_text() for t in axes.texts] == ["counterfactual: n/a"]


def test_projection_is_fitted_to_real_images_only():
    data = records()
    before = project_embeddings(data, DOS)
    for k in DOS:
        data[f"do/{k}/embedding"] = data[f"do/{k}/embedding"] * 50 + 7
    after = project_embeddings(data, DOS)
    np.testing.assert_array_equal(before.real, after.real)
    assert np.abs(after.counterfactual["sex"]).max() > 20 * np.abs(before.counterfactual["sex"]).max()
    # the first axis has the largest variance, and real coordinates are centred
    assert before.real.std(0)[0] > before.real.std(0)[1] and np.allclose(before.real.mean(0), 0)
    assert 0.5 < before.share.sum() <= 1
    # a counterfactual equal to its real image lies on it
    data["do/sex/embedding"] = data["real/embedding"]
    np.testing.assert_allclose(project_embeddings(data, DOS).counterfactual["sex"], after.real)


def test_group_means_in_the_embedding():
    data = records()
    figure = embedding_figure(data, SCHEMA, results())
    means = {c.get_gid(): c.get_offsets()[0] for axes in figure.axes for c in axes.collections if c.get_gid()}
    xy = project_embeddings(data, DOS)
    np.testing.assert_allclose(means["mean/real/sex/Female"], xy.real[data["factual"][:, 1] == 1].mean(0))
    intended = data["do/site/attributes"][:, 2]
    expected = xy.counterfactual["site"][intended == 2].mean(0)
    np.testing.assert_allclose(means["mean/counterfactual/site/C"], expected)
    assert sum(name.startswith("mean/real/age/") for name in means) == 3  # terciles


def test_difference_maps_share_a_symmetric_scale():
    figure = examples_figure(examples(), SCHEMA, results())
    shown = [axes.images[0] for axes in figure.axes if axes.images]
    maps = [image for image in shown if image.get_cmap().name == DIFFERENCE_COLOURS]
    assert len(maps) == 2 * len(DOS) and len(shown) == len(maps) + 2 * (1 + len(DOS))
    limits = {image.get_clim() for image in maps}
    assert len(limits) == 1
    low, high = limits.pop()
    assert low == -high and high == pytest.approx(38)
    for image, change in zip(maps, CHANGES.values()):
        np.testing.assert_allclose(image.get_array(), change, atol=high / 128)
    colours = maps[2].to_rgba(np.zeros(1))[0]
    assert min(colours[:3]) > 0.95  # no change is white
    titles = [axes.get_title() for axes in figure.axes]
    assert "do(sex=Female)" in titles or "do(sex=Male)" in titles
    assert sum(title.startswith("do(age=") for title in titles) == 2


NUMBERS = {"distance": (85.0, 80.0, 88.0), "amplification": (0.5, 0.3, 0.8), "error": (9.0, 8.5, 9.5)}
ROWS = [
    {"name": "no CFT", **NUMBERS},
    {"name": "hard", "distance": (0.4, 0.1, 0.9), "amplification": (NAN, NAN, NAN), "error": None},
]


def test_comparison_is_the_numbers(tmp_path):
    figure = comparison_figure(ROWS)
    assert [axes.get_gid() for axes in figure.axes] == [f"comparison/{name}" for name in NUMBERS]
    lines = [line for axes in figure.axes for line in axes.lines if line.get_gid()]
    points = {line.get_gid(): line.get_xydata()[0].tolist() for line in lines}
    first = {f"{name}/no CFT": [interval[0], 0] for name, interval in NUMBERS.items()}
    assert points == first | {"distance/hard": [0.4, 1]}
    assert drawn_whiskers(figure)["distance/hard"] == (0.1, 0.9)
    missing = [t.get_gid() for axes in figure.axes for t in axes.texts if t.get_text() == "n/a"]
    assert missing == ["amplification/hard", "error/hard"]
    assert len(comparison_figure([{**row, "error": None} for row in ROWS]).axes) == 2  # without ground truth
    path = write_png(tmp_path / "c.png", figure)
    assert Image.open(path).width > 900 and path.stat().st_size <= MAX_BYTES


def test_series_show_both_decisions_and_devices_in_every_other_image():
    device = np.array([1, 1, 1, 0, 0, 1, 0, 0], bool)
    data = {"examples/query": np.zeros((8, 4, 4)), "masks/devices/source": device[:, None].astype(np.uint8)}
    data["source_posterior"] = np.array([0.1, 0.2, 0.3, 0.4, 0.6, 0.7, 0.8, 0.9])
    assert choose_series(data, 0.5, 6) == [0, 5, 3, 4, 1, 6]
    assert choose_series({**data, "examples/query": []}, 0.5, 6) == []
