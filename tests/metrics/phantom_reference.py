"""Phantoms with masks and true measurements, rendered once for all tests of the anatomical metrics."""

from functools import lru_cache

import numpy as np

from cf_cxr.data.phantom import ChestPhantom, PhantomConfig

COUNT = 64


@lru_cache(maxsize=4)
def rendered(finding: str, resolution: int):
    """Images as they are, under do(finding = 1) and under do(finding = 0), and whether the finding is there."""
    phantom = ChestPhantom(PhantomConfig(resolution=resolution, finding=finding, device_rate=0.5))
    attributes, noise = phantom.sample_attributes(COUNT, 5), phantom.sample_noise(COUNT, 5)
    attributes[::2, 3] = 1  # half of them sick
    attributes[1::2, 3] = 0
    factual = phantom.render(attributes, noise)
    sick = phantom.counterfactual(attributes, noise, {"finding": finding})[1]
    well = phantom.counterfactual(attributes, noise, {"finding": "No Finding"})[1]
    return factual, sick, well, attributes[:, 3].numpy() == 1


def explained(finding: str, resolution: int, measure):
    """A measurement before and after true counterfactuals to the other finding, and a posterior that knows it."""
    factual, sick, well, present = rendered(finding, resolution)
    after = np.where(present, measure(well), measure(sick))
    return measure(factual), after, np.where(present, 0.9, 0.1)
