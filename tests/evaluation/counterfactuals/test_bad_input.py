"""Bad input to the evaluation command: what was wrong, which value, what to do."""

import json

import datasets
import numpy as np
import pytest
import torch

from cf_cxr import AttributeClassifierModel
from cf_cxr.data import cxr_schema
from cf_cxr.evaluation.counterfactuals.collecting import Collector, PredictionError
from cf_cxr.evaluation.counterfactuals.command import CounterfactualEvaluationArguments
from cf_cxr.evaluation.counterfactuals.data import load_counterfactual_images
from tests.evaluation.tiny_evaluation import classifier, evaluate, write_split

RNG = np.random.default_rng(1)


def test_judge_with_other_attributes(parts, data_dir, tmp_path):
    classifier(5, "phantom").save_pretrained(tmp_path / "other")
    with pytest.raises(ValueError, match="judge .* knows .*site: categorical.* the model .*view: binary"):
        evaluate(parts, data_dir, tmp_path / "out", judge=tmp_path / "other")
    assert not (tmp_path / "out").exists()


def test_attribute_missing_from_the_data(tmp_path, monkeypatch):
    rows = datasets.DatasetDict(
        {s: datasets.Dataset.from_dict({"age": [30.0], "patient_id": [s]}) for s in ("train", "test")}
    )
    monkeypatch.setattr("cf_cxr.evaluation.images.load_cxr", lambda *args, **kwargs: rows)
    with pytest.raises(
        ValueError, match="attribute 'sex' is no column of the data set; it has age, patient_id"
    ):
        load_counterfactual_images(
            CounterfactualEvaluationArguments(dataset="folder"), cxr_schema("parquet")[0], 16
        )


def test_splits_that_cannot_be_evaluated(parts, own_data, tmp_path):
    def refuse(message, *words):
        with pytest.raises(ValueError, match=message):
            evaluate(parts, own_data, tmp_path / "out", *words)

    refuse("no split 'tset', only", "--split", "tset")
    refuse("'train' has 24 patients of the training split, '0' among them", "--split", "train")
    write_split(own_data, "test", range(20, 40), RNG)
    refuse("patient 20 in both train and test")
    write_split(own_data, "test", range(200, 224), RNG, findings=["Mass"])
    refuse("None of the 24 images of split 'test' has all of age, sex, view, finding")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--max_images", 0], "--max_images is 0, but must be a positive integer"),
        (["--n_resamples", 0], "--n_resamples is 0"),
        (["--num_images", 10], "--num_images is 10, but must be left out for 'parquet'"),
        (["--resume", "--overwrite_output_dir"], "left out together with --resume"),
    ],
)
def test_arguments_out_of_range(parts, tmp_path, words, message):
    with pytest.raises(ValueError, match=message):
        evaluate(parts, tmp_path, tmp_path / "out", *words)


def test_nan_predictions_name_the_attribute_and_keep_what_is_finished(parts, data_dir, tmp_path, monkeypatch):
    whole = evaluate(parts, data_dir, tmp_path / "whole")
    forward, calls = AttributeClassifierModel.forward, []

    def broken(self, pixel_values, *args, **kwargs):
        output = forward(self, pixel_values, *args, **kwargs)
        calls.append(len(pixel_values))
        if len(calls) == 3:  # the judge on batch 1; real images are its first five rows, do(age) the next
            output.logits[1:3, 2] = torch.nan
        return output

    monkeypatch.setattr(AttributeClassifierModel, "forward", broken)
    message = "The judge predicts NaN or infinity for 'sex' on 2 of 5 images of batch 1 .real images."
    with pytest.raises(PredictionError, match=message):
        evaluate(parts, data_dir, tmp_path / "out")
    assert len(list((tmp_path / "out" / "records").glob("batch-*"))) == 1
    monkeypatch.setattr(AttributeClassifierModel, "forward", forward)
    results = evaluate(parts, data_dir, tmp_path / "out")
    assert results["run"]["batches_kept"] == 1
    for r in (results, whole):
        del r["run"], r["identity"]["commit"]
    assert results == whole


def test_results_are_strict_json_without_nan(parts, own_data, tmp_path):
    write_split(own_data, "test", [200], RNG, findings=[])
    evaluate(parts, own_data, tmp_path / "out")  # a single image: no AUC, no spread, no neighbour

    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    results = json.loads((tmp_path / "out" / "results.json").read_text(), parse_constant=refuse)
    assert results["real"]["sex"] == [None, None, None] and results["fid"] is None
    assert results["do"]["sex"]["minimality"][0] is None
    assert results["do"]["age"]["effectiveness"][0] is not None


def test_a_classifier_inside_the_model_that_diverged_is_told_from_the_judge(model):
    model.classifier.heads[0].weight.data.fill_(torch.nan)
    pixels, factual = torch.zeros(2, 1, 16, 16), torch.tensor([[40.0, 0, 0, 0]] * 2)
    batch = {"pixel_values": pixels, "attributes": factual, "do": {"sex": torch.ones(2)}}
    with pytest.raises(
        PredictionError, match="The classifier inside the model predicts NaN .* 'age' on 2 of 2"
    ):
        Collector(model, classifier(3))(0, 0, batch)
