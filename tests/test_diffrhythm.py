"""DiffRhythm's DiT and sampler against the original code's outputs, and the sampler against flows with known solutions."""

import json
import math
import warnings
from functools import cache
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from seeded_weights import seeded_tensor
from torch.nn.functional import normalize

from sae_audio.diffrhythm.checkpoint import load_diffrhythm, load_generator, save_generator
from sae_audio.diffrhythm.dit import Context, DiT, DiTConfig
from sae_audio.diffrhythm.generator import Generator
from sae_audio.diffrhythm.layers import Block, positions, rotations
from sae_audio.diffrhythm.sampler import sample, time_grid
from sae_audio.errors import LatentSpaceError, ParameterError

DATA = Path(__file__).parent / "data"
SHAPES = json.loads((DATA / "diffrhythm_base.json").read_text())["shapes"]
TINY = DiTConfig(dim=64, depth=2, heads=2, ff_mult=2, text_dim=16, conv_layers=1, mel_dim=8, text_num_embeds=20, style_dim=8)
MLP = [
    ("time_mlp.0.weight", (512, 256)),
    ("time_mlp.0.bias", (512,)),
    ("time_mlp.2.weight", (512, 512)),
    ("time_mlp.2.bias", (512,)),
]


@pytest.fixture(scope="module")
def reference() -> dict[str, torch.Tensor]:
    return load_file(DATA / "diffrhythm_base.safetensors")


@cache
def public_state(duration: bool = False) -> dict[str, torch.Tensor]:
    extra = {f"transformer.duration_time_embed.{name}": shape for name, shape in MLP} if duration else {}
    return {name: torch.from_numpy(seeded_tensor(name, tuple(shape))) for name, shape in {**SHAPES, **extra}.items()}


def write_cfm(folder: Path, state: dict, **more) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    torch.save({"model_state_dict": state, **more}, folder / "cfm_model.pt")
    return folder


@pytest.fixture(scope="module")
def public(tmp_path_factory) -> Generator:
    return load_diffrhythm(write_cfm(tmp_path_factory.mktemp("hub") / "DiffRhythm-1_2", public_state()))


def tiny(config: DiTConfig = TINY, names: tuple[str, ...] = ()) -> Generator:
    torch.manual_seed(0)
    model = Generator(DiT(config), names)
    for parameter in model.parameters():  # the last layers start at zero: give them something to say
        torch.nn.init.normal_(parameter, std=0.1)
    return model.eval().requires_grad_(False)


def unit(*shape: int, seed: int = 0) -> torch.Tensor:
    return normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed)), dim=-1)


# --- the network -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("branch", ["cond", "null"])
def test_one_forward_pass_is_the_original_s(public, reference, branch):
    style, text, cond = reference["style"].expand(2, -1), reference["text"].expand(2, -1), reference["fwd_cond"]
    if branch == "null":
        text, cond = text * 0, cond * 0
    context = public.dit.context(cond, text, style, reference["fwd_start"])
    velocity = public.dit(reference["fwd_x"], reference["fwd_time"], context)
    expected = reference["fwd_out" if branch == "cond" else "fwd_out_null"]
    torch.testing.assert_close(velocity, expected, rtol=0, atol=1e-4)


def test_the_whole_trajectory_is_the_original_s(public, reference):
    steps = []
    final = sample(
        public,
        reference["style"],
        frames=61,
        null_style=reference["negative_style"],
        text=reference["text"],
        noise=reference["sample_noise"],
        hook=steps.append,
    )
    assert len(steps) == 31
    torch.testing.assert_close(torch.tensor([step.t for step in steps]), reference["sample_t"], rtol=0, atol=1e-6)
    for row, index in enumerate(reference["sample_steps"].tolist()):
        for found, name in ((steps[index].x_t, "xt"), (steps[index].v_cond, "v_cond"), (steps[index].v_null, "v_null")):
            expected = reference[f"sample_{name}"][row]
            assert (found - expected).norm() < 1e-3 * expected.norm(), (index, name)
    assert (final - reference["sample_out"]).norm() < 1e-3 * reference["sample_out"].norm()


