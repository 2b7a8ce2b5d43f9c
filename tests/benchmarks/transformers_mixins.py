"""transformers' own test mixins on every model, configuration and the image processor of this package.

    pip install parameterized
    python tests/benchmarks/transformers_mixins.py
    python tests/benchmarks/transformers_mixins.py --models CausalHVAEModel --show

Fetches the source distribution of the installed version of transformers from the package index, takes
`ModelTesterMixin`, `ConfigTester` and `ImageProcessingTestMixin` from its `tests` and runs them with the tiny
configurations of our own tests. Prints, as Markdown, what passed, failed and was skipped, and the names of what failed;
docs/transformers_tests.md has the reasons. `--show` prints the tracebacks.

The source distribution leaves out four files that the mixins import. Here they are stood in for by the least that the
mixins use: two empty classes (of the exporters and of text generation, which no model here has), common arguments of
configurations, and addresses of pictures, which no test here loads.
"""

from __future__ import annotations

import argparse
import importlib.util
import subprocess
import sys
import tarfile
import tempfile
import unittest
from collections import Counter
from pathlib import Path
from types import ModuleType

import pytest
import torch
import transformers

PACKAGE = "transformers_tests"
FILES = ("test_modeling_common.py", "test_configuration_common.py", "test_image_processing_common.py")
LABELS = ("labels", "masks")
CONFIG_ARGUMENTS = {"return_dict": False, "output_hidden_states": True, "dtype": "float16"}


def fetch(folder: Path) -> None:
    """Puts transformers' mixins into `folder` as a package of another name than `tests`, which is ours.

    Raises:
        SystemExit: the archive is of another version than the installed one, or lacks a file.
    """
    version = transformers.__version__
    wanted = [f"transformers=={version}", "--no-binary", "transformers", "--no-deps"]
    subprocess.run([sys.executable, "-m", "pip", "download", "--quiet", "-d", folder, *wanted], check=True)
    package = folder / PACKAGE
    package.mkdir()
    with tarfile.open(folder / f"transformers-{version}.tar.gz") as archive:
        root = f"transformers-{version}"
        metadata = archive.extractfile(f"{root}/PKG-INFO").read().decode()
        if f"\nVersion: {version}\n" not in metadata:
            raise SystemExit(f"The archive is not of transformers {version}.")
        for name in FILES:
            (package / name).write_bytes(archive.extractfile(f"{root}/tests/{name}").read())
    (package / "__init__.py").touch()
    sys.path.insert(0, str(folder))
    stand_in(f"{PACKAGE}.exporters.test_export", ExportTesterMixin=type("ExportTesterMixin", (), {}))
    stand_in(f"{PACKAGE}.generation.test_utils", GenerationTesterMixin=type("GenerationTesterMixin", (), {}))
    stand_in(f"{PACKAGE}.utils.test_configuration_utils", config_common_kwargs=CONFIG_ARGUMENTS)
    stand_in("fetch_hub_objects_for_ci", url_to_local_path=str)


def stand_in(name: str, **contents: object) -> None:
    """A module of this name, and the packages around it but the first, with these contents."""
    parts = name.split(".")
    for depth in range(1, len(parts) + 1):
        whole = ".".join(parts[:depth])
        if whole != PACKAGE:
            sys.modules.setdefault(whole, ModuleType(whole))
    vars(sys.modules[name]).update(contents)


def model_tests() -> dict[str, type[unittest.TestCase]]:
    """A test class per model, by its name."""
    from tests.models.anatomy_segmenter.test_modeling_anatomy_segmenter import TestAnatomySegmenter
    from tests.models.attribute_classifier.test_modeling_attribute_classifier import TestWithConvNeXt
    from tests.models.attribute_scm.test_modeling_attribute_scm import TestAttributeSCMCommon
    from tests.models.causal_flow.test_modeling_causal_flow import TestCausalFlow
    from tests.models.causal_hvae.test_modeling_causal_hvae import TestCausalHVAE
    from tests.models.deep_scm.test_modeling_deep_scm import TestDeepSCM
    from tests.models.progressive_explainer.test_modeling_progressive_explainer import (
        TestExplainerDiscriminator,
        TestProgressiveExplainer,
    )

    ours = (
        TestAttributeSCMCommon,
        TestWithConvNeXt,
        TestCausalHVAE,
        TestCausalFlow,
        TestDeepSCM,
        TestProgressiveExplainer,
        TestExplainerDiscriminator,
        TestAnatomySegmenter,
    )
    return {test.model_class.__name__: mixed_in(test) for test in ours}


