"""Every `evaluate` module gives what its plain function gives, through add_batch, offline."""

import os
import subprocess
import sys

import evaluate
import numpy as np
import pytest
import torch

import cf_cxr.metrics as metrics
from cf_cxr.metrics.amplification import amplification, amplification_samples
from cf_cxr.metrics.bootstrap import interval, mean_samples, patient_weights
from cf_cxr.metrics.calibration import expected_calibration_error
from cf_cxr.metrics.cardiothoracic import cardiothoracic_ratio
from cf_cxr.metrics.costophrenic import costophrenic_score
from cf_cxr.metrics.decision_distribution import decision_frechet_distance
from cf_cxr.metrics.distribution import frechet_distance, kernel_distance, kernel_distance_samples
from cf_cxr.metrics.effectiveness import effectiveness, fooling_gap
from cf_cxr.metrics.exaggeration import exaggeration_curve
from cf_cxr.metrics.exposure import exposure_share
from cf_cxr.metrics.identity import identity_preservation
from cf_cxr.metrics.minimality import latent_minimality
from cf_cxr.metrics.paired_tests import change_by_decision
from cf_cxr.metrics.preservation import foreign_object_preservation
from cf_cxr.metrics.soundness import image_distance
from cf_cxr.metrics.true_counterfactual import counterfactual_error
from cf_cxr.metrics.two_sample import two_sample_auc
from cf_cxr.metrics.validity import counterfactual_validity
from tests.metrics.gaussian_toy import GRAPH, SCHEMA

N = 60
OPTIONS = {"n_resamples": 20, "seed": 3}
RNG = np.random.default_rng(0)
PATIENTS = [f"p{i}" for i in RNG.integers(0, 30, N)]
WEIGHTS = patient_weights(PATIENTS, 20, 3)
X, Y = RNG.uniform(-1, 1, (2, N, 1, 6, 6)).astype(np.float32)
MASK = RNG.random((N, 1, 6, 6)) < 0.4
LATENT, LATENT_NEW = RNG.normal(size=(2, N, 5))


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """Nothing outside the test's folder is written."""
    monkeypatch.setattr("evaluate.config.HF_METRICS_CACHE", str(tmp_path))


def classes(kind):
    if kind == "continuous":
        return RNG.uniform(20, 90, N)
    return RNG.permutation(np.arange(N) % (3 if kind == "categorical" else 2))


def predictions(kind):
    if kind == "continuous":
        return RNG.uniform(20, 90, N)
    return RNG.dirichlet([1, 1, 1], N) if kind == "categorical" else RNG.random(N)


def flat(results):
    return {n: v for name, (e, *b) in results.items() for n, v in ((name, e), (f"{name}_interval", b))}


def mean(name, values):
    return flat({name: interval(mean_samples(values, WEIGHTS))})


BY_PATIENT = {"patients": PATIENTS, **OPTIONS}
DRAW = np.random.default_rng(1)
SOURCE, FINAL = DRAW.random((2, N))
HEARTS, NEW_HEARTS = DRAW.random((2, N, 8, 16)) < 0.02


def draw_lungs():
    """Two lungs on 8 rows of 16 pixels, of random depth in every column."""
    depth = DRAW.integers(2, 8, (N, 1, 16))
    return (np.arange(8)[:, None] < depth) & (np.abs(np.arange(16) - 7.5) > 1)


def changes(measure, before, after, **options):
    """Flat results of the paired tests, as the modules give them."""
    groups = change_by_decision(measure(*before), measure(*after), SOURCE, **options, **BY_PATIENT)
    return flat_groups(groups)


def flat_groups(groups):
    out = {}
    for group, result in groups.items():
        for field, value in vars(result).items():
            out |= (
                flat({f"{group}_{field}": value}) if isinstance(value, tuple) else {f"{group}_{field}": value}
            )
            if field == "means":
                out[f"{group}_means"] = [e for e, *_ in value]
                out[f"{group}_means_interval"] = [bounds for _, *bounds in value]
    return out


