"""To and from SAELens' format, so that its tools read our models without us importing it.

SAELens (6.x) knows no per-channel input scaling, so scaling is folded into the weights:

    W_enc' = W_enc / std (rows)      b_enc' = b_enc      W_dec' = W_dec · std      b_dec' = b_dec · std + mean

Then (x − b_dec') W_enc' + b_enc' = z exactly, apart from rounding. Its loader is strict: a tensor that it does not expect is
fatal. ``batch_topk`` and ``matryoshka`` ship as ``jumprelu`` with one threshold for all features, as SAELens' own do.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sae_audio.errors import BundleError, ParameterError
from sae_audio.sae import SAE, SAEConfig, build_sae

SAELENS_VARIANTS = {
    "relu": "standard",
    "topk": "topk",
    "batch_topk": "jumprelu",
    "matryoshka": "jumprelu",
    "jumprelu": "jumprelu",
}
OUR_VARIANTS = {"standard": "relu", "topk": "topk", "jumprelu": "jumprelu"}


@torch.no_grad()
def to_saelens(sae: SAE, metadata: dict | None = None) -> tuple[dict, dict[str, Tensor]]:
    """Return an SAE in SAELens' format.

    Parameters
    ----------
    sae : SAE
        Any variant but ``relu_rmsnorm``, which SAELens has no equivalent of.
    metadata : dict, optional
        JSON-ready facts to keep with it; SAELens keeps what it finds there.

    Returns
    -------
    cfg : dict
        Content of ``cfg.json``.
    tensors : dict of str to Tensor
        Content of ``sae_weights.safetensors``: float32, contiguous, on the CPU.

    Raises
    ------
    ParameterError
        SAELens has no such variant.
    """
    config = sae.config
    if config.variant not in SAELENS_VARIANTS:
        raise ParameterError(f"SAELens has no variant '{config.variant}'; it can take {', '.join(SAELENS_VARIANTS)}")
    tensors = {
        "W_enc": sae.W_enc / sae.std[:, None],
        "b_enc": sae.b_enc,
        "W_dec": sae.W_dec * sae.std,
        "b_dec": sae.b_dec * sae.std + sae.mean,
    }
    architecture = SAELENS_VARIANTS[config.variant]
    if architecture == "jumprelu":
        tensors["threshold"] = sae.state_dict()["threshold"].expand(config.d_sae)
    cfg = {
        "architecture": architecture,
        "d_in": config.d_in,
        "d_sae": config.d_sae,
        "dtype": "float32",
        "device": "cpu",
        "apply_b_dec_to_input": True,
        "normalize_activations": "none",
        "reshape_activations": "none",
        "metadata": {"sae_lens_version": "6.0.0", "training_architecture": config.variant} | (metadata or {}),
    }
    if architecture == "topk":
        # The folded decoder rows are not of length 1, and selection must not be rescaled by their length.
        cfg |= {"k": config.k, "rescale_acts_by_decoder_norm": False}
    return cfg, {
        name: value.detach().float().cpu().clone(memory_format=torch.contiguous_format) for name, value in tensors.items()
    }


def from_saelens(cfg: dict, tensors: dict[str, Tensor]) -> SAE:
    """Return an SAE of ours that computes what SAELens' inference model of these files computes.

    Scaling stays folded and decoder rows keep their length, so activations are theirs: this SAE is for inference. What
    ``to_saelens`` wrote comes back with equal activations; ``batch_topk`` and ``matryoshka`` come back as ``jumprelu``.

    Parameters
    ----------
    cfg : dict
        Content of ``cfg.json``.
    tensors : dict of str to Tensor
        Content of ``sae_weights.safetensors``.

    Raises
    ------
    BundleError
        An architecture or an input normalisation that is not one of ours, or missing tensors.
    """
    architecture = cfg.get("architecture")
    if architecture not in OUR_VARIANTS:
        raise BundleError(f"SAELens architecture '{architecture}' is not supported; supported are {', '.join(OUR_VARIANTS)}")
    if cfg.get("normalize_activations", "none") != "none" or not cfg.get("apply_b_dec_to_input", True):
        raise BundleError("this SAELens model normalises its input at run time; fold that into the weights first")
    wanted = {"W_enc", "b_enc", "W_dec", "b_dec"} | ({"threshold"} if architecture == "jumprelu" else set())
    if wrong := wanted ^ set(tensors):
        raise BundleError(f"SAELens weights have missing or unknown tensors: {', '.join(sorted(wrong))}")
    if cfg.get("rescale_acts_by_decoder_norm") and not torch.allclose(tensors["W_dec"].norm(dim=1), torch.ones(1)):
        raise BundleError("this SAELens model rescales its selection by the decoder norm; fold that into the weights first")
    sae = build_sae(SAEConfig(OUR_VARIANTS[architecture], cfg["d_in"], cfg["d_sae"], k=cfg.get("k")))
    sae.load_state_dict(tensors, strict=False)
    return sae