def mixed_in(ours: type) -> type[unittest.TestCase]:
    """transformers' test class of a model, with the configuration and the inputs of our test class."""
    from transformers_tests.test_configuration_common import ConfigTester
    from transformers_tests.test_modeling_common import ModelTesterMixin

    from cf_cxr import CausalFlowModel

    class Tester:
        """What the mixin asks about the model."""

        is_training = True
        num_hidden_layers = 2
        expected_num_hidden_layers = ours.num_hidden_states
        batch_size = len(next(iter(ours().inputs().values())))

        def __init__(self) -> None:
            if ours.num_hidden_states:
                model, inputs = ours().model(), ours().inputs()
                first = model(**inputs, output_hidden_states=True).hidden_states[0]
                self.seq_length, self.hidden_size = first.shape[-2:]

        def get_config(self):
            return ours().config()

        def prepare_config_and_inputs_for_common(self):
            return ours().config(), {k: v for k, v in ours().inputs().items() if k not in LABELS}

    class Tests(ModelTesterMixin, unittest.TestCase):
        all_model_classes = (ours.model_class,)
        has_attentions = False
        test_resize_embeddings = False

        def setUp(self) -> None:
            self.model_tester = Tester()

        def _prepare_for_class(self, inputs_dict, model_class, return_labels=False):
            inputs = super()._prepare_for_class(inputs_dict, model_class)
            if return_labels:
                inputs |= {k: v for k, v in ours().inputs().items() if k in LABELS}
            if model_class is CausalFlowModel:  # its forward draws, also in evaluation mode
                inputs["generator"] = torch.Generator().manual_seed(0)
            return inputs

        def test_config(self) -> None:
            config_class = ours.model_class.config_class
            ConfigTester(
                self, config_class=config_class, has_text_modality=False, common_properties=[]
            ).run_common_tests()

    Tests.__name__ = Tests.__qualname__ = ours.model_class.__name__
    return Tests


def processor_test() -> type[unittest.TestCase]:
    """The test class of the image processor."""
    from transformers_tests.test_image_processing_common import (
        ImageProcessingTester,
        ImageProcessingTestMixin,
    )

    from cf_cxr import CXRImageProcessor

    class Tester(ImageProcessingTester):
        def __init__(self, parent, **kwargs):
            super().__init__(parent, size={"height": 18, "width": 18}, **kwargs)

        def _get_image_processing_classes(self):
            return {"pil": CXRImageProcessor}

        def expected_output_image_shape(self, images):
            return 1, 18, 18  # grey, whatever went in

    class Tests(ImageProcessingTestMixin, unittest.TestCase):
        image_processor_tester_class = Tester

    Tests.__name__ = Tests.__qualname__ = "CXRImageProcessor"
    return Tests


class Outcomes:
    """A pytest plugin that remembers the worst outcome of every test."""

    order = ("passed", "skipped", "failed")

    def __init__(self) -> None:
        self.of: dict[tuple[str, str], str] = {}

    def pytest_runtest_logreport(self, report) -> None:
        if report.when != "call" and report.passed:
            return
        key = tuple(report.nodeid.split("::")[1:3])
        self.of[key] = max(self.of.get(key, "passed"), report.outcome, key=self.order.index)

    def table(self) -> str:
        """Markdown: a row per class."""
        lines = ["| class | passed | failed | skipped | failing |", "| --- | ---: | ---: | ---: | --- |"]
        for name in dict.fromkeys(name for name, _ in self.of):
            mine = {test: outcome for (owner, test), outcome in self.of.items() if owner == name}
            counts = Counter(mine.values())
            failing = ", ".join(f"`{test}`" for test, outcome in mine.items() if outcome == "failed")
            numbers = " | ".join(str(counts[outcome]) for outcome in ("passed", "failed", "skipped"))
            lines.append(f"| `{name}` | {numbers} | {failing} |")
        return "\n".join(lines)


def main() -> None:
    """Fetches, runs, and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="*", default=[], help="names of classes; all by default")
    parser.add_argument("--show", action="store_true", help="print tracebacks of what fails")
    args = parser.parse_args()
    outcomes = Outcomes()
    with tempfile.TemporaryDirectory() as folder:
        fetch(Path(folder))
        chosen = ["-k", " or ".join(args.models)] if args.models else []
        style = ["--tb=short"] if args.show else ["--tb=no"]
        # -o addopts=: their marks are not ours, and --strict-markers would refuse them
        options = ["-q", "-o", "addopts=", "-p", "no:cacheprovider", "-W", "ignore", *style, *chosen]
        pytest.main([__file__, *options], plugins=[outcomes])
    print(outcomes.table())


if __name__ == "__main__":
    main()
elif importlib.util.find_spec(PACKAGE):  # pytest collects this file in `main`
    globals().update(model_tests(), CXRImageProcessor=processor_test())
