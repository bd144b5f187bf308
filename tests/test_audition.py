"""Which features fire, what they sound like, and the corpus clips that their top moments point to."""

import pytest
import torch

from sae_audio import Bundle, analyse
from sae_audio.activity import ranked_activity, top_frames
from sae_audio.audio import Sound
from sae_audio.audition import audition
from sae_audio.bundle_space import space_of
from sae_audio.errors import ParameterError
from sae_audio.etude.corpus import clip_named, make_clip
from sae_audio.latent_spaces import CHECKPOINTS
from sae_audio.units import to_db


@pytest.fixture(scope="module")
def etude():
    bundle = Bundle.from_pretrained(CHECKPOINTS / "etude")
    return bundle, space_of(bundle)


@pytest.fixture(scope="module")
def view(etude):
    """Four seconds of a single line that no training clip's timbre or score is in."""
    samples = torch.from_numpy(make_clip("test", 0, 9, "additive").render())[None, : 4 * 16_000]
    return analyse(etude[0], Sound(samples, 16_000), space=etude[1])


def test_ranked_activity_by_hand():
    acts = torch.tensor([[0.0, 1.0, 0.0, 2.0], [0.0, 3.0, 0.0, 0.0]])  # feature 1 sums to 4, feature 3 to 2, of 6
    first, second = ranked_activity(acts)
    assert (first.feature, first.share, first.frames, first.peak, first.peak_frame) == (1, pytest.approx(2 / 3), 1.0, 3.0, 1)
    assert (second.feature, second.share, second.frames, second.peak, second.peak_frame) == (3, pytest.approx(1 / 3), 0.5, 2.0, 0)
    assert ranked_activity(acts.to_sparse()) == [first, second]
    again = torch.tensor([[1.0, 0.0], [3.0, 3.0], [3.0, 4.0]])  # two equal peaks: the first counts; equal sums: by number
    assert [(a.feature, a.peak_frame) for a in ranked_activity(again)] == [(0, 1), (1, 2)]
    assert ranked_activity(torch.zeros(3, 4)) == []
    with pytest.raises(ParameterError, match="at least one of each"):
        ranked_activity(torch.zeros(0, 4))


def test_top_frames_by_hand():
    activation = torch.tensor([0.0, 5.0, 4.0, 0.0, 3.0, 0.0, 0.0, 3.0])
    assert top_frames(activation, n=5, apart=1) == [1, 2, 4, 7]
    assert top_frames(activation, n=5, apart=3) == [1, 4, 7]
    assert top_frames(activation, n=2, apart=3) == [1, 4]
    assert top_frames(torch.zeros(4), n=2, apart=1) == []
    with pytest.raises(ParameterError, match="of at least 1"):
        top_frames(activation, n=0, apart=1)


def test_a_feature_named_after_a_note_sounds_that_note_alone(etude, view):
    bundle, space = etude
    notes = [f for f in view.top_features[:30] if bundle.atlas.feature(f).name.text == "pitch ≈ C#5"]
    heard = audition(bundle, view, notes[0], "alone", space=space)
    f0 = heard.after.f0[heard.fires]
    assert f0[f0.isfinite()].median().item() == pytest.approx(554.4, rel=0.03)  # C#5, half a semitone
    assert not heard.after.f0[~heard.fires].isfinite().any()  # elsewhere there is no note


def test_removing_makes_a_note_quieter_and_boosting_louder_and_leaves_the_rest(etude, view):
    bundle, space = etude
    feature = next(f for f in view.top_features[:30] if bundle.atlas.feature(f).name.text == "pitch ≈ C#5")
    change = {}
    for way in ("remove", "boost"):
        heard = audition(bundle, view, feature, way, space=space)
        difference = to_db(heard.after.rms) - to_db(heard.before.rms)
        change[way] = difference[heard.fires].median().item()
        far = torch.nn.functional.max_pool1d(heard.fires[None, None].float(), 21, 1, 10)[0, 0] == 0  # 10 frames from a firing
        assert difference[far].abs().median().item() < 0.1  # not 0: the phases that the decoder makes up run on after an edit
    assert change["remove"] < -1 and change["boost"] > 3


def test_boosting_by_one_is_the_reconstruction(etude, view):
    bundle, space = etude
    heard = audition(bundle, view, view.top_features[0], "boost", space=space, factor=1.0)
    torch.testing.assert_close(heard.audio, space.decode(view.latents[None])[0], rtol=0, atol=0)


@pytest.mark.parametrize(
    ("feature", "way", "message"),
    [
        (0, "louder", "alone, remove, boost"),
        (1024, "alone", "there is no feature 1024"),
        (None, "alone", "does not fire in this sound"),
    ],
)
def test_what_cannot_be_auditioned_is_said(etude, view, feature, way, message):
    bundle, space = etude
    feature = next(f for f in range(1024) if f not in view.top_features) if feature is None else feature
    with pytest.raises(ParameterError, match=message):
        audition(bundle, view, feature, way, space=space)


def test_a_clip_is_found_by_its_name():
    clip = clip_named("additive-train-0-00341")
    assert clip.name == "additive-train-0-00341" and clip.score == make_clip("train", 0, 341, "additive").score
    for name in (
        "additive-train-0",
        "organ-train-0-00001",
        "additive-train--00001",
        "additive-all-0-00001",
        "song.wav",
        "",
        "additive-train-x-1",
    ):
        with pytest.raises(ParameterError, match="is not the name of a synthesised clip"):
            clip_named(name)


def test_top_moments_of_the_shipped_atlas_are_found_again_in_the_synthesised_clips(etude):
    bundle, space = etude
    moments = [(f, m) for f in (0, 42, 100) for m in bundle.atlas.feature(f).moments if m.recording.startswith("additive")][:4]
    assert len(moments) == 4
    for feature, moment in moments:
        samples = torch.from_numpy(clip_named(moment.recording).render())[None]
        acts = analyse(bundle, Sound(samples, 16_000), space=space).acts[:, feature].to_dense()
        assert acts[int(moment.time * bundle.spec.frame_rate)].item() == pytest.approx(moment.value, rel=0.02)
