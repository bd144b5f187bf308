"""What a latent space is, in numbers. Everything that must agree between audio, latents, SAE and bundle is here."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass, fields

from sae_audio.errors import ParameterError

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
"""What can be the id of a Hub repository."""


@dataclass(frozen=True)
class LatentSpec:
    """The identity and the geometry of a latent space.

    Frame ``i`` of the latents stands for the audio samples ``[i * hop_length, (i + 1) * hop_length)``, so its centre is at
    ``(i + 1/2) * hop_length`` samples; a clip of ``n`` samples has ``ceil(n / hop_length)`` frames.
    """

    name: str
    """Name in ``load_latent_space``, for example ``etude-codec``."""
    repo: str
    """Hub repository or folder that the weights come from."""
    revision: str | None
    """Commit or tag of the repository; None for a local folder."""
    sample_rate: int
    """Samples per second of the audio that ``encode`` takes, in Hz."""
    channels: int
    """Audio channels that ``encode`` takes: 1 or 2."""
    hop_length: int
    """Audio samples per latent frame."""
    d_in: int
    """Channels of one latent frame."""
    tap: str
    """Which tensor of the model counts as its latents, for example ``mean``, ``encoder``, ``quantized``, ``layer 6``."""

    def __post_init__(self) -> None:
        for name in ("sample_rate", "channels", "hop_length", "d_in"):
            value = getattr(self, name)
            if not isinstance(value, int) or value < 1:
                raise ParameterError(f"LatentSpec.{name} is {value!r}; it must be a whole number of at least 1")

    @property
    def frame_rate(self) -> float:
        """Latent frames per second, in Hz."""
        return self.sample_rate / self.hop_length

    def n_frames(self, n_samples: int) -> int:
        """Latent frames of a clip of ``n_samples`` samples: ``ceil(n_samples / hop_length)``."""
        return -(-n_samples // self.hop_length)

    def frame_time(self, frame: int) -> float:
        """Time of the centre of a frame, in seconds."""
        return (frame + 0.5) / self.frame_rate

    def to_dict(self) -> dict:
        """Return a JSON-ready dictionary; ``from_dict`` reads it back."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict) -> LatentSpec:
        """Build a spec from a dictionary; an unknown or missing key raises ``ParameterError`` and is named."""
        known = {field.name for field in fields(cls)}
        if wrong := known ^ set(values):
            raise ParameterError(f"latent spec has unknown or missing keys: {', '.join(sorted(wrong))}")
        return cls(**values)