def explanation_case(name, kind):
    """As `case`, of the metrics of explanations."""
    if name == "exaggeration_curve":
        target, reached = DRAW.random((2, N, 3))
        columns = {"predictions": reached, "references": target, "posteriors": SOURCE}
        options = {"n_bins": 5, "by_source_bin": True}
        return (
            columns,
            options,
            flat_groups(exaggeration_curve(SOURCE, target, reached, **options, **BY_PATIENT)),
        )
    if name == "counterfactual_validity":
        columns = {"predictions": FINAL, "references": SOURCE}
        expected = counterfactual_validity(SOURCE, FINAL, threshold=0.4, **BY_PATIENT)
        return columns, {"threshold": 0.4}, flat(expected)
    if name == "foreign_object_preservation":
        before, after = DRAW.random((2, N, 2, 3)) < 0.3 if kind == "masks" else DRAW.random((2, N)) < 0.5
        out = foreign_object_preservation(before, after, **BY_PATIENT)
        counts = {n: out.pop(n) for n in ("with_object", "without_object")}
        return {"predictions": after, "references": before}, {}, {**flat(out), **counts}
    if name == "identity_preservation":
        out = identity_preservation(LATENT, LATENT_NEW, n_distractors=4, **BY_PATIENT)
        counts = {n: out.pop(n) for n in ("n_distractors", "undefined")}
        options = {"extractor": "toy", "n_distractors": 4}
        return (
            {"predictions": LATENT_NEW, "references": LATENT},
            options,
            {**flat(out), **counts, "extractor": "toy"},
        )
    if name == "decision_frechet_distance":
        columns = {"predictions": LATENT_NEW, "references": LATENT}
        columns |= {"prediction_posteriors": FINAL, "reference_posteriors": SOURCE}
        groups = decision_frechet_distance(LATENT, LATENT_NEW, SOURCE, FINAL)
        return columns, {"extractor": "toy"}, {**flat_groups(groups), "extractor": "toy"}
    lungs, new_lungs = draw_lungs(), draw_lungs()
    if name == "cardiothoracic_ratio":
        columns = {"predictions": NEW_HEARTS, "references": HEARTS}
        columns |= {"thoraxes": new_lungs, "reference_thoraxes": lungs, "posteriors": SOURCE}
        options = {"rises_with_posterior": True}
        expected = changes(cardiothoracic_ratio, (HEARTS, lungs), (NEW_HEARTS, new_lungs), **options)
        return columns, {"width": 16, **options}, expected
    columns = {"predictions": new_lungs, "references": lungs, "posteriors": SOURCE}
    return columns, {"width": 16}, changes(costophrenic_score, (lungs,), (new_lungs,))


def case(name, kind):
    """Columns, further options, and the expected result from the plain functions."""
    if name in EXPLANATIONS:
        return explanation_case(name, kind)
    p, q, value, other = predictions(kind), predictions(kind), classes(kind), classes(kind)
    cell = {"predictions": p, "references": value}
    if name == "effectiveness":
        columns = {**cell, "real_predictions": q, "real_references": other}
        return columns, {}, flat(effectiveness(kind, p, value, q, other, WEIGHTS))
    if name == "amplification":
        samples = amplification_samples(kind, p, q, value, WEIGHTS)
        return {**cell, "real_predictions": q}, {}, flat({"amplification": interval(samples)})
    if name == "fooling_gap":
        return {**cell, "model_predictions": q}, {}, flat(fooling_gap(kind, p, q, value, WEIGHTS))
    if name == "minimality":
        columns = {"predictions": LATENT_NEW, "references": LATENT}
        columns |= {"values": value, "counterfactual_values": other}
        per_image = latent_minimality(kind, LATENT, LATENT_NEW, value, other, n_bins=4)
        expected = {**mean("minimality", per_image), "defined_share": 1 - np.isnan(per_image).mean()}
        return columns, {"n_bins": 4}, expected
    if name == "two_sample_auc":
        films, new_films = DRAW.uniform(-1, 1, (2, N, 32, 32)).astype(np.float32)
        columns = {"references": films, "predictions": new_films}
        columns |= {"reference_values": value, "prediction_values": other}
        columns |= {f"{side}_patients": [f"p{i}" for i in range(N)] for side in ("reference", "prediction")}
        options = {"steps": 2, **OPTIONS}
        out = two_sample_auc(*columns.values(), kind=kind, **options)
        auc = out.pop("two_sample_auc")
        assert 0 < auc[1] < auc[2] and out["bins_left_out"] == []
        return columns, options, {**flat({"two_sample_auc": auc}), **out}
    if name == "calibration_error":
        return cell, {"n_bins": 7}, {"calibration_error": expected_calibration_error(p, value, 7)}
    images = {"predictions": X, "references": Y}
    if name == "composition":
        error = image_distance(X, Y)
        return images, {}, {**mean("composition", error), "composition_max": error.max()}
    if name == "reversibility":
        return images, {}, mean("reversibility", image_distance(X, Y))
    if name == "exposure_share":
        share = exposure_share(torch.tensor(Y), torch.tensor(X)).numpy()
        expected = {"exposure_share_median": np.median(share), "changed_share": 1.0}
        return images, {}, {**mean("exposure_share", share), **expected}
    if name == "true_counterfactual_error":
        inside, outside = counterfactual_error(X, Y, MASK)
        return {**images, "masks": MASK}, {}, mean("error_inside", inside) | mean("error_outside", outside)
    features = {"predictions": LATENT, "references": LATENT_NEW}
    named = {"extractor": "toy"}
    if name == "frechet_distance":
        return features, named, {"frechet_distance": frechet_distance(LATENT, LATENT_NEW), **named}
    return features, named, {"kernel_distance": kernel_distance(LATENT, LATENT_NEW), **named}


