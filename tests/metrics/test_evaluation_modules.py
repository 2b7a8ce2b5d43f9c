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
BY_PATIENT = {"patients": PATIENTS, **OPTIONS}
WEIGHTS = patient_weights(PATIENTS, 20, 3)
X, Y = RNG.uniform(-1, 1, (2, N, 1, 6, 6)).astype(np.float32)
MASK = RNG.random((N, 1, 6, 6)) < 0.4
OBJECTS, NEW_OBJECTS = RNG.random((2, N, 2, 3)) < 0.3
LATENT, LATENT_NEW = RNG.normal(size=(2, N, 5))
FILMS, NEW_FILMS = RNG.uniform(-1, 1, (2, N, 32, 32)).astype(np.float32)
SOURCE, FINAL = RNG.random((2, N))
TARGET, REACHED = RNG.random((2, N, 3))
HEARTS, NEW_HEARTS = RNG.random((2, N, 8, 16)) < 0.02
DEPTH = RNG.integers(2, 8, (2, N, 1, 16))  # two lungs on 8 rows of 16 pixels, of random depth in every column
LUNGS, NEW_LUNGS = (np.arange(8)[:, None] < DEPTH) & (np.abs(np.arange(16) - 7.5) > 1)
KINDS = ("binary", "categorical", "continuous")
VALUE, OTHER = (
    {
        "binary": RNG.permutation(np.arange(N) % 2),
        "categorical": RNG.permutation(np.arange(N) % 3),
        "continuous": RNG.uniform(20, 90, N),
    }
    for _ in range(2)
)
P, Q = (
    {
        "binary": RNG.random(N),
        "categorical": RNG.dirichlet([1, 1, 1], N),
        "continuous": RNG.uniform(20, 90, N),
    }
    for _ in range(2)
)
FEATURES = {"predictions": LATENT, "references": LATENT_NEW}
IMAGES = {"predictions": X, "references": Y}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """Nothing outside the test's folder is written."""
    monkeypatch.setattr("evaluate.config.HF_METRICS_CACHE", str(tmp_path))


def mean(name, values):
    return {name: interval(mean_samples(values, WEIGHTS))}


def minimality(kind):
    per_image = latent_minimality(kind, LATENT, LATENT_NEW, VALUE[kind], OTHER[kind], n_bins=4)
    return {**mean("minimality", per_image), "defined_share": 1 - np.isnan(per_image).mean()}


def two_sample(kind, rows=N, **options):
    names = [f"p{i}" for i in range(N)]
    columns = {"references": FILMS[:rows], "predictions": NEW_FILMS}
    columns |= {"reference_values": VALUE[kind][:rows], "prediction_values": OTHER[kind]}
    columns |= {"reference_patients": names[:rows], "prediction_patients": names}
    out = two_sample_auc(*columns.values(), kind=kind, steps=2, **OPTIONS)
    assert 0 < out["two_sample_auc"][1] < out["two_sample_auc"][2] and out["bins_left_out"] == []
    return columns, {"steps": 2, **OPTIONS}, out


def exposure():
    share = exposure_share(torch.tensor(Y), torch.tensor(X)).numpy()
    return {**mean("exposure_share", share), "exposure_share_median": np.median(share), "changed_share": 1.0}


