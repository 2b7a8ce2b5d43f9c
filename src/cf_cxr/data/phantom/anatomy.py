"""Where the organs are: shape parameters of every image, from its factors and its nuisance noise.

Coordinates: u to the image's right (the patient's left), v downwards, the film spans [-1, 1] in both; one unit
is 18 cm. Every field is a float32 tensor ``(B, 1, 1)``, or ``(B, 1, 1)`` per side where it says so.
"""

from __future__ import annotations

from types import SimpleNamespace

import torch
from torch import Tensor
from torch.nn.functional import softplus

from .config import PhantomConfig
from .factors import FACTORS
from .noise import NUISANCES

MAXIMAL_SEVERITY = 5.0  # the severity factor is clipped here, so that the finding has bounded support

_FACTOR_COLUMN = {name: column for column, name in enumerate(FACTORS)}
_NUISANCE_COLUMN = {name: column for column, name in enumerate(NUISANCES)}


class Latents:
    """Named access to factors ``(B, len(FACTORS))`` and normal nuisances ``(B, len(NUISANCES))``."""

    def __init__(self, factors: Tensor, nuisances: Tensor) -> None:
        self._factors = factors[..., None, None].clamp(-6.5, 6.5)
        self._nuisances = nuisances[..., None, None]
        self._clipped = self._nuisances.clamp(-2.5, 2.5)
        self._uniform = torch.special.ndtr(self._nuisances)

    def f(self, name: str) -> Tensor:
        """Factor ``(B, 1, 1)``, clipped to 6.5 standard deviations around its global mean."""
        return self._factors[:, _FACTOR_COLUMN[name]]

    def z(self, name: str) -> Tensor:
        """Nuisance ``(B, 1, 1)``, clipped to 2.5 standard deviations."""
        return self._clipped[:, _NUISANCE_COLUMN[name]]

    def p(self, name: str) -> Tensor:
        """Nuisance as a uniform in (0, 1), ``(B, 1, 1)``."""
        return self._uniform[:, _NUISANCE_COLUMN[name]]

    def row(self, index: int) -> Latents:
        """Latents of one image, as a batch of one."""
        block = slice(index, index + 1)
        return Latents(self._factors[block, :, 0, 0], self._nuisances[block, :, 0, 0])


class Anatomy(SimpleNamespace):
    """Shape of one chest, as `build_anatomy` makes it. Lengths in units of the film, thicknesses in cm."""

    def row(self, index: int) -> Anatomy:
        """Anatomy of one image, as a batch of one."""
        return Anatomy(**{name: value[index : index + 1] for name, value in vars(self).items()})


def fluid_height(severity: Tensor) -> Tensor:
    """Height of the meniscus at the chest wall in film units; strictly increasing in the severity factor."""
    return 0.14 * softplus(1.3 * (severity - 1.0)) + 0.002 * (severity + 6.0)


def heart_scale(severity: Tensor, size: Tensor) -> Tensor:
    """Size of the heart relative to the mean; strictly increasing in severity."""
    return torch.exp(0.095 * (severity - 0.8) + 0.015 * size)


def build_anatomy(latents: Latents, config: PhantomConfig) -> Anatomy:
    """Anatomy of a batch."""
    f, z, p = latents.f, latents.z, latents.p
    severity = f("severity").clamp(-MAXIMAL_SEVERITY, MAXIMAL_SEVERITY)
    effusion = config.finding == "Effusion"
    # The other finding's latent is an ordinary nuisance that happens to sit near its normal mean.
    fluid_severity = severity if effusion else 0.6 * z("fluid_balance") - 0.8
    heart_severity = 0.5 + 0.8 * z("heart_size") if effusion else severity
    maximum = torch.full_like(severity, MAXIMAL_SEVERITY)

    side = p("fluid_side")  # left, right or both, in equal shares
    right, left = (side < 0.66).float(), (side > 0.33).float()
    share = 0.15 * z("fluid_balance")
    right, left = right * torch.exp(-share.clamp(min=0)), left * torch.exp(share.clamp(max=0))
    height = fluid_height(fluid_severity)
    top = fluid_height(maximum) if effusion else height

    narrowing, shoulders = f("thorax_narrowing"), f("shoulder_narrowing")
    half_width = 0.70 * torch.exp(-0.035 * narrowing + 0.03 * z("thorax_width"))
    unfolding, loss = f("aortic_unfolding"), f("bone_loss")
    breast = 1.9 * softplus(1.1 * f("breast")) + 0.03 * (f("breast") + 6.0)
    inspiration = 0.035 * z("inspiration")
    return Anatomy(
        depth=22.0 * torch.exp(0.07 * z("depth")),  # antero-posterior thickness of the trunk
        trunk=half_width + 0.13 + 0.035 * z("girth"),  # half width of the trunk
        shoulder=1.10 - 0.050 * shoulders + 0.03 * z("arm"),
        neck=0.27 + 0.015 * z("neck"),
        half_width=half_width,  # of the inner thorax
        apex=-0.80 + 0.025 * z("apex"),
        apex_x=0.27 + 0.015 * z("apex"),
        base=torch.full_like(severity, 0.80),
        air=0.76 + 0.025 * z("lung_density"),  # fraction of the lung that is air
        # Tops of the diaphragm; the patient's right is the image's left.
        dome_right=0.36 + inspiration + 0.025 * z("dome_right"),
        dome_left=0.40 + inspiration + 0.025 * z("dome_left"),
        dome_drop=0.25 + 0.03 * z("dome_drop"),  # from the dome to the costophrenic angle
        heart_scale=heart_scale(heart_severity, z("heart_size")),
        heart_x=0.115 + 0.015 * z("heart_shift"),
        heart_angle=0.65 + 0.10 * z("heart_tilt"),
        mediastinum=0.125 + 0.012 * z("mediastinum"),
        knob_radius=0.080 * torch.exp(0.11 * unfolding),
        knob_x=0.080 + 0.016 * unfolding,
        calcification=0.45 * softplus(0.9 * f("calcification")),
        bone=torch.exp(-0.14 * loss),  # multiplies every thickness of bone
        spine_width=0.088 + 0.006 * z("spine_width"),
        scoliosis=0.012 * z("scoliosis"),
        rib_phase=0.35 * z("rib_phase"),
        rib_spacing=0.150 + 0.006 * z("rib_spacing"),
        rib_slope=0.20 + 0.03 * z("rib_slope"),
        rib_half=0.037 + 0.003 * z("rib_size"),
        clavicle_right=0.05 * z("clavicle_right"),
        clavicle_left=0.05 * z("clavicle_left"),
        clavicle_half=0.034 * torch.exp(-0.11 * shoulders),
        breast=breast,  # thickness
        breast_y=0.26 + 0.05 * z("breast_height") + 0.010 * f("breast"),
        breast_ratio=torch.exp(0.08 * z("breast_asymmetry")),  # left over right
        fluid_right=height * right,  # height of the fluid at the chest wall
        fluid_left=height * left,
        fluid_maximum_right=top * right,  # the same at maximal severity
        fluid_maximum_left=top * left,
        scapula_x=0.66 + 0.04 * z("scapula"),  # medial border
        gas_size=(0.05 + 0.03 * z("gas_size")).clamp(min=0.005),  # half height of the stomach bubble
        gas_x=0.33 + 0.06 * z("gas_x"),
        haze=0.10 * softplus(1.2 * f("haze")),  # relative loss of air at the bases, or in congested lungs
        heart_scale_maximum=heart_scale(maximum if not effusion else heart_severity, z("heart_size")),
    )
