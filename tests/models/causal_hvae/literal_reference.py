"""A slow, literal reference of the published causal HVAE, used as the oracle of the tests and benchmarks.

It follows the papers (H: arXiv 2306.15764; A: arXiv 2403.09422) and the exact details of their public code as
plainly as possible, and it keeps that code's parameter names, so that its ``state_dict`` is laid out as in a
published checkpoint. It shares nothing with ``cf_cxr``. On purpose it does every avoidable thing that the published
code does: parents are expanded to maps of the full image resolution, images are encoded again for every use and
reconstructions are decoded again from latents. Settings are a plain dictionary with the published names
(`enc_arch`, `dec_arch`, `widths`, ...); see :func:`make_hparams`.
"""

import argparse
import math
from types import SimpleNamespace

import torch
from torch import nn
from torch.nn import functional as F

MIN_LOGSCALE = -9.0

PAPER_A_192 = {
    "hps": "mimic192",
    "enc_arch": "192b1d2,96b3d2,48b7d2,24b11d2,12b7d2,6b3d6,1b2",
    "dec_arch": "1b2,6b4,12b8,24b12,48b8,96b4,192b2",
    "widths": [32, 64, 96, 128, 160, 192, 512],
    "input_res": 192,
    "z_max_res": 96,
    "bias_max_res": 64,
    "context_dim": 6,
    "beta": 9.0,
    "parents_x": ["age", "race", "sex", "finding"],
}

# Of run_mimic.sh in paper A's code; its encoder is published with the order to remove the padding for this resolution.
PAPER_A_224 = {
    **PAPER_A_192,
    "hps": "mimic224",
    "enc_arch": "224b2d2,112b4d2,56b9d2,28b14d2,14b14d2,7b9d7,1b5",
    "dec_arch": "1b5,7b10,14b15,28b15,56b10,112b5,224b3",
    "input_res": 224,
}


def make_hparams(**changes):
    """Settings with the published names; by default a 16x16 model of three scales with three parent columns."""
    hparams = {
        "hps": "tiny",
        "vae": "hierarchical",
        "enc_arch": "16b1d2,8b1d2,4b1d4,1b1",
        "dec_arch": "1b1,4b2,8b1,16b1",
        "widths": [8, 8, 16, 16],
        "input_res": 16,
        "input_channels": 1,
        "context_dim": 3,
        "z_dim": 4,
        "bottleneck": 4,
        "z_max_res": 8,
        "bias_max_res": 8,
        "cond_prior": False,
        "q_correction": False,
        "kl_free_bits": 0.0,
        "beta": 2.0,
        "x_like": "diag_dgauss",
        "std_init": 0.0,
    }
    hparams.update(changes)
    hparams["vr"] = "light" if "ukbb" in hparams["hps"] else None
    return hparams


def kl_of_gaussians(q_loc, q_logscale, p_loc, p_logscale):
    """KL(q || p) of two diagonal Gaussians, elementwise, in nats."""
    q_variance, p_variance = torch.exp(2 * q_logscale), torch.exp(2 * p_logscale)
    return p_logscale - q_logscale + (q_variance + (q_loc - p_loc) ** 2) / (2 * p_variance) - 0.5


def draw_gaussian(loc, logscale, generator=None):
    """loc + exp(logscale) * eps with eps ~ N(0, I)."""
    eps = torch.randn(loc.shape, generator=generator, dtype=loc.dtype, device=loc.device)
    return loc + torch.exp(logscale) * eps


def expand_parents(parents, resolution):
    """(B, C) parent vectors as constant (B, C, R, R) maps; maps are returned as they are."""
    if parents.dim() == 4:
        return parents
    return parents[:, :, None, None].repeat(1, 1, resolution, resolution)


