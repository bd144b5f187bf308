"""Atlas against counts made by hand, by brute force and by scikit-learn."""

import json
import math

import pytest
import torch

from sae_audio.atlas import Atlas
from sae_audio.errors import ParameterError
from sae_audio.naming import Name, entropy, mutual_information, preferred_ranges
from sae_audio.properties import Property
from sae_audio.property_sets import honest_properties
from sae_audio.sae import SparseActs
from sae_audio.survey import build_atlas, nearest_directions
from sae_audio.tally import HISTOGRAM_EDGES

TWO = {"loudness": Property("loudness", "dBFS", (-60.0, -30.0, 0.0), ("soft", "loud"), "dB")}


def atlas_of(acts, classes, recordings, properties=TWO, frame_rate=2.0, **kwargs):
    d_sae = acts.shape[1] if isinstance(acts, torch.Tensor) else int(acts[0].indices.max()) + 1
    names = [f"song {i}" for i in range(int(recordings.max()) + 1)]
    batches = [acts] if isinstance(acts, torch.Tensor) else acts
    directions = torch.eye(d_sae)
    return build_atlas(batches, classes, properties, recordings, frame_rate, directions, recording_names=names, **kwargs)


def test_hand_counted():
    # Two recordings of 3 frames, 2 frames per second; columns are features, the last one is dead.
    acts = torch.tensor([[1.0, 0, 0], [3, 0, 0], [0, 2, 0], [0, 0, 0], [5, 2, 0], [0, 0, 0]])
    classes = {"loudness": torch.tensor([0, 1, 1, -1, 1, 0])}
    atlas = atlas_of(acts, classes, torch.tensor([0, 0, 0, 1, 1, 1]))
    assert atlas.density.tolist() == pytest.approx([3 / 6, 2 / 6, 0])
    assert atlas.mean.tolist() == [3.0, 2.0, 0.0]  # (1 + 3 + 5) / 3, (2 + 2) / 2
    assert atlas.max.tolist() == [5.0, 2.0, 0.0]
    assert atlas.seconds.tolist() == [2, 2, 0]  # feature 0: second 0 of both; feature 1: second 1 of the first, 0 of the second
    assert atlas.frames == 6
    tuning = atlas.tuning["loudness"]
    assert tuning.frames.tolist() == [2, 3]
    assert tuning.rate[0].tolist() == pytest.approx([1 / 2, 2 / 3])
    assert tuning.mean[0].tolist() == pytest.approx([1 / 2, 8 / 3])
    assert tuning.mean[1].tolist() == pytest.approx([0, 4 / 3])
    moments = atlas.feature(0).moments
    assert [(m.recording, m.time, m.value) for m in moments] == [("song 1", 0.75, 5.0), ("song 0", 0.75, 3.0)]
    assert atlas.feature(2).moments == () and atlas.names[2].text == "dead"
    edges = HISTOGRAM_EDGES.tolist()
    assert atlas.histogram[0, edges.index(1.0)] == 1 and atlas.histogram[1, edges.index(2.0)] == 2
    assert atlas.histogram.sum(1).tolist() == [3, 2, 0]


def random_corpus(n=900, d_sae=12, k=3, seed=0):
    g = torch.Generator().manual_seed(seed)
    values = torch.rand(n, k, generator=g) * 4 - 0.4  # some below 0: these do not fire
    indices = torch.rand(n, d_sae, generator=g).topk(k).indices
    recordings = torch.arange(n) // 130
    classes = {name: torch.randint(-1, p.n_classes, (n,), generator=g) for name, p in honest_properties().items()}
    return SparseActs(values.clamp(min=0), indices), recordings, classes


def test_brute_force():
    acts, recordings, classes = random_corpus()
    dense, rate = acts.dense(12), 7.0
    atlas = atlas_of(dense, classes, recordings, honest_properties(), rate, n_moments=5)
    position = torch.cat([torch.arange(int(n)) for n in torch.bincount(recordings)])
    for f in range(12):
        frames = [i for i in range(900) if dense[i, f] > 0]
        assert atlas.density[f].item() == pytest.approx(len(frames) / 900)
        assert atlas.seconds[f] == len({(int(recordings[i]), int(position[i] / rate)) for i in frames})
        for name, prop in honest_properties().items():
            for c in range(0, prop.n_classes, 7):
                inside = [i for i in range(900) if classes[name][i] == c]
                fired = sum(bool(dense[i, f] > 0) for i in inside)
                assert atlas.tuning[name].rate[f, c].item() == pytest.approx(fired / len(inside))
                assert atlas.tuning[name].mean[f, c].item() == pytest.approx(
                    sum(dense[i, f].item() for i in inside) / len(inside)
                )
        expected = brute_moments(dense[:, f], recordings, position, rate, 5)
        found = [(m.recording, round(m.time, 4)) for m in atlas.feature(f).moments]
        assert found == [(f"song {int(recordings[i])}", round((position[i].item() + 0.5) / rate, 4)) for i in expected]


