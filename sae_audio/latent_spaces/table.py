"""Every latent space by name: what is known of it before anything is imported or downloaded. Nothing here imports a model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sae_audio.errors import LatentSpaceError

CONFIGS = ("config.json", "preprocessor_config.json")
"""What says which class a repository is for, and what sound it takes."""

WEIGHT_FILES = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
"""Weight files of transformers, in the order in which it looks for them; an index names the files that they are split into."""


@dataclass(frozen=True)
class SpaceRow:
    """A latent space that ``load_latent_space`` knows."""

    module: str
    """Module of the adapter in ``sae_audio.latent_spaces``; imported only when the space is loaded."""
    adapter: str
    """Class in that module. ``adapter.load(folder, device=…, tap=…)`` returns a space."""
    source: str
    """Where the weights come from unless told: a Hub repository, or a folder of the repository's ``checkpoints/``."""
    sample_rate: int
    """Samples per second, in Hz."""
    channels: int
    """Audio channels: 1 or 2."""
    hop_length: int
    """Audio samples per latent frame."""
    d_in: int
    """Channels of one latent frame."""
    licence: str
    """Licence of the weights."""
    taps: tuple[str, ...] = ()
    """Tensors that can serve as latents; the first is the default. Empty for an encoder, whose taps are its layers."""
    layers: int = 0
    """Transformer blocks of an encoder: its taps are ``layer 0`` (before the first) to ``layer N``; by default the middle one."""
    encode_only: bool = False
    """Whether a space with taps cannot be decoded; an encoder's layers never can."""
    model_type: str = ""
    """What ``config.json`` of transformers' checkpoints must say; nothing where that is not what tells spaces apart."""
    packages: tuple[str, ...] = ()
    """Packages beyond the base installation, by the name that both ``import`` and ``pip`` know."""
    shipped: bool = False
    """Whether ``source`` is a folder of ``checkpoints/`` rather than a Hub repository."""
    revision: str | None = None
    """Commit of the Hub repository to take unless told; None is its newest."""
    needs: str = ""
    """What the weights ask for beyond a download; nothing for most."""
    remote_code: bool = False
    """Whether some checkpoints of this kind need Python code of their own, which runs only where the user says so."""
    files: tuple[str, ...] = ("config.json",)
    """Files to fetch from the Hub repository beside the weights; glob patterns."""
    weights: tuple[str, ...] = WEIGHT_FILES
    """Weight files, best first; the first that the repository has is fetched."""

    @property
    def decodes(self) -> bool:
        """Whether the latents can be made sound again."""
        return bool(self.taps) and not self.encode_only

    @property
    def default_tap(self) -> str:
        """The tap taken unless told."""
        return self.taps[0] if self.taps else f"layer {self.layers // 2}"


def _transformers(module: str, adapter: str, source: str, licence: str, **values: Any) -> SpaceRow:
    return SpaceRow(module, adapter, source, licence=licence, packages=("transformers",), **values)


def _encodec(rate: str, sample_rate: int, channels: int, hop_length: int, licence: str) -> SpaceRow:
    geometry = dict(sample_rate=sample_rate, channels=channels, hop_length=hop_length, d_in=128)
    return _transformers(
        "encodec", "Encodec", f"facebook/encodec_{rate}", licence, taps=("encoder", "quantized"), model_type="encodec", **geometry
    )


def _dac(rate: str, sample_rate: int, hop_length: int) -> SpaceRow:
    geometry = dict(sample_rate=sample_rate, channels=1, hop_length=hop_length, d_in=1024)
    return _transformers("dac", "Dac", f"descript/dac_{rate}", "MIT", taps=("encoder", "quantized"), model_type="dac", **geometry)


def _oobleck(source: str, licence: str, **files: Any) -> SpaceRow:
    geometry: dict[str, Any] = dict(sample_rate=44_100, channels=2, hop_length=2048, d_in=64)
    return SpaceRow("oobleck", "Oobleck", source, licence=licence, taps=("mean",), packages=("diffusers",), **geometry, **files)


