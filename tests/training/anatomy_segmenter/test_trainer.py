"""The segmenter learns shapes, its Dice is what it says, and the phantom's masks arrive as they were rendered."""

import json

import pytest
import torch

from cf_cxr.data import CXRCollator, load_cxr
from cf_cxr.data.phantom import ChestPhantom, PhantomConfig
from cf_cxr.models.anatomy_segmenter import AnatomySegmenterConfig, AnatomySegmenterModel
from cf_cxr.training.anatomy_segmenter import trainer as segmenter_trainer
from cf_cxr.training.anatomy_segmenter.trainer import SegmenterConfig, SegmenterTrainer, mask_metrics
from cf_cxr.training.loop.batches import MASK_COLUMNS, CXRBatches
from tests.training.loop.tiny import LOOP


def test_dice_by_hand():
    """Image 1 has the label: 2 * 3 / (4 + 6); image 2 has not and nothing is found; image 3 has not and is wrong."""
    counts = torch.tensor([[[3.0, 4.0, 6.0]], [[0.0, 0.0, 0.0]], [[0.0, 2.0, 0.0]]])
    assert mask_metrics(counts, ["devices"]) == pytest.approx(
        {"dice_devices": 0.6, "false_alarm_devices": 0.5}
    )
    assert mask_metrics(counts[:1], ["heart"]) == pytest.approx({"dice_heart": 0.6})


@pytest.fixture(scope="module")
def phantom(tmp_path_factory):
    folder = tmp_path_factory.mktemp("phantom")
    return load_cxr("phantom", resolution=32, num_images={"train": 6}, seed=9, cache_dir=folder)["train"]


@pytest.mark.parametrize("cache", [False, True])
def test_masks_are_those_of_the_renderer(phantom, cache):
    config = PhantomConfig(resolution=32)
    chest = ChestPhantom(config)
    truth = chest.render(chest.attributes_at(9, [4, 1]), chest.noise_at(9, [4, 1]))
    batches = CXRBatches(phantom, CXRCollator(chest.schema), labels=MASK_COLUMNS, cache=cache, progress=False)
    batch = batches.__getitems__([4, 1])
    torch.testing.assert_close(batch["pixel_values"], truth.pixel_values, atol=1e-6, rtol=0)
    expected = torch.cat([truth.lung_mask, truth.heart_mask, truth.device_mask], dim=1)
    assert batch["masks"].dtype == torch.bool and torch.equal(batch["masks"], expected)
    hearts = CXRBatches(phantom, CXRCollator(chest.schema), labels=["heart"], cache=cache, progress=False)
    assert torch.equal(hearts.__getitems__([4, 1])["masks"], truth.heart_mask)


def test_data_without_masks_are_refused(phantom):
    rows = phantom.remove_columns(["device_mask"])
    collator = CXRCollator(ChestPhantom().schema)
    with pytest.raises(ValueError, match="'device_mask' is missing"):
        CXRBatches(rows, collator, labels=MASK_COLUMNS)
    with pytest.raises(ValueError, match="bones"):
        CXRBatches(rows, collator, labels=["bones"])


class Boxes:
    """A bright box (the heart) on a dark, noisy film."""

    def __init__(self, size=32, seed=0):
        generator = torch.Generator().manual_seed(seed)
        self.images = torch.rand(size, 1, 16, 16, generator=generator) * 0.3 - 0.8
        self.masks = torch.zeros(size, 1, 16, 16, dtype=torch.bool)
        for image, mask in zip(self.images, self.masks):
            top, left = torch.randint(2, 8, (2,), generator=generator).tolist()
            mask[0, top : top + 6, left : left + 5] = True
            image[0, top : top + 6, left : left + 5] += 0.8

    def __len__(self):
        return len(self.images)

    def __getitems__(self, indices):
        chosen = torch.as_tensor(list(indices))
        return {"pixel_values": self.images[chosen], "masks": self.masks[chosen]}


def trainer(folder, randomisation="light", **settings):
    torch.manual_seed(0)
    model = AnatomySegmenterModel(
        AnatomySegmenterConfig(labels=["heart"], image_size=16, widths=[8, 8], norm_groups=4)
    )
    own = {"per_device_train_batch_size": 8, "learning_rate": 1e-2, "eval_steps": 20, "save_steps": 60}
    args = SegmenterConfig(output_dir=str(folder), randomisation=randomisation, **(LOOP | own | settings))
    return SegmenterTrainer(model, args, Boxes(), Boxes(9, seed=1))


def test_segmenter_learns_a_shape_and_keeps_the_best(tmp_path):
    run = trainer(tmp_path, max_steps=60, sample_steps=60)
    metrics = run.train()
    assert metrics["eval_dice_heart"] > 0.85 and metrics["eval_dice_heart_randomised"] > 0.6
    mean = (metrics["eval_dice_heart"] + metrics["eval_dice_heart_randomised"]) / 2
    assert metrics["eval_dice"] == pytest.approx(mean)
    manifest = json.loads((tmp_path / "run.json").read_text())
    assert manifest["best_step"] in (20, 40, 60)
    model = AnatomySegmenterModel.from_pretrained(tmp_path)
    found = model.segment(Boxes(9, seed=1).images)["heart"]
    truth = Boxes(9, seed=1).masks[:, 0]
    assert 2 * (found & truth).sum() / (found.sum() + truth.sum()) > 0.8
    assert list((tmp_path / "samples").glob("*masks.png"))


def test_training_images_are_randomised_and_validation_images_are_not(tmp_path):
    run = trainer(tmp_path, "none")
    batch = Boxes().__getitems__([0, 1])
    loss, logs = run.batch_loss(run.model, batch)
    expected = run.model(batch["pixel_values"], batch["masks"].float())
    torch.testing.assert_close(loss, expected.loss)
    torch.testing.assert_close(logs["loss_heart"], expected.losses[0])
    randomised = trainer(tmp_path / "other", "strong")
    torch.manual_seed(0)
    assert (randomised.batch_loss(randomised.model, batch)[0] - loss).abs() > 1e-3


def test_command_trains_on_the_phantom(tmp_path):
    segmenter_trainer.main(
        f"--resolution 32 --num_images 8 --max_steps 2 --per_device_train_batch_size 4 --widths 8 8 --cache_dir "
        f"{tmp_path}/cache --output_dir {tmp_path}/run --disable_tqdm true --use_cpu true --report_to none "
        "--cache_images true".split()
    )
    manifest = json.loads((tmp_path / "run" / "run.json").read_text())
    assert manifest["data"]["dataset"] == "phantom" and manifest["randomisation"]["rotation"] == 12.0
    assert {"eval_dice_lungs", "eval_dice_heart"} <= manifest["metrics"].keys()
    model = AnatomySegmenterModel.from_pretrained(tmp_path / "run")
    assert model.config.labels == ["lungs", "heart", "devices"]