EXPLANATIONS = (
    "cardiothoracic_ratio",
    "costophrenic_score",
    "counterfactual_validity",
    "decision_frechet_distance",
    "exaggeration_curve",
    "foreign_object_preservation",
    "identity_preservation",
)

CASES = [
    *((name, None) for name in EXPLANATIONS),
    ("foreign_object_preservation", "masks"),
    *(
        (n, k)
        for n in ("effectiveness", "amplification", "fooling_gap", "minimality", "two_sample_auc")
        for k in ("binary", "categorical", "continuous")
    ),
    ("calibration_error", "binary"),
    ("calibration_error", "categorical"),
    *(
        (n, None)
        for n in (
            "composition",
            "reversibility",
            "exposure_share",
            "true_counterfactual_error",
            "frechet_distance",
            "kernel_distance",
        )
    ),
]


def test_every_module_is_tested():
    assert {name for name, _ in CASES} == set(metrics.NAMES)
    assert sorted(
        p.parent.name for p in metrics.MODULES_FOLDER.glob("*/*.py") if p.stem != "__init__"
    ) == sorted(metrics.NAMES)


def same(result, expected):
    assert set(result) == set(expected)
    for name, value in expected.items():
        if isinstance(value, str):
            assert result[name] == value
        else:
            np.testing.assert_allclose(result[name], value, rtol=1e-6, err_msg=name)


@pytest.mark.parametrize("name, kind", CASES)
def test_module_equals_plain_function(name, kind):
    columns, options, expected = case(name, kind or "binary")
    module = evaluate.load(metrics.module_path(name), kind)
    if "patients" in module.features:
        columns, options = {**columns, "patients": PATIENTS}, {**options, **OPTIONS}
    same(module.compute(**columns, **options), expected)
    for rows in (slice(0, 7), slice(7, 8), slice(8, N)):
        batch = {n: v[rows] for n, v in columns.items()}
        module.add_batch(**{n: torch.tensor(v) if isinstance(v, np.ndarray) else v for n, v in batch.items()})
    same(module.compute(**options), expected)  # the same instance, in chunks, from tensors


@pytest.mark.parametrize("name", metrics.NAMES)
def test_modules_describe_themselves(name):
    module = metrics.load(name)
    assert module.name == name and module.module_type == "metric"
    assert len(module.description) > 80 and "@" in module.citation and "Returns:" in module.inputs_description
    assert "predictions" in module.features
    for column in module.features:
        assert column in module.inputs_description
    assert module.inputs_description in module.compute.__doc__


def amplification_records():
    factual = np.stack([classes(a.kind) for a in SCHEMA], axis=1).astype(float)
    real = {a.name: predictions(a.kind) for a in SCHEMA}
    changed = {k: {a.name: predictions(a.kind) for a in SCHEMA} for k in ("age", "sex")}
    return factual, real, changed


