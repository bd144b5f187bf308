"""Train a sparse autoencoder on latents: one loop for every variant, on one device or many, resumable at any moment."""

from sae_audio.training.config import TrainConfig
from sae_audio.training.loop import TrainResult, frame_order, started_sae, train_sae, validate

__all__ = ["TrainConfig", "TrainResult", "frame_order", "started_sae", "train_sae", "validate"]