class Block(nn.Module):
    """Activation before each convolution; skip connection and average pooling where asked for."""

    def __init__(self, c_in, c_mid, c_out, kernel=3, skip=True, pool=None, light=False):
        super().__init__()
        same = kernel // 2
        if light:
            layers = [nn.ReLU(), nn.Conv2d(c_in, c_mid, kernel, padding=same)]
            layers += [nn.ReLU(), nn.Conv2d(c_mid, c_out, kernel, padding=same)]
        else:
            layers = [nn.GELU(), nn.Conv2d(c_in, c_mid, 1)]
            layers += [nn.GELU(), nn.Conv2d(c_mid, c_mid, kernel, padding=same)]
            layers += [nn.GELU(), nn.Conv2d(c_mid, c_mid, kernel, padding=same)]
            layers += [nn.GELU(), nn.Conv2d(c_mid, c_out, 1)]
        self.conv = nn.Sequential(*layers)
        self.skip, self.pool, self.changes_width = skip, pool, c_in != c_out
        if skip and (pool or c_in > c_out):  # published checkpoints hold it even where it is never used
            self.width_proj = nn.Conv2d(c_in, c_out, 1)

    def forward(self, x):
        y = self.conv(x)
        if self.skip:
            y = y + (self.width_proj(x) if self.changes_width else x)
        if self.pool:
            y = F.avg_pool2d(y, self.pool, self.pool)
        return y


class Encoder(nn.Module):
    """Image to one activation per resolution."""

    def __init__(self, hp):
        super().__init__()
        plan = []  # (width, pooling factor or None)
        stem_width, stem_stride = hp.widths[0], 1
        for i, stage in enumerate(hp.enc_arch.split(",")):
            count, _, pool = stage.split("b")[1].partition("d")
            if i == 0 and int(count) == 0 and not pool:
                stem_width, stem_stride = hp.widths[1], 2
                continue
            plan += [(hp.widths[i], None)] * int(count)
            if pool:
                plan += [(hp.widths[i + 1], int(pool))]
        self.stem = nn.Conv2d(hp.input_channels, stem_width, 7, stride=stem_stride, padding=3)
        self.padding_removed = hp.padding_removed  # by hand, so that no checkpoint says it
        self.blocks = nn.ModuleList()
        for i, (width, pool) in enumerate(plan):
            before = plan[max(i - 1, 0)][0]
            self.blocks.append(
                Block(before, int(before / hp.bottleneck), width, pool=pool, light=hp.vr == "light")
            )

    def forward(self, x):
        x = self.stem(x)
        by_resolution = {}
        for block in self.blocks:
            x = block(x)
            if x.shape[-1] % 2 == 1 and x.shape[-1] > 1 and not self.padding_removed:
                x = F.pad(x, (0, 1, 0, 1))
            by_resolution[x.shape[-1]] = x
        return by_resolution


class DecoderBlock(nn.Module):
    """Prior, posterior, projections and residual block of one latent layer."""

    def __init__(self, hp, width, next_width, resolution):
        super().__init__()
        kernel = 3 if resolution > 2 else 1
        mid, light = int(width / hp.bottleneck), hp.vr == "light"
        self.resolution, self.z_dim = resolution, hp.z_dim
        self.stochastic = resolution <= hp.z_max_res
        prior_in = width + hp.context_dim if hp.cond_prior else width
        self.prior = Block(prior_in, mid, 2 * hp.z_dim + width, kernel, skip=False, light=light)
        if self.stochastic:
            self.posterior = Block(
                2 * width + hp.context_dim, mid, 2 * hp.z_dim, kernel, skip=False, light=light
            )
        self.z_proj = nn.Conv2d(hp.z_dim + hp.context_dim, width, 1)
        if not hp.q_correction:
            self.z_feat_proj = nn.Conv2d(hp.z_dim + width, next_width, 1)
        self.conv = Block(width, mid, next_width, kernel, light=light)

    def split_prior(self, z):
        y = self.prior(z)
        return y[:, : self.z_dim], y[:, self.z_dim : 2 * self.z_dim], y[:, 2 * self.z_dim :]