def brute_moments(column, recordings, position, rate, n):
    """Best frame of each second of the 2n best seconds, then greedily at least a second apart."""
    best = {}
    for i in torch.nonzero(column > 0)[:, 0].tolist():
        key = (int(recordings[i]), int(position[i] / rate))
        if key not in best or column[i] > column[best[key]]:
            best[key] = i
    kept = []
    for i in sorted(best.values(), key=lambda i: -column[i].item())[: 2 * n]:
        if all(recordings[i] != recordings[j] or abs(position[i] - position[j]) >= rate for j in kept):
            kept.append(i)
    return kept[:n]


def test_sparse_dense_and_any_batching_agree():
    acts, recordings, classes = random_corpus()
    whole = atlas_of(acts.dense(12), classes, recordings, honest_properties(), 7.0)
    pieces = [SparseActs(v, i) for v, i in zip(acts.values.split(47), acts.indices.split(47), strict=True)]
    cut = atlas_of(pieces, classes, recordings, honest_properties(), 7.0)
    for name, value in whole.tensors().items():
        assert torch.allclose(value.double(), cut.tensors()[name].double(), rtol=1e-6), name
    assert whole.table() == cut.table()


def test_moments_are_a_second_apart_also_across_a_full_second():
    acts = torch.zeros(100, 2)
    acts[49, 0], acts[50, 0], acts[99, 0] = 5.0, 6.0, 1.0  # 0.98 s, 1.00 s and 1.98 s at 50 Hz
    atlas = atlas_of(
        acts, {"loudness": torch.zeros(100, dtype=torch.int64)}, torch.zeros(100, dtype=torch.int64), frame_rate=50.0
    )
    assert [m.value for m in atlas.feature(0).moments] == [6.0]


def test_entropy_and_information_by_hand():
    assert entropy(torch.tensor([1, 1, 2])).item() == pytest.approx(1.5)
    # Fires in 3 of 4 frames of class 0, 1 of 4 of class 1: H(F) = 1, H(F | C) = H(1/4), I = 1 - 0.8113
    bits = mutual_information(torch.tensor([[3, 1]]), torch.tensor([4, 4])).item()
    assert bits == pytest.approx(1 + 0.25 * math.log2(0.25) + 0.75 * math.log2(0.75))


def test_information_equals_scikit_learn():
    sklearn_metrics = pytest.importorskip("sklearn.metrics")
    acts, _, classes = random_corpus()
    fires = acts.dense(12) > 0
    label = classes["pitch"]
    known = label >= 0
    fired = torch.stack([torch.bincount(label[known & fires[:, f]], minlength=66) for f in range(12)])
    bits = mutual_information(fired, torch.bincount(label[known], minlength=66))
    for f in range(12):
        nats = sklearn_metrics.mutual_info_score(label[known].numpy(), fires[known, f].numpy())
        assert bits[f].item() == pytest.approx(nats / math.log(2), abs=1e-12)


def test_bias_correction_takes_random_firing_to_zero():
    # 300 notes of 10 frames; firing is random per note, so 10 frames are one observation.
    g = torch.Generator().manual_seed(1)
    label = torch.randint(0, 20, (300,), generator=g).repeat_interleave(10)
    fires = (torch.rand(300, 400, generator=g) < 0.3).repeat_interleave(10, 0)
    fired = torch.stack([torch.bincount(label[fires[:, f]], minlength=20) for f in range(400)])
    frames = torch.bincount(label, minlength=20)
    raw, corrected = mutual_information(fired, frames), mutual_information(fired, frames, runs=300)
    assert raw.mean() > 0.04  # what chance alone pretends to know, about 19 / (2 * 300 ln 2) = 0.046 bits
    assert corrected.mean() < 0.2 * raw.mean()