@pytest.mark.parametrize("causal", [False, True])
def test_a_block_is_transformers_llama_layer(causal):
    from transformers import LlamaConfig
    from transformers.models.llama.modeling_llama import LlamaDecoderLayer, LlamaRotaryEmbedding

    torch.manual_seed(0)
    config = LlamaConfig(hidden_size=64, num_attention_heads=4, num_key_value_heads=4, intermediate_size=128, rms_norm_eps=1e-6)
    config._attn_implementation = "eager"
    theirs = LlamaDecoderLayer(config, 0).eval()
    ours = Block(DiTConfig(dim=64, depth=2, heads=4, ff_mult=2, causal=causal))
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(2, 30, 64)
    mask = torch.full((30, 30), -math.inf).triu(1) if causal else torch.zeros(30, 30)
    turn = LlamaRotaryEmbedding(config)(x, torch.arange(30)[None])
    expected = theirs(x, attention_mask=mask.expand(2, 1, 30, 30), position_embeddings=turn)
    expected = expected[0] if isinstance(expected, tuple) else expected
    torch.testing.assert_close(ours(x, rotations(30, 16, x.device)), expected, rtol=1e-5, atol=1e-5)


def test_positions_of_long_songs_are_the_original_s_to_the_last_bit():
    from transformers import LlamaConfig
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

    config = LlamaConfig(hidden_size=2048, num_attention_heads=32)
    cos, sin = LlamaRotaryEmbedding(config)(torch.zeros(1, 6144, 2048), torch.arange(6144)[None])
    turn = rotations(6144, 64, torch.device("cpu"))
    assert torch.equal(turn[0], cos[0]) and torch.equal(turn[1], sin[0])
    angles = torch.outer(torch.arange(6144).float(), 1 / 1e4 ** (torch.arange(0, 512, 2).float() / 512))
    assert torch.equal(positions(torch.arange(6144), 512), torch.cat([angles.cos(), angles.sin()], -1))


def test_a_network_of_half_precision_speaks_single():
    """As on an accelerator; bfloat16 has 8 bits, so a few per cent."""
    model, half = tiny(), tiny()
    half.dit.to(torch.bfloat16)
    reference = torch.randn(1, 20, 8, generator=torch.Generator().manual_seed(1))
    options = {"frames": 20, "null_style": unit(1, 8, seed=1), "steps": 4, "seed": 0, "reference": reference}
    one, two = (sample(m, unit(1, 8), segments=[[(5, 15)]], **options) for m in (model, half))
    assert two.dtype == torch.float32 and not torch.equal(one, two)
    assert (one - two).norm() < 0.03 * one.norm()


@pytest.mark.parametrize("causal", [False, True])
def test_causal_frames_see_no_later_latents(causal):
    """But for the convolutions that tell the position, which reach 2 x 15 frames ahead."""
    model = tiny(DiTConfig(**{**TINY.to_dict(), "causal": causal}))
    x = torch.randn(1, 100, 8, generator=torch.Generator().manual_seed(0))
    later = x.clone()
    later[:, 80:] += 1
    context = model.dit.context(torch.zeros_like(x), torch.zeros(1, 100, dtype=torch.long), unit(1, 8))
    change = (model.dit(x, torch.zeros(1), context) - model.dit(later, torch.zeros(1), context)).abs().amax(dim=(0, 2))
    assert bool((change[:50] > 0).any()) is not causal
    assert bool((change[50:80] > 0).any()) and bool((change[80:] > 0).all())


def test_duration_is_heard_by_the_model_that_knows_it():
    config = DiTConfig(**{**TINY.to_dict(), "duration": True, "max_frames": 200})
    x, text = torch.randn(1, 100, 8), torch.zeros(1, 100, dtype=torch.long)
    for model, heard in ((tiny(config), True), (tiny(), False)):
        half, whole = (model.dit.context(x * 0, text, unit(1, 8), duration=torch.tensor([d])) for d in (0.5, 1.0))
        same = torch.equal(model.dit(x, torch.zeros(1), half), model.dit(x, torch.zeros(1), whole))
        assert same is not heard
    model = tiny(config)
    by_length = model.dit.context(x * 0, text, unit(1, 8))
    assert by_length.duration.item() == 100 / 200