def test_the_amplification_matrix():
    factual, real, changed = amplification_records()
    module = metrics.load("amplification", schema=SCHEMA.to_list(), graph=GRAPH, interventions=["age", "sex"])
    assert "do/age/finding" not in module.features and "do/age/sex" in module.features
    for rows in (slice(0, 25), slice(25, N)):
        module.add_batch(
            factual=factual[rows],
            real={j: p[rows] for j, p in real.items()},
            counterfactual={k: {j: p[rows] for j, p in row.items()} for k, row in changed.items()},
            patients=PATIENTS[rows],
        )
    out = module.compute(**OPTIONS)
    expected = amplification(SCHEMA, GRAPH, real, changed, factual, WEIGHTS)
    assert out["matrix"] == {k: {j: list(i) for j, i in row.items()} for k, row in expected.matrix.items()}
    assert out["mean_abs_auc"] == expected.mean_abs_auc[0]
    assert out["mean_abs_auc_interval"] == list(expected.mean_abs_auc[1:])
    assert out["mean_abs_units"] == {"age": list(expected.mean_abs_units["age"])} and out["undefined"] == []


def test_the_matrix_needs_schema_and_graph():
    with pytest.raises(ValueError, match="schema=..., graph="):
        metrics.load("amplification", "matrix")
    with pytest.raises(KeyError, match="height"):
        metrics.load("amplification", schema=SCHEMA, graph=GRAPH, interventions=["height"])
    module = metrics.load("amplification", schema=SCHEMA, graph=GRAPH, interventions=["age"])
    factual, real, changed = amplification_records()
    with pytest.raises(ValueError, match=r"do\(sex\)"):
        module.add_batch(factual=factual, real=real, counterfactual=changed)
    with pytest.raises(ValueError, match="do/age/site missing"):
        module.add_batch(factual=factual, real=real, counterfactual={"age": {"sex": changed["age"]["sex"]}})


def test_without_patients_every_image_is_one():
    columns, _, _ = case("effectiveness", "binary")
    expected = effectiveness("binary", *columns.values(), weights=patient_weights(np.arange(N), 20, 3))
    same(metrics.load("effectiveness").compute(**columns, **OPTIONS), flat(expected))


@pytest.mark.parametrize("ids", [("a", "b"), (None, None)], ids=["own ids", "same id"])
def test_experiments_side_by_side_do_not_mix(ids):
    modules = [metrics.load("calibration_error", experiment_id=i) for i in ids]
    p, value = predictions("binary"), classes("binary")
    for start in range(0, N, 20):
        for shift, module in enumerate(modules):
            rows = slice(start, start + 20)
            module.add_batch(predictions=p[rows] / (1 + shift), references=value[rows])
    for shift, module in enumerate(modules):
        assert module.compute()["calibration_error"] == expected_calibration_error(p / (1 + shift), value)


def test_one_row_at_a_time_and_in_memory():
    columns, _, expected = case("fooling_gap", "categorical")
    module = metrics.load("fooling_gap", "categorical", keep_in_memory=True)
    for row in range(N):
        module.add(
            prediction=columns["predictions"][row],
            reference=columns["references"][row],
            model_predictions=columns["model_predictions"][row].tolist(),
            patients=PATIENTS[row],
        )
    same(module.compute(**OPTIONS), expected)


def test_sets_of_different_size():
    module = metrics.load("kernel_distance")
    module.add_batch(predictions=LATENT[:20])
    module.add_batch(predictions=LATENT[20:50], references=LATENT_NEW[:10])
    module.add_batch(references=LATENT_NEW[10:14])
    out = module.compute(extractor="toy")
    assert out["kernel_distance"] == pytest.approx(kernel_distance(LATENT[:50], LATENT_NEW[:14]))
    module.add_batch(predictions=LATENT, references=LATENT_NEW[:40])
    out = module.compute(extractor="toy", subset_size=10, n_subsets=5)
    values = kernel_distance_samples(LATENT, LATENT_NEW[:40], subset_size=10, n_subsets=5)
    assert out["kernel_distance_std"] == pytest.approx(values.std())