def test_correction_leaves_real_information_standing():
    frames = torch.full((20,), 500)
    fired = torch.zeros(1, 20, dtype=torch.int64)
    fired[0, 4] = 500
    share = 1 / 20
    full = -share * math.log2(share) - (1 - share) * math.log2(1 - share)
    assert mutual_information(fired, frames, runs=1000).item() == pytest.approx(full, abs=0.03)


def planted(rate_inside, noise=0.02, n=6000, seed=0):
    """A feature that fires in class 36 (C5) of 15 notes and a little everywhere; notes of a second, recordings of ten."""
    g = torch.Generator().manual_seed(seed)
    pitch = torch.randint(30, 45, (n // 50,), generator=g).repeat_interleave(50)
    fires = torch.rand(n, generator=g) < torch.where(pitch == 36, rate_inside, noise)
    acts = torch.stack((fires.float(), torch.zeros(n)), 1)
    classes = {"pitch": pitch}
    return atlas_of(acts, classes, torch.arange(n) // 500, {"pitch": honest_properties()["pitch"]}, 50.0)


def test_a_planted_feature_gets_its_name():
    name = planted(0.95, n=30_000).names[0]
    assert name.text == "pitch ≈ C5" and name.property == "pitch" and (name.low, name.high) == (36, 36)
    assert name.confidence > 0.5 and name.precision > 0.6
    assert str(name) == f"pitch ≈ C5 ({name.bits:.2f} bits, {name.firings} firings)"


def test_weak_evidence_gives_no_name():
    assert planted(0.02).names[0].text == "unnamed"
    assert planted(0.95, n=500).names[0].firings < 200  # one note or none of C5
    short = planted(0.9, noise=0.0, n=250)
    assert short.names[0].text in ("unnamed", "dead")


def test_a_single_held_note_is_an_anecdote():
    pitch = torch.full((3000,), 40)
    pitch[100:200] = 36
    acts = torch.stack(((pitch == 36).float(), torch.zeros(3000)), 1)
    atlas = atlas_of(acts, {"pitch": pitch}, torch.arange(3000) // 500, {"pitch": honest_properties()["pitch"]}, 50.0)
    assert atlas.names[0].text == "unnamed" and atlas.names[0].firings == 100


def test_preferred_range_is_half_of_the_peak():
    fired = torch.tensor([[0, 10, 480, 900, 470, 0], [900, 900, 0, 0, 0, 800], [0, 0, 0, 0, 0, 0]])
    low, high = preferred_ranges(fired, torch.full((6,), 1000))
    assert low.tolist()[:2] == [2, 0] and high.tolist()[:2] == [4, 1]
    # A class seen twice cannot win, though it fired both times.
    low, high = preferred_ranges(torch.tensor([[2, 0, 0, 300, 0, 0]]), torch.tensor([2, 500, 500, 500, 500, 500]))
    assert (low.item(), high.item()) == (3, 3)


def test_neighbours():
    directions = torch.tensor([[1.0, 0], [2, 0], [0, 3], [1, 1]])
    cosine, index = nearest_directions(directions, 2, block=3)
    assert index[0].tolist() == [1, 3] and index[2, 0] == 3
    assert cosine[0].tolist() == pytest.approx([1, math.sqrt(0.5)])
    assert nearest_directions(directions, 9)[1].shape == (4, 3)


def test_round_trip_through_tensors_and_json():
    atlas = planted(0.95)
    again = Atlas.from_parts(atlas.tensors(), json.loads(json.dumps(atlas.table())))
    assert again.names == atlas.names and again.recordings == atlas.recordings and again.frames == atlas.frames
    assert again.feature(0) == atlas.feature(0)
    assert isinstance(again.names[0], Name)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(recordings=torch.tensor([0, 1, 0])), "stand together"),
        (dict(acts=torch.ones(2, 2)), "only 2 frames"),
        (dict(acts=torch.ones(4, 2)), "more than 3 frames"),
        (dict(classes={"loudness": torch.tensor([0, 1])}), r"\[2\] for 3 frames"),
        (dict(classes={"loudness": torch.tensor([0, 1, 2])}), "0 to 1"),
    ],
)
def test_refuses_what_does_not_fit(change, message):
    good = dict(acts=torch.ones(3, 2), classes={"loudness": torch.tensor([0, 1, 1])}, recordings=torch.tensor([0, 0, 0]))
    with pytest.raises(ParameterError, match=message):
        atlas_of(**(good | change))


def test_feature_outside_names_the_limit():
    with pytest.raises(ParameterError, match="features 0 to 1"):
        planted(0.95).feature(2)