def test_duration_is_embedded_like_a_start_and_added():
    """With the weights of the start, duration s is start s once more: as if the start's last layer were doubled."""
    known = tiny(DiTConfig(**{**TINY.to_dict(), "duration": True}))
    known.dit.duration_time_embed.load_state_dict(known.dit.start_time_embed.state_dict())
    doubled = tiny()
    doubled.load_state_dict({k: v for k, v in known.state_dict().items() if "duration" not in k})
    for parameter in doubled.dit.start_time_embed.time_mlp[2].parameters():
        parameter.mul_(2)
    x, text, where = torch.randn(1, 20, 8), torch.zeros(1, 20, dtype=torch.long), torch.tensor([0.4])
    contexts = [model.dit.context(x * 0, text, unit(1, 8), where, where) for model in (known, doubled)]
    found, expected = (m.dit(x, torch.zeros(1), c) for m, c in zip((known, doubled), contexts, strict=True))
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)


def test_text_positions_end_at_max_frames():
    model = tiny(DiTConfig(**{**TINY.to_dict(), "max_frames": 10}))
    model.dit.text_embed.text_blocks = torch.nn.Identity()
    features = model.dit.text_embed(torch.zeros(1, 13, dtype=torch.long))[0]
    rates = 1e4 ** (-torch.arange(0, 16, 2) / 16)
    third = torch.cat([(3 * rates).cos(), (3 * rates).sin()]) + model.dit.text_embed.text_embed.weight[0]
    torch.testing.assert_close(features[3], third)
    assert torch.equal(features[9], features[12]) and not torch.equal(features[8], features[9])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"cond": torch.zeros(1, 10, 9)}, r"latents have shape \[1, 10, 9\].*\[B, T, 8\]"),
        ({"text": torch.zeros(1, 9, dtype=torch.long)}, "one token per frame"),
        ({"text": torch.full((1, 10), 21)}, "vocabulary is 0 to 20"),
        ({"style": torch.zeros(1, 512)}, r"style has shape \[1, 512\]; this model wants \[1, 8\]"),
    ],
)
def test_conditions_that_do_not_fit(change, message):
    fits = {"cond": torch.zeros(1, 10, 8), "text": torch.zeros(1, 10, dtype=torch.long), "style": unit(1, 8)}
    with pytest.raises(ParameterError, match=message):
        tiny().dit.context(**{**fits, **change})


@pytest.mark.parametrize("change", [{"dim": 100}, {"depth": 3}, {"depth": 0}, {"heads": 64}])
def test_impossible_sizes(change):
    with pytest.raises(ParameterError, match="must be"):
        DiTConfig(**{**TINY.to_dict(), **change})


# --- the sampler -----------------------------------------------------------------------------------------------------------


class Field:
    """A flow whose velocity is written down: v = slope·x + pull, both read from the text row's first token."""

    mel_dim, guidance, null_style = 3, 4.0, None

    def __init__(self, velocity):
        self.velocity, self.times = velocity, []

    def noise(self, frames, generator):
        return torch.randn(frames, self.mel_dim, generator=generator)

    def context(self, known, mask, text, style, start, duration):
        duration = start if duration is None else duration
        return Context(torch.where(mask[..., None], known, 0.0), text[..., None].float(), style, start, duration)

    def __call__(self, x, t, context):
        self.times.append(t[0].item())
        return self.velocity(x, t, context)


def test_euler_s_values_by_hand():
    """v = x: each of n updates multiplies by 1 + 1/n."""
    start = torch.tensor([[[1.0, -2.0, 0.5]]])
    model = Field(lambda x, t, context: x)
    end = sample(model, unit(1, 4), frames=1, guidance=0, noise=start, steps=5)
    torch.testing.assert_close(end, start * 1.25**4)
    assert model.times == [0, 0.25, 0.5, 0.75]


def test_a_straight_flow_arrives_whatever_the_steps():
    goal = torch.randn(1, 6, 3)
    model = Field(lambda x, t, context: (goal - x) / (1 - t[:, None, None]))
    for steps, sway in ((2, None), (7, None), (32, -1.0)):
        ends = []
        end = sample(
            model, unit(1, 4), frames=6, guidance=0, seed=0, steps=steps, sway=sway, hook=lambda s, e=ends: e.append(s.x1)
        )
        torch.testing.assert_close(end, goal, rtol=1e-4, atol=1e-5)
        for x1 in ends:
            torch.testing.assert_close(x1, goal, rtol=1e-4, atol=1e-5)


