"""How fast and how large every latent space is, beside the bare model: ``python -m benchmarks.latent_spaces``.

    python -m benchmarks.latent_spaces                                    the table of the README, about a quarter of an hour
    python -m benchmarks.latent_spaces --only mimi ast --seconds 10 --json -

Models have the public sizes and random weights, which do not change the speed. One clip of noise, the bare model and ours in
turns; columns:

- encode, decode: seconds of audio per second of processor time through ``LatentSpace``, the median of the repeats;
- over bare: time through ``LatentSpace`` over the time of the model's own call (with its own feature extractor, where it has one)
  on the same audio, minus one, the median over the repeats. The bar is 5 %. Less than nothing: windows stay in the caches;
- memory: the most that encoding and decoding took above the loaded model, and what the bare model took, in MiB;
- model: memory of the weights, in MiB.

Each model runs in a process of its own.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import NamedTuple

import torch
from torch import Tensor

from sae_audio.latent_spaces import SPACES, Codec, LatentSpace

OVERHEAD_BAR = 0.05
BANDWIDTH = {"encodec-24khz": 24.0, "encodec-32khz": 2.2, "encodec-48khz": 24.0}
"""Highest bandwidth of each EnCodec, in kbit/s."""


class Case(NamedTuple):
    """A latent space and the calls of its bare model."""

    space: LatentSpace
    encode: Callable[[Tensor], object] | None = None
    """[B, channels, N] -> whatever the model gives; None where the model is ours."""
    decode: Callable[[Tensor], object] | None = None
    """Latents [B, T, d_in] -> audio; None where nothing compares."""


def encodec(name: str) -> Case:
    """EnCodec with the tap ``quantized``, so that both sides quantise."""
    from transformers import EncodecConfig, EncodecModel

    from sae_audio.latent_spaces.encodec import Encodec

    options = {
        "encodec-24khz": {},
        "encodec-32khz": dict(
            sampling_rate=32_000,
            num_filters=64,
            upsampling_ratios=[8, 5, 4, 4],
            codebook_size=2048,
            use_causal_conv=False,
            use_conv_shortcut=False,
            target_bandwidths=[2.2],
        ),
        "encodec-48khz": dict(
            sampling_rate=48_000,
            audio_channels=2,
            use_causal_conv=False,
            norm_type="time_group_norm",
            normalize=True,
            chunk_length_s=1.0,
            overlap=0.01,
            target_bandwidths=[3.0, 6.0, 12.0, 24.0],
        ),
    }[name]
    model = EncodecModel(EncodecConfig(**options)).eval()
    return Case(
        Encodec(model, "quantized"),
        lambda x: model.encode(x, bandwidth=BANDWIDTH[name]).audio_codes,
        None if name == "encodec-48khz" else lambda z: model.decoder(z.mT),
    )


def oobleck(name: str) -> Case:
    """The VAE of Stable Audio Open and DiffRhythm."""
    from diffusers import AutoencoderOobleck

    from sae_audio.latent_spaces.oobleck import Oobleck

    model = AutoencoderOobleck().eval()
    return Case(Oobleck(model), lambda x: model.encode(x).latent_dist.mode(), lambda z: model.decode(z.mT).sample)


def wavtokenizer(name: str) -> Case:
    """WavTokenizer at 75 or 40 frames per second."""
    from transformers import EncodecConfig
    from transformers.models.encodec.modeling_encodec import EncodecEncoder, EncodecVectorQuantization

    from sae_audio.latent_spaces.wavtokenizer import Networks, WavTokenizer
    from sae_audio.latent_spaces.wavtokenizer_decoder import DecoderConfig, FourierDecoder

    ratios = [8, 5, 4, 2] if "75" in name else [6, 5, 5, 4]
    hop = math.prod(ratios)
    config = EncodecConfig(use_causal_conv=False, upsampling_ratios=ratios, hidden_size=512, codebook_dim=512, codebook_size=4096)
    decoder = FourierDecoder(
        DecoderConfig(d_in=512, width=768, hidden=2304, blocks=12, bandwidths=4, n_fft=4 * hop, hop_length=hop)
    )
    model = Networks(EncodecEncoder(config), EncodecVectorQuantization(config), decoder).eval()
    return Case(WavTokenizer(model), lambda x: model.encoder(x), lambda z: model.decoder(z.mT))


def dac(name: str) -> Case:
    """DAC."""
    from transformers import DacConfig, DacModel

    from sae_audio.latent_spaces.dac import Dac

    options = {
        "dac-16khz": dict(sampling_rate=16_000, downsampling_ratios=[2, 4, 5, 8], upsampling_ratios=[8, 5, 4, 2], n_codebooks=12),
        "dac-24khz": dict(sampling_rate=24_000, downsampling_ratios=[2, 4, 5, 8], upsampling_ratios=[8, 5, 4, 2], n_codebooks=32),
        "dac-44khz": dict(sampling_rate=44_100, downsampling_ratios=[2, 4, 8, 8], upsampling_ratios=[8, 8, 4, 2], n_codebooks=9),
    }[name]
    model = DacModel(DacConfig(**options)).eval()
    return Case(Dac(model), lambda x: model.encoder(x), lambda z: model.decoder(z.mT))


def mimi(name: str) -> Case:
    """Mimi with the tap ``quantized``: both sides find codes and look up their codewords, and decode from latents."""
    from transformers import MimiConfig, MimiModel

    from sae_audio.latent_spaces.mimi import Mimi

    model = MimiModel(MimiConfig()).eval()
    return Case(
        Mimi(model, "quantized"),
        lambda x: model.quantizer.decode(model.encode(x).audio_codes),
        lambda z: model.decoder(z.mT).audio_values,
    )


def waveform(name: str) -> Case:
    """HuBERT and its siblings, at the last layer."""
    from transformers import HubertConfig, HubertModel, Wav2Vec2FeatureExtractor, WavLMConfig, WavLMModel

    from sae_audio.latent_spaces.waveform_encoder import WaveformEncoder

    rate, depth, width = SPACES[name].sample_rate, SPACES[name].layers, SPACES[name].d_in
    sizes = dict(num_hidden_layers=depth, hidden_size=width, num_attention_heads=width // 64, intermediate_size=4 * width)
    model = WavLMModel(WavLMConfig(**sizes)) if "wavlm" in name else HubertModel(HubertConfig(**sizes))
    model.eval()
    extractor = Wav2Vec2FeatureExtractor(sampling_rate=rate, do_normalize=True)

    def encode(x: Tensor) -> object:
        return model(
            extractor([*x[:, 0].numpy()], sampling_rate=rate, return_tensors="pt").input_values, output_hidden_states=True
        )

    return Case(WaveformEncoder(model, rate, tap=f"layer {depth}"), encode)


def whisper(name: str) -> Case:
    """The encoder of a Whisper, at the last layer."""
    from transformers import WhisperConfig, WhisperFeatureExtractor
    from transformers.models.whisper.modeling_whisper import WhisperEncoder

    from sae_audio.latent_spaces.whisper import Whisper

    depth, width, bands = SPACES[name].layers, SPACES[name].d_in, 128 if "large" in name else 80
    sizes = dict(encoder_layers=depth, d_model=width, encoder_attention_heads=width // 64, encoder_ffn_dim=4 * width)
    model = WhisperEncoder(WhisperConfig(num_mel_bins=bands, **sizes)).eval()
    extractor = WhisperFeatureExtractor(feature_size=bands)

    def encode(x: Tensor) -> object:
        mel = extractor([*x[:, 0].numpy()], sampling_rate=16_000, return_tensors="pt").input_features
        return model(mel, output_hidden_states=True)

    return Case(Whisper(model, extractor, f"layer {depth}"), encode)


def ast(name: str) -> Case:
    """The Audio Spectrogram Transformer, at the last layer."""
    from transformers import ASTConfig, ASTFeatureExtractor, ASTModel

    from sae_audio.latent_spaces.spectrogram_encoder import SpectrogramEncoder

    model, extractor = ASTModel(ASTConfig()).eval(), ASTFeatureExtractor()

    def encode(x: Tensor) -> object:
        banks = extractor([*x[:, 0].numpy()], sampling_rate=16_000, return_tensors="pt").input_values
        return model(banks, output_hidden_states=True)

    return Case(SpectrogramEncoder(model, extractor, "layer 12"), encode)


def etude(name: str) -> Case:
    """The étude codec, which is ours: there is no bare model."""
    from sae_audio.latent_spaces import load_latent_space

    return Case(load_latent_space("etude-codec"))


CASES = {
    "etude-codec": etude,
    "encodec-24khz": encodec,
    "encodec-32khz": encodec,
    "encodec-48khz": encodec,
    "stable-audio-vae": oobleck,
    "wavtokenizer-75": wavtokenizer,
    "wavtokenizer-40": wavtokenizer,
    "dac-16khz": dac,
    "dac-24khz": dac,
    "dac-44khz": dac,
    "mimi": mimi,
    "hubert-base": waveform,
    "wavlm-base-plus": waveform,
    "mert-v1-95m": waveform,
    "mert-v1-330m": waveform,
    "whisper-tiny": whisper,
    "whisper-base": whisper,
    "whisper-small": whisper,
    "whisper-medium": whisper,
    "whisper-large-v3": whisper,
    "ast": ast,
}
"""One space of each network; rows that are left out have that of another row and other weights."""


def timed(call: Callable[[], object]) -> tuple[float, float]:
    """Return the processor seconds of a call and the memory that it took at its peak, in MiB."""
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
    before, start = memory("VmRSS"), time.process_time()
    call()
    return time.process_time() - start, memory("VmHWM") - before


def memory(field: str) -> float:
    """Return a memory figure of this process, in MiB."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) / 1024