def _wavtokenizer(repo: str, weights: tuple[str, ...], hop_length: int) -> SpaceRow:
    geometry = dict(sample_rate=24_000, channels=1, hop_length=hop_length, d_in=512)
    taps = ("encoder", "quantized")
    return _transformers("wavtokenizer", "WavTokenizer", repo, "MIT", taps=taps, files=(), weights=weights, **geometry)


def _encoder(source: str, licence: str, **values: Any) -> SpaceRow:
    values = dict(layers=12, d_in=768, sample_rate=16_000, hop_length=320, channels=1, files=CONFIGS) | values
    return _transformers("waveform_encoder", "WaveformEncoder", source, licence, **values)


def _mert(size: str, layers: int, d_in: int, needs: str = "") -> SpaceRow:
    files = (*CONFIGS, "*.py")
    return _encoder(
        f"m-a-p/MERT-v1-{size}",
        "CC BY-NC 4.0",
        layers=layers,
        d_in=d_in,
        sample_rate=24_000,
        files=files,
        remote_code=True,
        model_type="mert_model",
        needs=needs,
    )


def _whisper(size: str, layers: int, d_in: int) -> SpaceRow:
    geometry = dict(sample_rate=16_000, channels=1, hop_length=320, d_in=d_in)
    licence = "MIT" if size == "large-v3-turbo" else "Apache-2.0"
    return _transformers(
        "whisper", "Whisper", f"openai/whisper-{size}", licence, layers=layers, files=CONFIGS, model_type="whisper", **geometry
    )


SPACES: dict[str, SpaceRow] = {
    "etude-codec": SpaceRow(
        "etude",
        "EtudeCodec",
        "etude-codec",
        sample_rate=16_000,
        channels=1,
        hop_length=320,
        d_in=64,
        licence="Apache-2.0",
        taps=("mean",),
        shipped=True,
    ),
    "encodec-24khz": _encodec("24khz", 24_000, 1, 320, "not stated on the card"),
    "encodec-32khz": _encodec("32khz", 32_000, 1, 640, "CC BY-NC 4.0 (MusicGen)"),
    "encodec-48khz": _encodec("48khz", 48_000, 2, 320, "not stated on the card"),
    "stable-audio-vae": _oobleck(
        "stabilityai/stable-audio-open-1.0",
        "Stability AI Community (gated)",
        needs="gated: accept the licence on the Hub",
        files=("vae/config.json", "config.json", "model_config.json"),
        weights=(
            "vae/diffusion_pytorch_model.safetensors",
            "diffusion_pytorch_model.safetensors",
            "model.safetensors",
            "model.ckpt",
        ),
    ),
    "diffrhythm-vae": _oobleck(
        "ASLP-lab/DiffRhythm-vae",
        "Stability AI Community",
        files=("config.json",),
        weights=("vae_model.pt", "diffusion_pytorch_model.safetensors"),
        revision="74e2afacfd91dd1b96662c96dcef763c1258768b",
    ),
    "wavtokenizer-75": _wavtokenizer("novateur/WavTokenizer", ("WavTokenizer_small_320_24k_4096.ckpt",), 320),
    "wavtokenizer-75-medium-music": _wavtokenizer(
        "novateur/WavTokenizer-medium-music-audio-75token",
        ("wavtokenizer_medium_music_audio_320_24k_v2.ckpt", "wavtokenizer_medium_music_audio_320_24k.ckpt"),
        320,
    ),
    "wavtokenizer-75-medium-speech": _wavtokenizer(
        "novateur/WavTokenizer-medium-speech-75token",
        ("wavtokenizer_medium_speech_320_24k_v2.ckpt", "wavtokenizer_medium_speech_320_24k.ckpt"),
        320,
    ),
    "wavtokenizer-75-large-speech": _wavtokenizer(
        "novateur/WavTokenizer-large-speech-75token", ("wavtokenizer_large_speech_320_v2.ckpt",), 320
    ),
    "wavtokenizer-40": _wavtokenizer("novateur/WavTokenizer", ("WavTokenizer_small_600_24k_4096.ckpt",), 600),
    "wavtokenizer-40-large-unify": _wavtokenizer(
        "novateur/WavTokenizer-large-unify-40token", ("wavtokenizer_large_unify_600_24k.ckpt",), 600
    ),
    "dac-16khz": _dac("16khz", 16_000, 320),
    "dac-24khz": _dac("24khz", 24_000, 320),
    "dac-44khz": _dac("44khz", 44_100, 512),
    "mimi": _transformers(
        "mimi",
        "Mimi",
        "kyutai/mimi",
        "CC BY 4.0",
        model_type="mimi",
        taps=("encoder", "quantized"),
        sample_rate=24_000,
        channels=1,
        hop_length=1920,
        d_in=512,
    ),
    "hubert-base": _encoder("facebook/hubert-base-ls960", "Apache-2.0", model_type="hubert"),
    "wavlm-base-plus": _encoder("microsoft/wavlm-base-plus", "MIT by its authors; not stated on the card", model_type="wavlm"),
    "wav2vec2-base": _encoder("facebook/wav2vec2-base", "Apache-2.0", model_type="wav2vec2"),
    "mert-v1-95m": _mert("95M", 12, 768),
    "mert-v1-330m": _mert("330M", 24, 1024, "--trust-remote-code with a pinned commit"),
    "whisper-tiny": _whisper("tiny", 4, 384),
    "whisper-base": _whisper("base", 6, 512),
    "whisper-small": _whisper("small", 12, 768),
    "whisper-medium": _whisper("medium", 24, 1024),
    "whisper-large-v3": _whisper("large-v3", 32, 1280),
    "whisper-large-v3-turbo": _whisper("large-v3-turbo", 32, 1280),
    "ast": _transformers(
        "spectrogram_encoder",
        "SpectrogramEncoder",
        "MIT/ast-finetuned-audioset-10-10-0.4593",
        "BSD-3-Clause",
        model_type="audio-spectrogram-transformer",
        layers=12,
        files=CONFIGS,
        sample_rate=16_000,
        channels=1,
        hop_length=1600,
        d_in=768,
    ),
}
"""Known latent spaces by the name that ``load_latent_space`` takes."""