class Decoder(nn.Module):
    """Top-down pass. With `acts` latents come from the posterior, else from `latents`, else from the prior."""

    def __init__(self, hp):
        super().__init__()
        self.hp = hp
        plan = []
        for stage, width in zip(hp.dec_arch.split(","), hp.widths[::-1], strict=True):
            resolution, count = stage.split("b")
            plan += [(int(resolution), width)] * int(count)
        self.blocks = nn.ModuleList()
        for i, (resolution, width) in enumerate(plan):
            next_width = plan[min(i + 1, len(plan) - 1)][1]
            self.blocks.append(DecoderBlock(hp, width, next_width, resolution))
        self.bias = nn.ParameterList()
        for resolution, width in sorted(set(plan)):
            if resolution <= hp.bias_max_res:
                self.bias.append(nn.Parameter(torch.zeros(1, width, resolution, resolution)))

    def forward(self, parents, acts=None, latents=(), temperature=None, generator=None):
        bias = {b.shape[-1]: b for b in self.bias}
        h = bias[1].repeat(parents.shape[0], 1, 1, 1)
        z = h
        layers = []
        for i, block in enumerate(self.blocks):
            res = block.resolution
            pa = parents[:, :, :res, :res]
            if h.shape[-1] < res:
                h = F.interpolate(h, scale_factor=res / h.shape[-1]) + bias.get(res, 0)
            if self.hp.q_correction:
                z = h  # the prior reads the state itself
            elif z.shape[-1] < res:
                z = F.interpolate(z, scale_factor=res / z.shape[-1]) + bias.get(res, 0)

            prior_input = torch.cat([z, pa], 1) if self.hp.cond_prior else z
            p_loc, p_logscale, features = block.split_prior(prior_input)
            if temperature is not None:
                p_logscale = p_logscale + math.log(temperature)
            layer = {}
            if not block.stochastic:
                z = p_loc
            elif acts is not None:
                q_loc, q_logscale = block.posterior(torch.cat([h, pa, acts[res]], 1)).chunk(2, 1)
                z = draw_gaussian(q_loc, q_logscale, generator)
                layer = {"z": z, "kl": kl_of_gaussians(q_loc, q_logscale, p_loc, p_logscale)}
            elif i < len(latents):
                z = latents[i]
            else:
                z = draw_gaussian(p_loc, p_logscale, generator)
            if block.stochastic:
                layers.append(layer)

            h = h + features
            h = h + block.z_proj(torch.cat([z, pa], 1))
            h = block.conv(h)
            if not self.hp.q_correction and i + 1 < len(self.blocks):
                z = block.z_feat_proj(torch.cat([z, features], 1))
        return h, layers


class DiscretisedGaussian(nn.Module):
    """Heads of the likelihood and its log probability of 8-bit pixels."""

    def __init__(self, hp):
        super().__init__()
        self.x_loc = nn.Conv2d(hp.widths[0], hp.input_channels, 1)
        self.x_logscale = nn.Conv2d(hp.widths[0], hp.input_channels, 1)

    def heads(self, h):
        return self.x_loc(h), self.x_logscale(h).clamp(min=MIN_LOGSCALE)

    @staticmethod
    def cdf(t):
        return (1 + torch.tanh(math.sqrt(2 / math.pi) * (t + 0.044715 * t**3))) / 2

    def nll(self, h, x):
        """Mean over the pixels of each image, (B,), in nats per dimension."""
        loc, logscale = self.heads(h)
        precision = torch.exp(-logscale)
        upper = self.cdf((x - loc + 1 / 255) * precision)
        lower = self.cdf((x - loc - 1 / 255) * precision)
        probability = upper - lower
        probability = torch.where(x > 0.999, 1 - lower, probability)
        probability = torch.where(x < -0.999, upper, probability)
        return -torch.log(probability.clamp(min=1e-12)).mean(dim=(1, 2, 3))

    def image(self, h):
        """loc clamped to the image range, and the scale."""
        loc, logscale = self.heads(h)
        return loc.clamp(-1, 1), logscale.exp()


