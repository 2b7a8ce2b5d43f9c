import torch

from cf_cxr.models.anatomy_segmenter import AnatomySegmenterConfig, AnatomySegmenterModel
from tests.models.test_modeling_common import ModelCommonTestsMixin


class TestAnatomySegmenter(ModelCommonTestsMixin):
    model_class = AnatomySegmenterModel
    num_hidden_states = 9

    def config(self):
        return AnatomySegmenterConfig(
            labels=["lungs", "devices"], image_size=16, widths=[4, 8], norm_groups=4, dice_weight=0.5
        )

    def inputs(self):
        generator = torch.Generator().manual_seed(0)
        return {
            "pixel_values": torch.rand(3, 1, 16, 16, generator=generator) * 2 - 1,
            "masks": torch.rand(3, 2, 16, 16, generator=generator) > 0.6,
        }

    def batch_outputs(self, model, inputs):
        return {**super().batch_outputs(model, inputs), **model.segment(inputs["pixel_values"])}
