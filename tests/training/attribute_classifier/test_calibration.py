import math

import pytest
import torch

from cf_cxr.training.attribute_classifier.calibration import TEMPERATURE_RANGE, fit_temperature
from tests.training.loop.tiny import SCHEMA


def calibrated_data(n=20_000, seed=0):
    """Logits (n, 6) in schema order and labels drawn from exactly the law that the logits state."""
    g = torch.Generator().manual_seed(seed)
    mean = torch.rand(n, generator=g) - 0.5
    log_sigma = -2 + torch.rand(n, generator=g)
    age = mean + log_sigma.exp() * torch.randn(n, generator=g)
    sex_logit = 2 * torch.randn(n, generator=g)
    sex = (torch.rand(n, generator=g) < sex_logit.sigmoid()).float()
    site_logits = 1.5 * torch.randn(n, 3, generator=g)
    site = torch.multinomial(site_logits.softmax(-1), 1, generator=g)[:, 0].float()
    logits = torch.cat([mean[:, None], log_sigma[:, None], sex_logit[:, None], site_logits], dim=1)
    return logits, torch.stack([(age + 1) * 50, sex, site], dim=1)


def miscalibrate(logits, temperature):
    """Logits for which `temperature` is the right answer."""
    logits = logits * temperature
    logits[:, 0] /= temperature
    logits[:, 1] = logits[:, 1] / temperature - math.log(temperature)
    return logits


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.5])
def test_fit_temperature_recovers_the_known_scale(temperature):
    logits, labels = calibrated_data()
    fitted = fit_temperature(miscalibrate(logits, temperature), labels, SCHEMA)
    assert list(fitted) == ["age", "sex", "site"]
    for value in fitted.values():
        assert value == pytest.approx(temperature, rel=0.05)


def test_fit_temperature_of_binary_equals_a_grid_search():
    logits, labels = calibrated_data(500)
    logits = miscalibrate(logits, 3.0)
    grid = torch.linspace(1, 6, 2001)
    nll = torch.nn.functional.binary_cross_entropy_with_logits
    best = grid[torch.stack([nll(logits[:, 2] / t, labels[:, 1]) for t in grid]).argmin()].item()
    assert fit_temperature(logits, labels, SCHEMA)["sex"] == pytest.approx(best, abs=0.005)


def test_fit_temperature_ignores_unknown_labels():
    logits, labels = calibrated_data(2000)
    expected = fit_temperature(logits, labels, SCHEMA)
    padded = torch.cat([labels, torch.full((2000, 3), math.nan)])
    garbage = torch.cat([logits, 30 * torch.randn(2000, 6)])
    assert fit_temperature(garbage, padded, SCHEMA) == pytest.approx(expected, rel=1e-3)


def test_attribute_without_a_known_label_is_left_out_with_a_warning():
    logits, labels = calibrated_data(100)
    labels[:, 1] = math.nan
    with pytest.warns(UserWarning, match="'sex'"):
        assert "sex" not in fit_temperature(logits, labels, SCHEMA)


def test_separable_data_stay_in_range():
    logits, labels = calibrated_data(50)
    labels[:, 1] = (logits[:, 2] > 0).float()
    low, high = TEMPERATURE_RANGE
    assert low <= fit_temperature(logits, labels, SCHEMA)["sex"] < 0.2 < high


def test_shape_errors_name_the_shapes():
    logits, labels = calibrated_data(10)
    with pytest.raises(ValueError, match=r"\(10, 3\).*\(10, 2\)"):
        fit_temperature(logits, labels[:, :2], SCHEMA)
    with pytest.raises(ValueError, match=r"\(10, 5\)"):
        fit_temperature(logits[:, :5], labels, SCHEMA)