@torch.inference_mode()
def measure(name: str, seconds: float, repeats: int) -> dict:
    """Return the figures of one space."""
    case = CASES[name](name)
    spec = case.space.spec
    frames = round(seconds * spec.frame_rate)
    audio = 0.1 * torch.randn(1, spec.channels, frames * spec.hop_length, generator=torch.Generator().manual_seed(0))
    latents = case.space.encode(audio)
    seconds = audio.shape[-1] / spec.sample_rate
    model = sum(p.numel() * p.element_size() for p in case.space.model.parameters()) / 2**20
    result = {"name": name, "seconds": seconds, "model_mib": model}
    pairs = {"encode": (lambda: case.space.encode(audio), case.encode and (lambda: case.encode(audio)))}
    if isinstance(case.space, Codec):
        bare = case.decode and (lambda: case.decode(latents))
        pairs["decode"] = (lambda: case.space.decode(latents, like=audio), bare)
    for way, (ours, bare) in pairs.items():
        runs = []
        (bare or ours)()  # warm
        for _ in range(repeats):
            theirs = timed(bare) if bare else (math.nan, math.nan)
            runs.append((*timed(ours), *theirs))
        result[way] = {
            "x_realtime": seconds / median(own for own, *_ in runs),
            "overhead": median(own / bare - 1 for own, _, bare, _ in runs),
            "mib": max(mib for _, mib, *_ in runs),
            "bare_mib": max(mib for *_, mib in runs),
        }
    return result