class LiteralHVAE(nn.Module):
    """The published model: `x` (B, C, R, R) in [-1, 1], `parents` (B, context_dim) or expanded maps."""

    def __init__(self, hparams, padding_removed=False):
        super().__init__()
        self.hp = SimpleNamespace(**hparams, padding_removed=padding_removed)
        self.encoder = Encoder(self.hp)
        self.decoder = Decoder(self.hp)
        self.likelihood = DiscretisedGaussian(self.hp)
        self.register_buffer(
            "log2", torch.tensor(2.0).log()
        )  # published checkpoints hold it; nothing reads it

    def _maps(self, parents):
        return expand_parents(parents, self.hp.input_res)

    def forward(self, x, parents, beta=1.0, generator=None):
        """Free energy `elbo`, `nll` and `kl`, means over the batch in nats per dimension."""
        h, layers = self.decoder(self._maps(parents), acts=self.encoder(x), generator=generator)
        nll = self.likelihood.nll(h, x).mean()
        if self.hp.kl_free_bits > 0:
            floor = torch.tensor(self.hp.kl_free_bits, dtype=x.dtype)
            kl = sum(torch.maximum(layer["kl"].sum((2, 3)).mean(0), floor).sum() for layer in layers)
        else:
            kl = sum(layer["kl"].sum((1, 2, 3)) for layer in layers).mean()
        kl = kl / math.prod(x.shape[1:])
        return {"elbo": nll + beta * kl, "nll": nll, "kl": kl}

    def sample(self, parents, temperature=None, generator=None):
        """(loc, scale) of images whose latents come from the prior."""
        h, _ = self.decoder(self._maps(parents), temperature=temperature, generator=generator)
        return self.likelihood.image(h)

    def abduct(self, x, parents, generator=None):
        """Latents z ~ q(z | x, pa)."""
        _, layers = self.decoder(self._maps(parents), acts=self.encoder(x), generator=generator)
        return [layer["z"] for layer in layers]

    def forward_latents(self, latents, parents):
        """(loc, scale) decoded from given latents."""
        h, _ = self.decoder(self._maps(parents), latents=latents)
        return self.likelihood.image(h)

    def counterfactual(self, x, parents, cf_parents, generator=None):
        """x* = clamp(loc* + scale* u, -1, 1) with u = (x - loc) / scale: 1 encoder and 3 decoder passes."""
        latents = self.abduct(x, parents, generator=generator)
        cf_loc, cf_scale = self.forward_latents(latents, cf_parents)
        loc, scale = self.forward_latents(latents, parents)
        u = (x - loc) / scale.clamp(min=1e-12)
        return (cf_loc + cf_scale * u).clamp(-1, 1)


def randomise(model, seed=0, gain=0.7):
    """Random values in *every* parameter, so that no path is silent (published models start with zero priors).

    The pixel scale's head is kept small: where a pixel lies many scales from its mean, the probability of its bin is
    a difference of two float32 numbers next to 1, and no two implementations agree on its logarithm.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            fan_in = parameter[0].numel() if name.endswith("weight") else 25.0
            size = gain / math.sqrt(fan_in) * (0.2 if "x_logscale" in name else 1.0)
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * size)
    return model


def save_checkpoint(path, model, hparams, ema_model=None, namespace=False, **extra):
    """Write the file that the published trainer writes."""
    checkpoint = {
        "epoch": 3,
        "step": 42,
        "best_loss": torch.tensor(1.5),
        "model_state_dict": model.state_dict(),
        "ema_model_state_dict": (ema_model or model).state_dict(),
        "optimizer_state_dict": {"state": {}, "param_groups": [{"lr": 1e-3, "params": [0, 1]}]},
        "scheduler_state_dict": {"last_epoch": 42, "_step_count": 43},
        "hparams": argparse.Namespace(**hparams) if namespace else hparams,
    }
    checkpoint.update(extra)
    torch.save(checkpoint, path)
