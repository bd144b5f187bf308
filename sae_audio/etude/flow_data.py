"""What étude-flow learns from: latents of the étude corpus with the timbre of each clip and the note of each frame.

A frame's note token is 0 where no note is held (rests, and the ringing after a note), ``pitch + 1`` where one note is held, and
``pitch + 129`` where several are held, ``pitch`` being the MIDI semitone of the (top) note at the frame's centre. Chords have
tokens of their own, so that asking for one note means one note.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor
from tqdm import tqdm

from sae_audio.errors import DataError
from sae_audio.etude.additive import make_timbre
from sae_audio.etude.corpus import FRAME_RATE, HELD_OUT_EVERY, N_ADDITIVE, Clip, corpus
from sae_audio.etude.programs import PROGRAMS
from sae_audio.etude.scores import Score
from sae_audio.files import write_bytes
from sae_audio.latent_spaces.etude import EtudeCodec

N_PITCHES = 128
"""MIDI semitones."""
N_TOKENS = 2 * N_PITCHES
"""Note tokens besides 0."""


class FlowData(NamedTuple):
    """Clips of equal length as the generator sees them."""

    latents: Tensor
    """Of the étude codec, ``[clips, T, 64]`` float16."""
    notes: Tensor
    """Note token of each frame, ``[clips, T]`` int16."""
    styles: Tensor
    """Index of each clip's timbre in ``style_names()``, ``[clips]`` int64."""


def style_names() -> tuple[str, ...]:
    """Return the names of the timbres that training clips may use, FluidR3 programs first.

    Examples
    --------
    >>> len(style_names()), style_names()[0], style_names()[-1]
    (178, 'grand piano', 'additive-159')
    """
    programs = [program.name for program in PROGRAMS if not program.held_out]
    return (*programs, *(make_timbre(i).name for i in range(N_ADDITIVE) if i % HELD_OUT_EVERY))


def note_tokens(score: Score, n_frames: int, frame_rate: float = FRAME_RATE) -> np.ndarray:
    """Return the note token of each frame of a score.

    Parameters
    ----------
    score : Score
        Melody or several voices.
    n_frames : int
        Frames wanted.
    frame_rate : float
        In Hz.

    Returns
    -------
    numpy.ndarray [n_frames]
        int16: 0 without a held note, ``pitch + 1`` with one, top ``pitch + 129`` with several.
    """
    times = (np.arange(n_frames) + 0.5) / frame_rate
    top, held = np.zeros(n_frames, np.int16), np.zeros(n_frames, np.int16)
    for note in score.notes:
        inside = (times >= note.onset) & (times < note.onset + note.duration)
        held += inside
        top[inside] = np.maximum(top[inside], round(note.pitch) + 1)
    return top + np.where(held > 1, N_PITCHES, 0).astype(np.int16)


def encode_clips(clips: list[Clip], codec: EtudeCodec) -> FlowData:
    """Render clips and encode them; a clip on a timbre without a style raises ``DataError``."""
    index = {name: i for i, name in enumerate(style_names())}
    latents, notes = [], []
    for clip in tqdm(clips, desc="render and encode", unit="clip"):
        if clip.timbre not in index:
            raise DataError(f"clip {clip.name} plays '{clip.timbre}', a held-out timbre that has no style")
        encoded = codec.encode(torch.from_numpy(clip.render())[None, None])[0]
        latents.append(encoded.half())
        notes.append(torch.from_numpy(note_tokens(clip.score, len(encoded))))
    return FlowData(torch.stack(latents), torch.stack(notes), torch.tensor([index[clip.timbre] for clip in clips]))


def corpus_data(path: Path, minutes: float, seed: int, split: str, codec: EtudeCodec, source: str = "both") -> FlowData:
    """Return one split of the étude corpus, from ``path`` if it is there, else rendered, encoded and kept there.

    Parameters
    ----------
    path : Path
        Safetensors file of latents, notes and styles. Its metadata says of which corpus; another one raises ``DataError``.
    minutes, seed, split, source
        As in ``corpus``.
    codec : EtudeCodec
        What encodes.
    """
    origin = {"minutes": minutes, "seed": seed, "split": split, "source": source, "styles": list(style_names())}
    if path.exists():
        return _read(path, origin)
    data = encode_clips(list(corpus(minutes, seed, source, split=split)), codec)
    write_bytes(path, save(data._asdict(), metadata={"origin": json.dumps(origin)}), alone=True)
    return data


def _read(path: Path, origin: dict) -> FlowData:
    with safe_open(path, "pt") as file:
        found = json.loads(file.metadata()["origin"])
        different = [name for name in origin if found[name] != origin[name]]
        if different:
            raise DataError(f"{path} was made with another {', '.join(different)}; remove it to make it anew")
        return FlowData(*(file.get_tensor(name) for name in FlowData._fields))