def test_guidance_by_hand():
    """v_c = 1 (style), v_n = 0.5 (null style): with s = 4 the flow goes 1 + 4 · 0.5 = 3."""
    model = Field(lambda x, t, context: context.style[:, None, :1].expand_as(x))
    style, null = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.5, math.sqrt(0.75)]])
    noise, steps = torch.zeros(1, 2, 3), []
    end = sample(model, style, frames=2, null_style=null, guidance=4.0, noise=noise, steps=9, hook=steps.append)
    torch.testing.assert_close(end, torch.full_like(noise, 3.0))
    assert steps[0].v_cond.eq(1).all() and steps[0].v_null.eq(0.5).all() and steps[0].v.eq(3).all()
    usual = sample(model, style, frames=2, null_style=null, noise=noise, steps=9)
    assert torch.equal(usual, end)  # the model's own guidance is 4
    free = sample(model, style, frames=2, guidance=0, noise=noise, steps=9, hook=steps.append)
    torch.testing.assert_close(free, torch.ones_like(noise))
    assert steps[-1].v_null is None
    nearly = sample(model, style, frames=2, guidance=9e-6, noise=noise, steps=9)  # as in the original, too little to matter
    assert torch.equal(nearly, free)


def test_a_model_brings_its_own_null_style():
    model, options = tiny(names=("piano",)), {"frames": 5, "steps": 3, "seed": 0}
    assert torch.equal(
        sample(model, model.style("piano"), **options),
        sample(model, model.style("piano"), null_style=model.null_style, **options),
    )


def test_the_null_branch_has_no_text_and_no_reference():
    seen = []
    model = Field(lambda x, t, context: seen.append(context) or torch.zeros_like(x))
    reference, text = torch.full((1, 4, 3), 7.0), torch.full((1, 4), 5)
    sample(
        model, unit(1, 4), frames=4, null_style=unit(1, 4, seed=1), text=text, steps=2, seed=0, reference=reference,
        segments=[[(1, 3)]], start=0.25, duration=0.5,
    )  # fmt: skip
    context = seen[0]
    assert context.text[..., 0].tolist() == [[5, 5, 5, 5], [0, 0, 0, 0]]
    assert context.cond[..., 0].tolist() == [[7, 0, 0, 7], [0, 0, 0, 0]]
    assert torch.equal(context.style, torch.cat([unit(1, 4), unit(1, 4, seed=1)])) and context.start.tolist() == [0.25, 0.25]
    assert context.duration.tolist() == [0.5, 0.5]


def test_edited_songs_keep_what_was_not_asked_for():
    model = tiny()
    reference = torch.randn(2, 20, 8)
    segments = [[(0, 5), (12, 15)], [(3, 20)]]
    edited = sample(model, unit(2, 8), frames=20, null_style=-unit(2, 8), steps=4, seed=0, reference=reference, segments=segments)
    kept = torch.ones(2, 20, dtype=torch.bool)
    for song, spans in enumerate(segments):
        for first, stop in spans:
            kept[song, first:stop] = False
    assert torch.equal(edited[kept], reference[kept])
    assert bool((edited[~kept] != reference[~kept]).all())
    other = sample(
        model, unit(2, 8), frames=20, null_style=-unit(2, 8), steps=4, seed=0, reference=reference + 1, segments=segments
    )
    assert bool((edited[~kept] != other[~kept]).any())  # the kept frames are heard


def test_songs_do_not_depend_on_their_batch():
    """Up to rounding: a matrix product of another batch size may sum in another order, and that depends on the machine."""
    model, style = tiny(), unit(3, 8)
    text = torch.randint(0, 21, (3, 20), generator=torch.Generator().manual_seed(0))
    options = {"frames": 20, "null_style": -style[:1], "steps": 4}
    together = sample(model, style, text=text, seed=5, **options)
    for song in range(3):
        alone = sample(model, style[song : song + 1], text=text[song : song + 1], seed=5 + song, **options)
        torch.testing.assert_close(together[song], alone[0], rtol=1e-3, atol=1e-4)
    chosen = sample(model, style, text=text, seed=[7, 5, 5], **options)
    own = sample(model, style[1:2], text=text[1:2], seed=5, **options)
    torch.testing.assert_close(chosen[1], own[0], rtol=1e-3, atol=1e-4)


