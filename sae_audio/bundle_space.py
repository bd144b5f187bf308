"""The latent space of a bundle: loaded, checked, and known to give sound back where that is needed."""

from __future__ import annotations

from pathlib import Path

from sae_audio.bundle import Bundle
from sae_audio.errors import BundleError, ParameterError
from sae_audio.latent_spaces import SPACES, Codec, LatentSpace, load_latent_space
from sae_audio.latent_spaces.signature import same_weights, signature


def space_of(
    bundle: Bundle,
    *,
    source: str | Path | None = None,
    revision: str | None = None,
    device: str = "cpu",
    dtype: str = "float32",
    trust_remote_code: bool = False,
) -> LatentSpace:
    """Load the latent space that a bundle was trained on.

    Parameters
    ----------
    bundle : Bundle
        Says which model, tap and revision.
    source : str or path, optional
        Folder, file or Hub repository of the model's checkpoint where it is no longer where the bundle was trained from.
    revision : str, optional
        Branch, tag or commit of the model's Hub repository; by default the commit that the bundle was trained on, unless
        ``source`` names another place.
    device, dtype, trust_remote_code
        As in ``load_latent_space``.

    Raises
    ------
    LatentSpaceError
        The checkpoint cannot be loaded.
    BundleError
        Its weights are not those that the bundle was trained on.
    """
    spec = bundle.spec
    row = SPACES.get(spec.name)
    shipped = row is not None and row.shipped and spec.repo == f"checkpoints/{row.source}"
    if source is None or str(source) == spec.repo:
        source, revision = None if shipped else spec.repo, revision or spec.revision
    space = load_latent_space(
        spec.name,
        tap=spec.tap,
        source=source,
        revision=revision,
        device=device,
        dtype=dtype,
        trust_remote_code=trust_remote_code,
    )
    trained_on = bundle.provenance.get("signature")
    if trained_on is not None and not same_weights(trained_on, signature(space)):
        raise BundleError(
            f"the bundle was trained on other weights of '{spec.name}' than {space.spec.repo} holds; "
            "train it again, or get the weights and the bundle of one version"
        )
    return space


def check_space(bundle: Bundle, space: LatentSpace) -> None:
    """Raise ``ParameterError`` unless a space is the one that the bundle is for."""
    for name in ("name", "tap", "sample_rate", "channels", "hop_length", "d_in"):
        wanted, given = getattr(bundle.spec, name), getattr(space.spec, name)
        if wanted != given:
            raise ParameterError(f"the bundle is for a latent space with {name} {wanted}, but the one given has {given}")


def codec_of(bundle: Bundle, space: LatentSpace | None = None) -> Codec:
    """Return the codec that a bundle is for, the one given or loaded here.

    Raises
    ------
    ParameterError
        The one given is for another bundle, or the bundle's space cannot be decoded to sound.
    """
    space = space or space_of(bundle)
    check_space(bundle, space)
    return as_codec(space)


def as_codec(space: LatentSpace) -> Codec:
    """Return a space as the codec that it is; ``ParameterError`` if it cannot be decoded to sound."""
    if not isinstance(space, Codec):
        raise ParameterError(
            f"'{space.spec.name}' cannot be decoded to sound: its features can be seen, but not heard or steered; "
            "use a bundle of a codec such as etude-codec or encodec-24khz"
        )
    return space