CODEC_TYPES = {"encodec": ("encodec", "Encodec"), "dac": ("dac", "Dac"), "mimi": ("mimi", "Mimi")}
"""Adapters of codecs by the ``model_type`` of transformers' ``config.json``."""
ENCODER_TYPES = {
    **dict.fromkeys(
        ("hubert", "wav2vec2", "wavlm", "mert_model", "data2vec-audio", "unispeech-sat"), ("waveform_encoder", "WaveformEncoder")
    ),
    "whisper": ("whisper", "Whisper"),
    "audio-spectrogram-transformer": ("spectrogram_encoder", "SpectrogramEncoder"),
}
"""Adapters of encoders by the ``model_type`` of transformers' ``config.json``."""


def generic_row(source: str, model_type: object) -> SpaceRow:
    """Return a row for any transformers checkpoint whose class is one of those supported; its geometry is read on loading.

    Parameters
    ----------
    source : str
        Hub repository.
    model_type : object
        The entry ``model_type`` of its ``config.json``.

    Raises
    ------
    LatentSpaceError
        The class is another one; the known are listed.
    """
    known = CODEC_TYPES | ENCODER_TYPES
    if not isinstance(model_type, str) or model_type not in known:
        raise LatentSpaceError(
            f"{source} holds a model of type {model_type!r}; as hf: spaces load the types {', '.join(sorted(known))}"
        )
    unknown: dict[str, Any] = dict(sample_rate=0, channels=0, hop_length=0, d_in=0)
    taps = ("encoder", "quantized") if model_type in CODEC_TYPES else ()
    remote = model_type == "mert_model"
    files = (*CONFIGS, "*.py") if remote else CONFIGS
    licence = "see the model's card"
    return _transformers(*known[model_type], source, licence, taps=taps, files=files, remote_code=remote, **unknown)