def test_films_of_different_number():
    columns, options, _ = case("two_sample_auc", "binary")
    real = {n: v[:50] for n, v in columns.items() if n.startswith("reference")}
    fake = {n: v for n, v in columns.items() if n.startswith("prediction")}
    expected = two_sample_auc(*(v[:50] if n in real else v for n, v in columns.items()), **options)
    module = metrics.load("two_sample_auc")
    module.add_batch(**real)
    module.add_batch(**fake)
    out = module.compute(**options)
    assert out["two_sample_auc"] == pytest.approx(expected["two_sample_auc"][0])
    module.add_batch(**real | fake | {"prediction_values": fake["prediction_values"][:40]})
    with pytest.raises(ValueError, match="predictions, prediction_values, .* same number of rows"):
        module.compute(**options)


def test_combine():
    both = evaluate.combine([metrics.load("composition"), metrics.load("reversibility")])
    both.add_batch(predictions=X, references=Y, patients=PATIENTS)
    out = both.compute(**OPTIONS)
    assert out["composition"] == out["reversibility"] == pytest.approx(image_distance(X, Y).mean())


@pytest.mark.parametrize("patients", [{}, {"patients": PATIENTS}], ids=["no patients", "patients"])
def test_combine_with_and_without_optional_inputs(patients):
    rows = {"predictions": FINAL, "references": SOURCE}
    alone = metrics.load("counterfactual_validity").compute(**rows, **patients, **OPTIONS)
    together = evaluate.combine([metrics.load("counterfactual_validity")])
    together.add_batch(**rows, **patients)
    assert together.compute(**OPTIONS) == alone
    for row in range(N):
        together.add(FINAL[row], SOURCE[row], **{name: values[row] for name, values in patients.items()})
    assert together.compute(**OPTIONS) == alone


def test_combine_names_an_input_that_is_missing():
    with pytest.raises(ValueError, match="exaggeration_curve: posteriors missing"):
        evaluate.combine([metrics.load("exaggeration_curve")]).add_batch(X[:, 0, 0], Y[:, 0, 0])


def test_unknown_names_list_the_known_ones():
    with pytest.raises(ValueError, match="no metric 'fid'.*frechet_distance"):
        metrics.load("fid")
    with pytest.raises(ValueError, match="no configuration 'ordinal'.*binary, categorical, continuous"):
        metrics.load("effectiveness", "ordinal")


@pytest.mark.parametrize(
    "name, columns, message",
    [
        ("composition", {}, "nothing to compute"),
        ("composition", {"predictions": X}, "references missing"),
        ("composition", {"predictions": X, "references": Y[:3]}, "same number of rows"),
        ("composition", {"predictions": X, "references": Y[..., :3]}, "different shapes"),
        ("composition", {"predictions": X[:0], "references": Y[:0]}, "empty batch"),
        ("composition", {"predictions": [1, 2], "references": [1, 2]}, "one vector or image per row"),
        ("composition", {"predictions": X, "references": Y, "n": 2}, "'n'.*options n_resamples, seed"),
        ("exposure_share", {"predictions": X, "references": Y[..., :3]}, "one size"),
        ("frechet_distance", {"predictions": LATENT, "references": LATENT}, "extractor"),
        ("frechet_distance", {"predictions": LATENT, "extractor": "toy"}, "second set is empty"),
        ("calibration_error", {"predictions": [2.0], "references": [1]}, r"\[0, 1\]"),
        ("calibration_error", {"predictions": np.eye(2), "references": [1, 0]}, "one number per row"),
        ("calibration_error", {"predictions": ["x"], "references": [1]}, "predictions must be numbers"),
        (
            "fooling_gap",
            {n: [np.nan] for n in ("predictions", "model_predictions", "references")},
            "judge.*nan",
        ),
        (
            "fooling_gap",
            {n: [None] for n in ("predictions", "model_predictions", "references")},
            "judge.*nan",
        ),
        (
            "minimality",
            {
                "predictions": LATENT,
                "references": LATENT,
                "values": np.zeros(N),
                "counterfactual_values": np.ones(N),
                "distance": "kl",
            },
            r"\(N, 2, D\)",
        ),
    ],
)
def test_bad_input(name, columns, message):
    with pytest.raises(ValueError, match=message):
        metrics.load(name).compute(**columns)


SQUARE = np.ones((2, 4, 4))