EXTRACTOR = {"extractor": "toy"}
# name -> kind -> columns, options, what the plain function says
CASES = {
    "amplification": lambda k: (
        {"predictions": P[k], "references": VALUE[k], "real_predictions": Q[k]}, {},
        {"amplification": interval(amplification_samples(k, P[k], Q[k], VALUE[k], WEIGHTS))},
    ),
    "calibration_error": lambda k: (
        {"predictions": P[k], "references": VALUE[k]}, {"n_bins": 7},
        {"calibration_error": expected_calibration_error(P[k], VALUE[k], 7)},
    ),
    "cardiothoracic_ratio": lambda k: (
        {"predictions": NEW_HEARTS, "references": HEARTS, "thoraxes": NEW_LUNGS, "reference_thoraxes": LUNGS,
         "posteriors": SOURCE},
        {"width": 16, "rises_with_posterior": True},
        change_by_decision(cardiothoracic_ratio(HEARTS, LUNGS), cardiothoracic_ratio(NEW_HEARTS, NEW_LUNGS), SOURCE,
                           rises_with_posterior=True, **BY_PATIENT),
    ),
    "composition": lambda k: (
        IMAGES, {}, {**mean("composition", image_distance(X, Y)), "composition_max": image_distance(X, Y).max()}
    ),
    "costophrenic_score": lambda k: (
        {"predictions": NEW_LUNGS, "references": LUNGS, "posteriors": SOURCE}, {"width": 16},
        change_by_decision(costophrenic_score(LUNGS), costophrenic_score(NEW_LUNGS), SOURCE, **BY_PATIENT),
    ),
    "counterfactual_validity": lambda k: (
        {"predictions": FINAL, "references": SOURCE}, {"threshold": 0.4},
        counterfactual_validity(SOURCE, FINAL, threshold=0.4, **BY_PATIENT),
    ),
    "decision_frechet_distance": lambda k: (
        {**FEATURES, "prediction_posteriors": FINAL, "reference_posteriors": SOURCE}, EXTRACTOR,
        {**decision_frechet_distance(LATENT_NEW, LATENT, SOURCE, FINAL), **EXTRACTOR},
    ),
    "effectiveness": lambda k: (
        {"predictions": P[k], "references": VALUE[k], "real_predictions": Q[k], "real_references": OTHER[k]}, {},
        effectiveness(k, P[k], VALUE[k], Q[k], OTHER[k], WEIGHTS),
    ),
    "exaggeration_curve": lambda k: (
        {"predictions": REACHED, "references": TARGET, "posteriors": SOURCE}, {"n_bins": 5, "by_source_bin": True},
        exaggeration_curve(SOURCE, TARGET, REACHED, 5, by_source_bin=True, **BY_PATIENT),
    ),
    "exposure_share": lambda k: (IMAGES, {}, exposure()),
    "fooling_gap": lambda k: (
        {"predictions": P[k], "references": VALUE[k], "model_predictions": Q[k]}, {},
        fooling_gap(k, P[k], Q[k], VALUE[k], WEIGHTS),
    ),
    "foreign_object_preservation": lambda k: (
        {"predictions": NEW_OBJECTS, "references": OBJECTS} if k == "masks"
        else {"predictions": FINAL > 0.5, "references": SOURCE > 0.5}, {},
        foreign_object_preservation(OBJECTS, NEW_OBJECTS, **BY_PATIENT) if k == "masks"
        else foreign_object_preservation(SOURCE > 0.5, FINAL > 0.5, **BY_PATIENT),
    ),
    "frechet_distance": lambda k: (
        FEATURES, EXTRACTOR, {"frechet_distance": frechet_distance(LATENT, LATENT_NEW), **EXTRACTOR}
    ),
    "identity_preservation": lambda k: (
        FEATURES, {**EXTRACTOR, "n_distractors": 4},
        {**identity_preservation(LATENT_NEW, LATENT, n_distractors=4, **BY_PATIENT), **EXTRACTOR},
    ),
    "kernel_distance": lambda k: (
        FEATURES, EXTRACTOR, {"kernel_distance": kernel_distance(LATENT, LATENT_NEW), **EXTRACTOR}
    ),
    "minimality": lambda k: (
        {"predictions": LATENT_NEW, "references": LATENT, "values": VALUE[k], "counterfactual_values": OTHER[k]},
        {"n_bins": 4}, minimality(k),
    ),
    "reversibility": lambda k: (IMAGES, {}, mean("reversibility", image_distance(X, Y))),
    "true_counterfactual_error": lambda k: (
        {**IMAGES, "masks": MASK}, {},
        {n: interval(mean_samples(e, WEIGHTS))
         for n, e in zip(("error_inside", "error_outside"), counterfactual_error(X, Y, MASK))},
    ),
    "two_sample_auc": two_sample,
}  # fmt: skip
CONFIGURATIONS = {
    **dict.fromkeys(("effectiveness", "amplification", "fooling_gap", "minimality", "two_sample_auc"), KINDS),
    "calibration_error": KINDS[:2],
    "foreign_object_preservation": (None, "masks"),
}