def test_a_seed_draws_the_original_s_noise():
    """As after ``torch.manual_seed`` on a CPU; the original gives all songs of a batch the same, here a list of equal seeds."""
    starts = []
    model = Field(lambda x, t, context: torch.zeros_like(x))
    sample(model, unit(2, 4), frames=6, guidance=0, seed=[5, 5], steps=2, hook=lambda step: starts.append(step.x_t))
    torch.manual_seed(5)
    expected = torch.randn(6, 3)
    assert torch.equal(starts[0], torch.stack([expected, expected]))


def test_seeds():
    model, options = tiny(), {"frames": 10, "guidance": 0, "steps": 2}
    a, b, c, free, other = (sample(model, unit(1, 8), seed=seed, **options) for seed in (1, 1, 2, None, None))
    assert torch.equal(a, b) and not torch.equal(a, c) and not torch.equal(free, other)
    torch.manual_seed(3)
    expected = torch.randn(1)
    torch.manual_seed(3)
    sample(model, unit(1, 8), seed=1, **options)
    assert torch.equal(torch.randn(1), expected)  # a seeded song leaves the global generator alone


def test_hooks_steer():
    """A hook that moves x̂₁ at every step moves the end by as much; one that moves x_t moves it once."""
    goal = torch.zeros(1, 2, 3)
    model = Field(lambda x, t, context: (goal - x) / (1 - t[:, None, None]))
    options = {"frames": 2, "guidance": 0, "seed": 0, "steps": 6}
    moved = sample(model, unit(1, 4), hook=lambda step: step._replace(x1=step.x1 + 2), **options)
    torch.testing.assert_close(moved, goal + 2)
    constant = Field(lambda x, t, context: torch.ones_like(x))
    plain = sample(constant, unit(1, 4), **options)
    shifted = sample(constant, unit(1, 4), hook=lambda s: s._replace(x_t=s.x_t + 5) if s.index == 3 else None, **options)
    torch.testing.assert_close(shifted, plain + 5)
    faster = sample(constant, unit(1, 4), hook=lambda s: s._replace(v=2 * s.v), **options)
    torch.testing.assert_close(faster, plain + 1)
    same = sample(constant, unit(1, 4), hook=lambda s: s, **options)
    assert torch.equal(same, plain)


def test_sway_by_hand():
    t = time_grid(3, sway=-1.0)
    torch.testing.assert_close(t, torch.tensor([0, 1 - math.cos(math.pi / 4), 1.0]))
    assert torch.equal(time_grid(4), torch.linspace(0, 1, 4))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": 1}, "steps is 1.*at least 2"),
        ({"sway": 3.0}, "time run backwards"),
        ({"guidance": -1.0}, "at least 0"),
        ({"guidance": math.nan}, "finite"),
        ({"null_style": None}, "needs null_style"),
        ({"style": 3 * unit(2, 8)}, "norm 3; it must be 1"),
        ({"style": unit(2, 9)}, r"style has shape \[2, 9\]"),
        ({"style": unit(8)}, r"style has shape \[8\]"),
        ({"null_style": torch.zeros(1, 8)}, "null_style of song 0 has norm 0"),
        ({"frames": 0}, "frames is 0"),
        ({"seed": [1, 2, 3]}, "3 seeds were given for 2 songs"),
        ({"seed": None, "noise": torch.zeros(2, 10, 7)}, r"noise has shape \[2, 10, 7\]; it must be \[2, 10, 8\]"),
        ({"noise": torch.zeros(2, 10, 8)}, "both given"),
        ({"reference": torch.zeros(2, 10, 8)}, "both reference and segments"),
        ({"segments": [[], []]}, "both reference and segments"),
        ({"reference": torch.zeros(2, 10, 64), "segments": [[], []]}, "reference has shape"),
        ({"reference": torch.zeros(2, 10, 8), "segments": [[]]}, "segments are given for 1 songs"),
        ({"reference": torch.zeros(2, 10, 8), "segments": [[(0, 4)], [(4, 11)]]}, r"segment \[4, 11\) of song 1"),
        ({"text": torch.zeros(2, 9, dtype=torch.long)}, "one token per frame"),
    ],
)
def test_bad_input_is_named(change, message):
    options = {"style": unit(2, 8), "frames": 10, "null_style": unit(1, 8), "steps": 3, "seed": 0, **change}
    with pytest.raises(ParameterError, match=message):
        sample(tiny(), **options)


