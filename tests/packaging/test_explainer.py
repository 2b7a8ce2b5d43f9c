import pytest
import torch

from cf_cxr import CXRImageProcessor, ProgressiveExplainerModel
from cf_cxr.packaging.explainer import main
from cf_cxr.training.loop.run_folder import OutputDirectoryError
from tests.pipelines.tiny import SIDE, random_explainer


@pytest.fixture
def trained(tmp_path):
    model = random_explainer(
        class_name="effusion", classifier_fingerprint="sha256:abc", operating_point=0.1, residual_output=True
    )
    model.save_pretrained(tmp_path / "trained")
    CXRImageProcessor(size=SIDE).save_pretrained(tmp_path / "trained")
    return model, tmp_path / "trained"


def test_a_packaged_explainer_is_half_as_large_and_explains_alike(trained, tmp_path):
    model, source = trained
    arguments = ["--explainer", str(source), "--output_dir", str(tmp_path / "half")]
    folder = main([*arguments, "--storage_dtype", "float16"])
    sizes = [(path / "model.safetensors").stat().st_size for path in (source, folder)]
    assert sizes[1] < 0.7 * sizes[0]
    again = ProgressiveExplainerModel.from_pretrained(folder).eval()
    assert again.dtype == torch.float32 and again.config.operating_point == 0.1
    x = torch.rand(2, 1, SIDE, SIDE, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.no_grad():
        torch.testing.assert_close(again.series(x), model.series(x), atol=5e-3, rtol=0)
    assert CXRImageProcessor.from_pretrained(folder).size["height"] == SIDE
    with pytest.raises(OutputDirectoryError, match="already holds a model"):
        main(arguments)


def test_the_card_says_whose_decisions_are_explained_and_what_was_not_measured(trained, tmp_path):
    facts = tmp_path / "facts.yaml"
    facts.write_text("name: my-explainer\nlimits: Small.\n", encoding="utf-8")
    folder = main(
        ["--explainer", str(trained[1]), "--card", str(facts), "--output_dir", str(tmp_path / "packaged")]
    )
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert "# my-explainer" in card and "`sha256:abc`" in card and "0.1 is moved to 0.5" in card
    assert "## Measured\n\nNot evaluated." in card and "## Limits\n\nSmall." in card
    assert "Not for diagnosis" in card
    assert "license" not in card and 'model="path/to/my-explainer"' in card and "cf-cxr/" not in card