def test_every_module_is_tested_and_shipped():
    """setup.cfg finds packages, that is folders with an __init__.py all the way up."""
    assert set(CASES) == set(metrics.NAMES) and list(metrics.NAMES) == sorted(metrics.NAMES)
    for folder in (".", *metrics.NAMES):
        assert (metrics.MODULES_FOLDER / folder / "__init__.py").exists()


def same(result, expected):
    """Dataclasses by group are `group_field`; an interval is the estimate and `…_interval`."""
    flat = {}
    for name, value in expected.items():
        fields = vars(value) if hasattr(value, "__dataclass_fields__") else {"": value}
        flat |= {f"{name}_{field}".rstrip("_"): v for field, v in fields.items()}
    for name, value in flat.items():
        several = isinstance(value, list) and value and isinstance(value[0], tuple)
        if isinstance(value, tuple) or several:
            found = np.c_[result[name], result.pop(f"{name}_interval")] if several else (
                result[name], *result.pop(f"{name}_interval")
            )  # fmt: skip
            np.testing.assert_allclose(found, value, rtol=1e-6, err_msg=name)
        elif isinstance(value, str):
            assert result[name] == value
        else:
            np.testing.assert_allclose(result[name], value, rtol=1e-6, err_msg=name)
    assert set(result) == set(flat)


@pytest.mark.parametrize("name, kind", [(n, k) for n in CASES for k in CONFIGURATIONS.get(n, (None,))])
def test_module_equals_plain_function(name, kind):
    columns, options, expected = CASES[name](kind)
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
    for word in (*module.features, *module.option_names()):
        assert word in module.inputs_description
    assert module.inputs_description in module.compute.__doc__


def amplification_records():
    factual = np.stack([VALUE[a.kind] for a in SCHEMA], axis=1).astype(float)
    changed = {k: {a.name: P[a.kind] for a in SCHEMA} for k in ("age", "sex")}
    return factual, {a.name: Q[a.kind] for a in SCHEMA}, changed


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
    assert (out["mean_abs_auc"], *out["mean_abs_auc_interval"]) == expected.mean_abs_auc
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
    columns, _, _ = CASES["effectiveness"]("binary")
    expected = effectiveness("binary", *columns.values(), weights=patient_weights(np.arange(N), 20, 3))
    same(metrics.load("effectiveness").compute(**columns, **OPTIONS), expected)


@pytest.mark.parametrize("ids", [("a", "b"), (None, None)], ids=["own ids", "same id"])
def test_experiments_side_by_side_do_not_mix(ids):
    modules = [metrics.load("calibration_error", experiment_id=i) for i in ids]
    p, value = P["binary"], VALUE["binary"]
    for start in range(0, N, 20):
        for shift, module in enumerate(modules):
            rows = slice(start, start + 20)
            module.add_batch(predictions=p[rows] / (1 + shift), references=value[rows])
    for shift, module in enumerate(modules):
        assert module.compute()["calibration_error"] == expected_calibration_error(p / (1 + shift), value)


def test_one_row_at_a_time_and_in_memory():
    columns, _, expected = CASES["fooling_gap"]("categorical")
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
    module = metrics.load("decision_frechet_distance")
    module.add_batch(predictions=LATENT[:40], prediction_posteriors=SOURCE[:40])
    module.add_batch(references=LATENT_NEW, reference_posteriors=FINAL)
    expected = decision_frechet_distance(LATENT_NEW, LATENT[:40], FINAL, SOURCE[:40], equal_numbers=False)
    same(module.compute(extractor="toy", equal_numbers=False), {**expected, **EXTRACTOR})


def test_films_of_different_number():
    columns, options, expected = two_sample("binary", 50)
    real, fake = ({n: v for n, v in columns.items() if n.startswith(s)} for s in ("reference", "prediction"))
    module = metrics.load("two_sample_auc")
    module.add_batch(**real)
    module.add_batch(**fake)
    same(module.compute(**options), expected)
    module.add_batch(**real | fake | {"prediction_values": fake["prediction_values"][:40]})
    with pytest.raises(ValueError, match="predictions, prediction_values, .* same number of rows"):
        module.compute(**options)


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