@pytest.mark.parametrize(
    "name, columns, message",
    [
        ("counterfactual_validity", {"predictions": [1.7], "references": [0.2]}, "reached: row 0 is 1.7"),
        (
            "exaggeration_curve",
            {"predictions": [[0.2, np.nan]], "references": [[0.1, 0.2]], "posteriors": [0.1]},
            "reached: row 0 is nan",
        ),
        (
            "exaggeration_curve",
            {"predictions": [[0.2]], "references": [[0.1]], "posteriors": [0.1, 0.2]},
            "same number of rows",
        ),
        ("foreign_object_preservation", {"predictions": [0.5], "references": [1]}, "after must be flags"),
        ("identity_preservation", {"predictions": LATENT, "references": LATENT}, "extractor"),
        (
            "decision_frechet_distance",
            {
                "predictions": LATENT,
                "references": LATENT,
                "prediction_posteriors": SOURCE,
                "extractor": "toy",
            },
            "references, reference_posteriors must have the same number of rows",
        ),
        (
            "costophrenic_score",
            {"predictions": SQUARE[:, :3], "references": SQUARE[:, :3], "posteriors": [0.1, 0.2]},
            "12 pixels are not square",
        ),
        (
            "costophrenic_score",
            {"predictions": SQUARE, "references": SQUARE, "posteriors": [0.1, 0.2], "width": 5},
            "rows of width 5",
        ),
        (
            "costophrenic_score",
            {"predictions": SQUARE / 2, "references": SQUARE, "posteriors": [0.1, 0.2]},
            "lungs must be binary",
        ),
    ],
)
def test_bad_explanations(name, columns, message):
    with pytest.raises(ValueError, match=message):
        metrics.load(name).compute(**columns)


def test_explanations_and_real_images_in_different_numbers():
    module = metrics.load("decision_frechet_distance")
    module.add_batch(predictions=LATENT[:40], prediction_posteriors=SOURCE[:40])
    module.add_batch(references=LATENT_NEW, reference_posteriors=FINAL)
    out = module.compute(extractor="toy", equal_numbers=False)
    expected = decision_frechet_distance(LATENT_NEW, LATENT[:40], FINAL, SOURCE[:40], equal_numbers=False)
    assert out["negative_distance"] == pytest.approx(expected["negative"].distance)
    assert out["positive_explanations"] == expected["positive"].explanations


def test_rows_of_different_size_in_two_batches():
    module = metrics.load("composition")
    module.add_batch(predictions=X, references=Y)
    module.add_batch(predictions=X[..., :3], references=Y[..., :3])
    with pytest.raises(ValueError, match="different sizes"):
        module.compute()


def test_a_failed_computation_leaves_nothing_behind(tmp_path):
    module = metrics.load("calibration_error", cache_dir=str(tmp_path))
    with pytest.raises(ValueError):
        module.compute(predictions=[2.0], references=[1])
    assert not list(tmp_path.rglob("*.arrow"))
    assert module.compute(predictions=[1.0], references=[1]) == {"calibration_error": 0}


def test_undefined_is_missing_never_fifty():
    out = metrics.load("effectiveness").compute(
        predictions=[0.1, 0.9], references=[1, 1], real_predictions=[0.1, 0.9], real_references=[0, 1]
    )
    assert np.isnan(out["effectiveness"]) and out["real"] == 100
    out = metrics.load("exposure_share").compute(predictions=X, references=X)
    assert np.isnan(out["exposure_share_median"]) and out["changed_share"] == 0


def test_loads_offline_in_a_fresh_process(tmp_path):
    code = (
        "import socket\n"
        "def refuse(*a, **k): raise OSError('network')\n"
        "socket.socket.connect = socket.getaddrinfo = refuse\n"
        f"import evaluate; m = evaluate.load({metrics.module_path('calibration_error')!r}, 'binary')\n"
        "print(m.compute(predictions=[0.0, 1.0], references=[1, 0])['calibration_error'])"
    )
    environment = {"HF_HOME": str(tmp_path), "PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1"}
    environment["PYTHONPATH"] = os.environ.get("PYTHONPATH", "")
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert run.stdout.strip() == "1.0", run.stderr


def test_the_package_ships_the_module_files():
    """setup.cfg finds packages, that is folders with an __init__.py all the way up."""
    for name in metrics.NAMES:
        assert (metrics.MODULES_FOLDER / name / "__init__.py").exists()
    assert (metrics.MODULES_FOLDER / "__init__.py").exists()