def percent(share: float) -> str:
    """Return a share as text; nothing where it is not known."""
    return "" if math.isnan(share) else f"{100 * share:+.1f} %"


def row(result: dict) -> str:
    """Return one line of the table."""
    cells = []
    for way in ("encode", "decode"):
        found = result.get(way)
        cells += [f"{found['x_realtime']:.1f} x", percent(found["overhead"])] if found else ["", ""]
    ways = [result[way] for way in ("encode", "decode") if way in result]
    bare = max((w["bare_mib"] for w in ways if w["bare_mib"] == w["bare_mib"]), default=math.nan)
    cells += [f"{max(w['mib'] for w in ways):.0f}", "" if math.isnan(bare) else f"{bare:.0f}", f"{result['model_mib']:.0f}"]
    return f"| {result['name']} | " + " | ".join(cells) + " |"


def main() -> None:
    """Parse the command line, measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=CASES, default=[*CASES], metavar="SPACE", help="spaces to measure")
    parser.add_argument("--seconds", type=float, default=20.0, help="length of the clip (default: 20)")
    parser.add_argument("--repeats", type=int, default=3, help="runs of each (default: 3)")
    parser.add_argument("--threads", type=int, default=1, help="threads (default: 1)")
    parser.add_argument("--json", help="also write the figures to this file; - prints them instead of the table")
    parser.add_argument("--one", choices=CASES, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        torch.set_num_threads(args.threads)
        print(json.dumps(measure(args.one, args.seconds, args.repeats)))
        return
    results = []
    if args.json != "-":
        print("| space | encode | over bare | decode | over bare | memory | bare | model |\n|---|---|---|---|---|---|---|---|")
    for name in args.only:
        options = ["--one", name, "--seconds", str(args.seconds), "--repeats", str(args.repeats), "--threads", str(args.threads)]
        command = [sys.executable, "-m", "benchmarks.latent_spaces", *options]
        done = subprocess.run(
            command, capture_output=True, text=True, check=True, env={**os.environ, "OMP_NUM_THREADS": str(args.threads)}
        )
        results.append(json.loads(done.stdout.splitlines()[-1]))
        if args.json != "-":
            print(row(results[-1]), flush=True)
    if args.json:
        text = json.dumps(results, indent=2)
        print(text) if args.json == "-" else Path(args.json).write_text(text + "\n")


if __name__ == "__main__":
    main()