def test_combine_two_and_name_an_input_that_is_missing():
    both = evaluate.combine([metrics.load("composition"), metrics.load("reversibility")])
    both.add_batch(predictions=X, references=Y, patients=PATIENTS)
    out = both.compute(**OPTIONS)
    assert out["composition"] == out["reversibility"] == pytest.approx(image_distance(X, Y).mean())
    with pytest.raises(ValueError, match="exaggeration_curve: posteriors missing"):
        evaluate.combine([metrics.load("exaggeration_curve")]).add_batch(X[:, 0, 0], Y[:, 0, 0])


def test_unknown_names_list_the_known_ones():
    with pytest.raises(ValueError, match="no metric 'fid'.*frechet_distance"):
        metrics.load("fid")
    with pytest.raises(ValueError, match="no configuration 'ordinal'.*binary, categorical, continuous"):
        metrics.load("effectiveness", "ordinal")


SQUARE = np.ones((2, 4, 4))
LUNG_MASKS = {"predictions": SQUARE, "references": SQUARE, "posteriors": [0.1, 0.2]}


@pytest.mark.parametrize(
    "name, columns, message",
    [
        ("composition", {}, "nothing to compute"),
        ("composition", {"predictions": X}, "references missing"),
        ("composition", {"predictions": X, "references": Y[:3]}, "same number of rows"),
        ("composition", {"predictions": X, "references": Y[..., :3]}, "different shapes"),
        ("composition", {"predictions": X[:0], "references": Y[:0]}, "empty batch"),
        ("composition", {"predictions": [1, 2], "references": [1, 2]}, "one vector or image per row"),
        ("composition", {**IMAGES, "n": 2}, "'n'.*options n_resamples, seed"),
        ("exposure_share", {"predictions": X, "references": Y[..., :3]}, "one size"),
        ("frechet_distance", FEATURES, "extractor"),
        ("frechet_distance", {"predictions": LATENT, "extractor": "toy"}, "second set is empty"),
        ("calibration_error", {"predictions": [2.0], "references": [1]}, r"\[0, 1\]"),
        ("calibration_error", {"predictions": np.eye(2), "references": [1, 0]}, "one number per row"),
        ("calibration_error", {"predictions": ["x"], "references": [1]}, "predictions must be numbers"),
        *(("fooling_gap", {n: [gap] for n in ("predictions", "model_predictions", "references")}, "judge.*nan")
          for gap in (np.nan, None)),
        ("minimality", {**FEATURES, "values": np.zeros(N), "counterfactual_values": np.ones(N), "distance": "kl"},
         r"\(N, 2, D\)"),
        ("counterfactual_validity", {"predictions": [1.7], "references": [0.2]}, "reached: row 0 is 1.7"),
        ("foreign_object_preservation", {"predictions": [0.5], "references": [1]}, "after must be flags"),
        ("identity_preservation", FEATURES, "extractor"),
        ("decision_frechet_distance", {**FEATURES, "prediction_posteriors": SOURCE, "extractor": "toy"},
         "references, reference_posteriors must have the same number of rows"),
        ("costophrenic_score", {**LUNG_MASKS, "predictions": SQUARE[:, :3], "references": SQUARE[:, :3]},
         "12 pixels are not square"),
        ("costophrenic_score", {**LUNG_MASKS, "width": 5}, "rows of width 5"),
        ("costophrenic_score", {**LUNG_MASKS, "predictions": SQUARE / 2}, "lungs must be binary"),
    ],
)  # fmt: skip
def test_bad_input(name, columns, message):
    with pytest.raises(ValueError, match=message):
        metrics.load(name).compute(**columns)


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
    assert out["real"] == 100
    for key in ("effectiveness", "signed_distance", "distance"):
        assert np.isnan([out[key], *out[f"{key}_interval"]]).all()
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
