"""Hear what one feature does in a sound: the sound of it alone, without it, or with more of it.

alone:     decode(a_f)        every other activation 0; the decoder's bias, the latents' resting point, stays
remove:    x − a_f d_f        d_f is the feature's direction; what the SAE does not explain of x stays as it is
boost:     x + (factor − 1) a_f d_f
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from sae_audio.bundle import Bundle
from sae_audio.bundle_space import codec_of
from sae_audio.descriptors import Descriptors
from sae_audio.errors import ParameterError
from sae_audio.latent_spaces import LatentSpace
from sae_audio.listener import listener
from sae_audio.pipeline import View

WAYS = ("alone", "remove", "boost")


class Audition(NamedTuple):
    """A feature made audible, with what was measured."""

    audio: Tensor
    """[channels, N] in the form of the latent space."""
    before: Descriptors
    """Measured on the codec's reconstruction of the sound, each [T]."""
    after: Descriptors
    """Measured on ``audio``, each [T]."""
    fires: Tensor
    """[T] bool: frames in which the feature fires; the others are as they were, but for what the decoder smears."""


@torch.inference_mode()
def audition(bundle: Bundle, view: View, feature: int, way: str, *, space: LatentSpace, factor: float = 3.0) -> Audition:
    """Return what a sound is with one feature alone, removed or boosted.

    Parameters
    ----------
    bundle : Bundle
        Whose feature.
    view : View
        The sound, from ``analyse`` with the same bundle.
    feature : int
        Feature, 0 to d_sae - 1.
    way : {"alone", "remove", "boost"}
        What is done, see the top of this file.
    space : LatentSpace
        The bundle's latent space; must decode.
    factor : float
        How many times its activation a boosted feature has.

    Raises
    ------
    ParameterError
        There is no such feature or way, the feature does not fire in the sound, or the space cannot be decoded.
    """
    codec = codec_of(bundle, space)
    if way not in WAYS:
        raise ParameterError(f"a feature is auditioned as {', '.join(WAYS)}; got '{way}'")
    name = bundle.atlas.feature(feature).name.text
    activation = view.acts[:, feature].to_dense()
    if not bool((activation > 0).any()):
        raise ParameterError(f"feature {feature} ({name}) does not fire in this sound, so there is nothing of it to hear")
    effect = activation[:, None] * bundle.sae.directions()[feature]
    change = {"remove": -1.0, "boost": factor - 1.0}
    nothing = bundle.sae.decode(torch.zeros(1, bundle.sae.config.d_sae))
    latents = nothing + effect if way == "alone" else view.latents + change[way] * effect
    heard = listener(codec, like=view.audio[None], mel_bands=0)
    both = [heard(x[None]) for x in (view.latents, latents)]
    before, after = (Descriptors(*(column[0] for column in one.descriptors)) for one in both)
    return Audition(both[1].audio[0], before, after, activation > 0)
