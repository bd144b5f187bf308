"""Scores on held-out frames: which clips, which baselines, which figures."""

import math

import pytest
import torch

from sae_audio.descriptors import Descriptors
from sae_audio.errors import ParameterError
from sae_audio.evaluation import probe_table, reconstruction_metrics, regression_r2, stability
from sae_audio.frames import Frames, Splits, held_out_clips, random_frames, spreads, usable_properties
from sae_audio.metrics import fvu, l0
from sae_audio.property_sets import honest_properties, property_sets
from sae_audio.readers import readers
from sae_audio.sae import VARIANTS, SAEConfig, build_sae
from sae_audio.units import midi_to_hz

D_IN = 8


def frames(n_recordings=4, length=100, seed=0):
    """Recordings whose second half is voiced; latents hold note, level and octave linearly, plus noise."""
    generator = torch.Generator().manual_seed(seed)
    n = n_recordings * length
    midi = torch.randint(48, 72, (n,), generator=generator).float()
    level = torch.rand(n, generator=generator) * 40 - 45
    octave = torch.rand(n, generator=generator) * 4 + 8
    latents = torch.randn(n, D_IN, generator=generator) * 0.1
    latents[:, 0], latents[:, 1], latents[:, 2] = (midi - 60) / 12, (level + 25) / 12, octave - 10
    voiced = torch.arange(n) % length >= length // 2
    f0 = torch.where(voiced, midi_to_hz(midi), torch.nan)
    descriptors = Descriptors.of(f0=f0, rms=10 ** (level / 20), centroid=2**octave)
    return Frames(latents, descriptors, torch.arange(n_recordings).repeat_interleave(length))


def trained(variant="topk"):
    sae = build_sae(SAEConfig(variant, D_IN, 32, k=4), seed=5).eval()
    data = frames()
    sae.fit_scaling(data.latents.mean(0), data.latents.std(0))
    sae.fit_start(data.latents)
    return sae


