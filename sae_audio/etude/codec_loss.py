"""What the étude codec is trained on: distances between spectra that the ear and the descriptors care about."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torchaudio.functional import melscale_fbanks

from sae_audio.etude.codec import LEVEL_WEIGHT, CodecConfig, Posterior, expand

N_MELS = 80
TERM_WEIGHTS = {"shape": 1.0, "mel": 1.0, "level": 0.5, "centroid": 0.5, "kl": 0.01}
MEL_FLOOR = 1e-5
"""Added to mel magnitudes, full-scale sine = 1: what is below -100 dBFS does not matter."""


class CodecLoss(nn.Module):
    """Sum of the terms in ``WEIGHTS``, each a mean over frames.

    - shape: |Δ compressed shape| in standard deviations of the features; its power of 0.3 makes strong partials count most
    - mel: |Δ log mel magnitude|, in nats, 80 bands
    - level, centroid: |Δ log| of each spectrum's norm and of its centre of gravity, in nats
    - kl: Kullback-Leibler divergence of the encoder's Gaussian from the standard normal, per latent
    """

    bank: Tensor
    hertz: Tensor

    def __init__(self, config: CodecConfig) -> None:
        super().__init__()
        self.config = config
        bank = melscale_fbanks(config.n_bins, 0.0, config.sample_rate / 2, N_MELS, config.sample_rate)
        self.register_buffer("bank", bank)  # [n_bins, N_MELS]
        self.register_buffer("hertz", torch.linspace(0, config.sample_rate / 2, config.n_bins))

    def forward(self, guess: Tensor, target: Tensor, scale: Tensor, posterior: Posterior) -> dict[str, Tensor]:
        """Return each unweighted term as a scalar.

        Parameters
        ----------
        guess, target : Tensor [B, T, d_features]
            Features, reconstructed and true.
        scale : Tensor []
            Standard deviation of the features.
        posterior : Posterior
            The encoder's Gaussian.
        """
        pairs = ((guess - target) / scale).abs().unflatten(-1, (-1, self.config.n_bins + 1))
        a, b = expand(guess, self.config), expand(target, self.config)  # [B, T, 2, n_bins]
        return {
            "shape": pairs[..., :-1].mean(),
            "mel": (self._log_mel(a) - self._log_mel(b)).abs().mean(),
            "level": pairs[..., -1].mean() * scale / LEVEL_WEIGHT,
            "centroid": (self._log_centroid(a) - self._log_centroid(b)).abs().mean(),
            "kl": kl_divergence(posterior),
        }

    def total(self, terms: dict[str, Tensor]) -> Tensor:
        """Return the weighted sum."""
        return sum((TERM_WEIGHTS[name] * value for name, value in terms.items()), torch.zeros(()))

    def _log_mel(self, magnitudes: Tensor) -> Tensor:
        return (magnitudes @ self.bank + MEL_FLOOR).log()

    def _log_centroid(self, magnitudes: Tensor) -> Tensor:
        magnitudes = magnitudes + MEL_FLOOR
        return ((magnitudes * self.hertz).sum(-1) / magnitudes.sum(-1)).log()


def kl_divergence(posterior: Posterior) -> Tensor:
    """Return KL(N(mean, std²) ‖ N(0, 1)) in nats, averaged over latents: ``(mean² + std² - 1) / 2 - log std``."""
    return (0.5 * (posterior.mean.square() + (2 * posterior.log_std).exp() - 1) - posterior.log_std).mean()
