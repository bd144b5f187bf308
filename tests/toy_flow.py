"""A generator whose flow is known: latents are independent Gaussians, so the best velocity has a closed form."""

import torch

from sae_audio.diffrhythm.dit import DiT, DiTConfig
from sae_audio.diffrhythm.generator import Generator
from sae_audio.generators import Model

CONFIG = DiTConfig(
    dim=32, depth=2, heads=2, ff_mult=2, text_dim=8, conv_layers=1, text_num_embeds=256, style_dim=8, time_dim=16, max_frames=64
)  # fmt: skip
NAMES = ("grand piano", "viola", "violin")


def random_generator(mean: torch.Tensor, std: torch.Tensor, kind: type = Generator) -> Generator:
    """A tiny DiT with random weights over latents of this mean and standard deviation."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        generator = kind(DiT(CONFIG), NAMES, guidance=1.0)
        torch.nn.init.normal_(generator.dit.proj_out.weight, std=0.02)
        torch.nn.init.normal_(generator.dit.norm_out.linear.weight, std=0.02)
    generator.latent_mean.copy_(mean)
    generator.latent_std.copy_(std)
    return generator.eval().requires_grad_(False)


class GaussianFlow(Generator):
    """Data are N(mean, (wide·std)²) per channel and frame, noise N(mean, std²).

    With z standardised, E[x₁ | z_t] = t·w²/(t²·w² + (1 − t)²) · z_t, and the velocity is (x̂₁ − z_t)/(1 − t).
    """

    wide = 1.0

    def believed(self, x: torch.Tensor, t: float) -> torch.Tensor:
        gain = t * self.wide**2 / (t**2 * self.wide**2 + (1 - t) ** 2)
        return self.latent_mean + gain * (x - self.latent_mean)

    def forward(self, x, t, context):
        """Return the velocity of ``x [B, T, mel_dim]`` at ``t [B]``; conditions change nothing."""
        t = float(t[0])
        return (self.believed(x, t) - x) / (1 - t)


def toy_model(mean: torch.Tensor, std: torch.Tensor, kind: type = Generator) -> Model:
    return Model(random_generator(mean, std, kind), "etude-codec", "toy", None)