def test_latents_are_standardised_inside():
    """With mean m and deviation s the flow is that of the bare network, scaled by s and moved by m."""
    bare, scaled = tiny(), tiny()
    scaled.latent_mean.copy_(torch.linspace(-1, 1, 8))
    scaled.latent_std.copy_(torch.linspace(0.5, 2, 8))
    reference = torch.randn(1, 20, 8)
    options = {"frames": 20, "null_style": unit(1, 8, seed=1), "steps": 5, "seed": 0, "segments": [[(5, 15)]]}
    plain = sample(bare, unit(1, 8), reference=reference, **options)
    moved = sample(scaled, unit(1, 8), reference=reference * scaled.latent_std + scaled.latent_mean, **options)
    torch.testing.assert_close(moved, plain * scaled.latent_std + scaled.latent_mean, rtol=1e-4, atol=1e-4)


# --- checkpoints -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "duration", "causal", "max_frames"),
    [
        ("DiffRhythm-base", False, True, 2048),
        ("DiffRhythm-full", False, True, 6144),
        ("DiffRhythm-1_2", False, False, 2048),
        ("DiffRhythm-1_2-full", True, False, 6144),
        ("mine", False, False, 2048),
        ("mine-long", True, False, 6144),
    ],
)
def test_public_checkpoints_by_release(tmp_path, name, duration, causal, max_frames):
    state = {key: value.half() for key, value in public_state(duration).items()}
    with warnings.catch_warnings(record=True) as told:
        model = load_diffrhythm(write_cfm(tmp_path / name, state))
    assert len(told) == (name == "mine")  # v1.0 has the tensors of v1.2's 95 s
    config = model.dit.config
    assert (config.duration, config.causal, config.max_frames) == (duration, causal, max_frames)
    assert (config.dim, config.depth, config.heads, config.conv_layers) == (256, 4, 32, 2)
    weight = model.dit.proj_out.weight
    assert weight.dtype == torch.float32 and torch.equal(weight, state["transformer.proj_out.weight"].float())
    assert model.null_style is None


def test_release_and_attention_can_be_named(tmp_path):
    cached = tmp_path / "models--ASLP-lab--DiffRhythm-base" / "snapshots" / "6cb1176"
    write_cfm(cached, public_state())
    assert load_diffrhythm(cached).dit.config.causal
    assert not load_diffrhythm(cached, attention="bidirectional").dit.config.causal
    assert load_diffrhythm(cached / "cfm_model.pt", release="ASLP-lab/DiffRhythm-full").dit.config.max_frames == 6144
    with pytest.raises(ParameterError, match="attention 'both' is unknown"):
        load_diffrhythm(cached, attention="both")
    with pytest.raises(ParameterError, match="release 'DiffRhythm-9' is unknown"):
        load_diffrhythm(cached, release="DiffRhythm-9")
    with pytest.raises(LatentSpaceError, match="no duration embedding, so it is not DiffRhythm-1_2-full"):
        load_diffrhythm(cached, release="DiffRhythm-1_2-full")


def test_the_other_variant_is_refused(tmp_path):
    folder = write_cfm(tmp_path / "DiffRhythm-1_2", public_state(duration=True))
    with pytest.raises(
        LatentSpaceError, match="has a duration embedding, so it is not DiffRhythm-1_2; it fits DiffRhythm-1_2-full"
    ):
        load_diffrhythm(folder)