def test_clips_are_the_voiced_halves_of_different_recordings():
    data = frames()
    pitch = honest_properties()["pitch"]
    clips = held_out_clips(data, pitch, 50.0, seconds=1.0, n_clips=3)
    assert clips.latents.shape == (3, 50, D_IN)
    assert clips.midi.isfinite().all()
    assert torch.equal(clips.notes, clips.midi.round().long() - 36)
    starts = [int((data.latents == clip[0]).all(1).nonzero()) for clip in clips.latents]
    assert [start % 100 for start in starts] == [50, 50, 50] and len({start // 100 for start in starts}) == 3


def test_short_recordings_give_short_clips():
    data = frames(length=30)
    assert held_out_clips(data, None, 50.0, seconds=3.0).latents.shape == (4, 30, D_IN)


def test_recordings_shorter_than_a_clip_are_left_out():
    long, short = frames(length=150), frames(length=30)
    both = Frames(
        torch.cat([long.latents, short.latents]),
        Descriptors(*map(torch.cat, zip(long.descriptors, short.descriptors, strict=True))),
        torch.cat([long.recordings, short.recordings + 10]),
    )
    assert (
        held_out_clips(both, None, 50.0, seconds=2.0).latents.shape == held_out_clips(long, None, 50.0, seconds=2.0).latents.shape
    )


def test_a_property_without_classes_is_left_out():
    data = frames(n_recordings=24)
    silent = data._replace(descriptors=data.descriptors._replace(f0=torch.full_like(data.descriptors.f0, math.nan)))
    assert set(usable_properties(honest_properties(), data)) == {"pitch", "loudness", "brightness"}
    assert set(usable_properties(honest_properties(), silent)) == {"loudness", "brightness"}
    with pytest.raises(ParameterError, match="use 'honest' or 'paper'"):
        property_sets("other", data.descriptors)


def test_sample_keeps_order_and_rows_together():
    data = frames()
    few = random_frames(data, 50)
    rows = [int((data.latents == row).all(1).nonzero()) for row in few.latents]
    assert rows == sorted(rows) and len(set(rows)) == 50
    assert torch.equal(few.descriptors.rms, data.descriptors.rms[rows]) and torch.equal(few.recordings, data.recordings[rows])
    assert random_frames(data, 10**6) is data


@pytest.mark.parametrize("variant", VARIANTS)
def test_reconstruction_metrics_are_those_of_metrics_py(variant):
    sae, data = trained(variant), frames(seed=1)
    found = reconstruction_metrics(sae, data)
    with torch.no_grad():
        acts = sae.encode(data.latents)
        assert found["fvu"] == pytest.approx(fvu(data.latents, sae.decode(acts)), rel=1e-4)
    assert found["l0"] == pytest.approx(l0(acts))
    assert found["dead_share"] == pytest.approx(float((acts == 0).all(0).float().mean()))
    assert (found["n_frames"], found["n_recordings"]) == (400, 4)


def test_baselines_have_the_sizes_they_claim():
    sae, data = trained(), frames()
    inputs = readers(sae, data.latents)
    shapes = {name: tuple(read(data.latents).shape) for name, read in inputs.items()}
    assert shapes == {"acts": (400, 32), "latents": (400, 8), "pca": (400, 4), "random": (400, 32), "untrained": (400, 32)}
    assert (inputs["random"](data.latents).to_dense() > 0).sum(1).max() <= 4
    assert not torch.allclose(inputs["untrained"](data.latents).to_dense(), inputs["acts"](data.latents).to_dense())


def test_probes_read_what_is_there_and_nothing_else():
    train, validation, test = (frames(n_recordings=12, seed=seed) for seed in range(3))
    usable = usable_properties(honest_properties(), train)
    noise = {"latents": lambda x: x, "nothing": lambda x: x[:, 3:]}
    scores = {(prop, reader): score for prop, reader, _, score in probe_table(noise, usable, Splits(train, validation, test))}
    for prop in usable:
        assert scores[prop, "latents"].accuracy > 3 * scores[prop, "nothing"].accuracy
        assert scores[prop, "nothing"].accuracy < scores[prop, "nothing"].majority + 0.1
    assert regression_r2(lambda x: x, "loudness", train, test) > 0.99
    assert regression_r2(lambda x: x[:, 3:], "loudness", train, test) < 0.05


def test_spreads_by_hand():
    one = Frames(
        torch.zeros(2, 1),
        Descriptors.of(
            f0=midi_to_hz(torch.tensor([60.0, 62])), rms=torch.tensor([0.1, 0.1]), centroid=torch.tensor([500.0, 2000])
        ),
        torch.zeros(2),
    )
    assert spreads(one) == pytest.approx([math.sqrt(2), 1.0, math.sqrt(2)], rel=1e-4)


def test_steady_features_are_those_that_come_again():
    sae, data = trained(), frames()
    same, other = trained(), trained()
    order = torch.randperm(32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        for name in ("W_enc", "b_enc", "W_dec"):
            same.get_parameter(name).copy_(getattr(sae, name)[..., order] if name != "W_dec" else sae.W_dec[order])
        other.W_dec[:8] = torch.nn.functional.normalize(torch.randn(8, D_IN, generator=torch.Generator().manual_seed(1)))
    found = stability(sae, [same], data.latents)
    assert found["seeds"] == 1 and found["steady"] == pytest.approx({"mean_cosine": 1, "above_0.7": 1, "above_0.9": 1}, abs=1e-5)
    assert found["random"]["above_0.9"] < 0.5 and found["random"]["mean_cosine"] < 0.9
    both = stability(sae, [same, other], data.latents)
    alone = stability(sae, [other], data.latents)
    assert both["steady"]["mean_cosine"] == pytest.approx((1 + alone["steady"]["mean_cosine"]) / 2, abs=1e-5)
    assert alone["steady"]["mean_cosine"] < 0.99


def test_features_that_never_fire_are_not_matched():
    sae, data = trained(), frames()
    silent = trained()
    with torch.no_grad():
        silent.W_enc[:, :30], silent.b_enc[:30] = 0, -1
        fires = (silent.encode(data.latents) > 0).any(0)
        assert not fires[:30].any() and fires[30:].any()
        silent.W_dec[:30] = torch.eye(D_IN)[0]
    assert stability(sae, [silent], data.latents)["steady"]["mean_cosine"] == pytest.approx(1, abs=1e-5)