def without(state: dict, name: str) -> dict:
    return {key: value for key, value in state.items() if key != name}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: without(s, "transformer.text_fusion_linears.1.0.bias"), r"misses tensors: text_fusion_linears\.1\.0\.bias"),
        (lambda s: without(s, "transformer.proj_out.weight"), r"misses tensor proj_out\.weight"),
        (lambda s: s | {"transformer.extra": torch.ones(1)}, "unexpected tensors: extra"),
        (lambda s: s | {"ema_model.step": torch.ones(1)}, r"unexpected tensors: ema_model\.step.*start with 'transformer\.'"),
        (lambda s: s | {"transformer.proj_out.bias": torch.ones(63)}, r"proj_out\.bias has shape \[63\].*\[64\]"),
    ],
)
def test_strict_loading_names_the_tensor(tmp_path, change, message):
    with pytest.raises(LatentSpaceError, match=message):
        load_diffrhythm(write_cfm(tmp_path, change(public_state())))


def test_files_that_are_no_checkpoint(tmp_path):
    with pytest.raises(LatentSpaceError, match="does not exist"):
        load_diffrhythm(tmp_path)
    (tmp_path / "cfm_model.pt").write_bytes(b"no zip")
    with pytest.raises(LatentSpaceError, match="not a PyTorch checkpoint"):
        load_diffrhythm(tmp_path)
    torch.save({"state": {}}, tmp_path / "cfm_model.pt")
    with pytest.raises(LatentSpaceError, match="no 'model_state_dict'"):
        load_diffrhythm(tmp_path)
    torch.save({"model_state_dict": Path("x")}, tmp_path / "cfm_model.pt")  # not a plain tensor: refused unread
    with pytest.raises(LatentSpaceError, match="not a PyTorch checkpoint"):
        load_diffrhythm(tmp_path)


def test_config_json_has_to_agree(tmp_path):
    folder = write_cfm(tmp_path, public_state())
    told = {"dim": 256, "depth": 4, "heads": 16, "ff_mult": 4, "text_dim": 512, "conv_layers": 2, "mel_dim": 64}
    (folder / "config.json").write_text(json.dumps({"model_type": "diffrhythm", "model": told}))
    assert load_diffrhythm(folder, attention="causal").dit.config.heads == 32
    (folder / "config.json").write_text(json.dumps({"model_type": "diffrhythm", "model": {**told, "depth": 16}}))
    with pytest.raises(LatentSpaceError, match=r"depth 16 \(tensors: 4\)"):
        load_diffrhythm(folder)
    (folder / "config.json").write_text('["model"]')
    with pytest.raises(LatentSpaceError, match=r"config.json is not the config of a DiffRhythm checkpoint"):
        load_diffrhythm(folder)


def test_our_folder_round_trip(tmp_path):
    model = tiny(names=("piano", "flute"))
    model.latent_mean.fill_(0.5)
    model.guidance = 1.5
    save_generator(model, tmp_path)
    again = load_generator(tmp_path)
    assert again.guidance == 1.5
    assert again.dit.config == model.dit.config and again.style_names == ("piano", "flute")
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in model.state_dict().items())
    torch.testing.assert_close(again.style("flute", "piano").norm(dim=1), torch.ones(2))
    assert torch.equal(again.style("flute"), again.styles(torch.tensor([1])))
    assert torch.equal(again.null_style, again.styles(torch.tensor([2])))
    with pytest.raises(ParameterError, match="style 'drum' is unknown; this model knows piano, flute"):
        again.style("drum")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "model.safetensors"]


def test_half_precision_on_disk_is_single_in_memory(tmp_path):
    model = tiny()
    save_generator(model, tmp_path, dtype=torch.float16)
    weight = load_generator(tmp_path).dit.proj_out.weight
    assert weight.dtype == torch.float32 and torch.equal(weight, model.dit.proj_out.weight.half().float())


def test_our_folder_is_strict(tmp_path):
    save_generator(tiny(), tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    save_file(without(tensors, "latent_mean") | {"more": torch.ones(1)}, tmp_path / "model.safetensors")
    with pytest.raises(LatentSpaceError, match="misses tensors: latent_mean"):
        load_generator(tmp_path)
    (tmp_path / "config.json").write_text('{"model": "etude-codec", "format": 1}')
    with pytest.raises(LatentSpaceError, match="is etude-codec format 1; this version reads etude-flow 1"):
        load_generator(tmp_path)
    with pytest.raises(LatentSpaceError, match=r"has no config\.json; give a generator's folder"):
        load_generator(tmp_path / "nowhere")
