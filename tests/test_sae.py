"""What every SAE variant promises, and what is particular to each."""

import pytest
import torch

from sae_audio.errors import ParameterError
from sae_audio.metrics import fvu, l0, reconstruction
from sae_audio.sae import VARIANTS, SAEConfig, build_sae
from sae_audio.sae.auxk import auxk_loss
from sae_audio.sae.init import geometric_median, least_squares_scale, threshold_for_l0
from sae_audio.sae.jumprelu import Jump, StraightThroughStep
from sae_audio.sae.relu_rmsnorm import rms_norm
from sae_audio.training import TrainConfig, train_sae

D_IN, D_SAE, K = 16, 64, 4
ALL_VARIANTS = [
    SAEConfig("relu", D_IN, D_SAE, l1_coefficient=0.5),
    SAEConfig("relu_rmsnorm", D_IN, D_SAE, l1_on="pre"),
    SAEConfig("relu_rmsnorm", D_IN, D_SAE, l1_on="post"),
    SAEConfig("topk", D_IN, D_SAE, k=K),
    SAEConfig("topk", D_IN, D_SAE, k=K, decoder_bias=False, aux_coefficient=0.0),
    SAEConfig("batch_topk", D_IN, D_SAE, k=K),
    SAEConfig("jumprelu", D_IN, D_SAE, k=K),
    SAEConfig("jumprelu", D_IN, D_SAE, l0_coefficient=0.1),
    SAEConfig("matryoshka", D_IN, D_SAE, k=K, prefixes=(8, 32, 64)),
]
each_variant = pytest.mark.parametrize("config", ALL_VARIANTS, ids=lambda c: f"{c.variant}-{c.l1_on}-{c.k}-{c.decoder_bias}")
NONE_DEAD = torch.zeros(0, dtype=torch.int64)


def planted(n: int, d_in: int = D_IN, true: int = 32, active: float = 3.0, seed: int = 0):
    """Frames that are sums of a few of `true` unit directions, at an offset and unequal scales; and the directions."""
    generator = torch.Generator().manual_seed(seed)
    directions = torch.nn.functional.normalize(torch.randn(true, d_in, generator=generator))
    chosen = torch.rand(n, true, generator=generator) < active / true
    size = 1 + 0.25 * torch.randn(n, true, generator=generator)
    frames = (chosen * size) @ directions + 0.02 * torch.randn(n, d_in, generator=generator)
    return frames, directions


def latents(n: int = 4096) -> torch.Tensor:
    return planted(n)[0] * torch.linspace(0.5, 4, D_IN) + torch.linspace(-5, 5, D_IN)


def started(config: SAEConfig, seed: int = 0):
    x = latents()
    sae = build_sae(config, seed)
    sae.fit_scaling(x.mean(0), x.std(0))
    sae.fit_start(x)
    return sae


def quick(config: SAEConfig, steps: int = 120, **settings):
    return train_sae(latents(), config, TrainConfig(steps=steps, batch_size=512, lr=3e-3, **settings), progress=False)


def test_every_variant_is_in_the_list():
    assert {config.variant for config in ALL_VARIANTS} == set(VARIANTS)


@each_variant
def test_shapes_and_signs(config):
    sae = started(config)
    x = latents(30).view(2, 15, D_IN)
    acts = sae.encode(x)
    assert acts.shape == (2, 15, D_SAE) and (acts >= 0).all() and acts.any()
    assert sae.decode(acts).shape == x.shape
    assert torch.equal(sae(x), sae.decode(sae.encode(x)))
    assert sae.directions().shape == (D_SAE, D_IN)


@each_variant
def test_frames_do_not_depend_on_their_neighbours(config):
    sae, x = started(config), latents(20)
    assert torch.allclose(sae.encode(x)[7:8], sae.encode(x[7:8]), atol=1e-5)


@each_variant
def test_directions_are_what_one_unit_of_a_feature_adds(config):
    sae, acts = started(config), torch.zeros(D_SAE, D_SAE)
    added = sae.decode(acts + torch.eye(D_SAE)) - sae.decode(acts)
    assert torch.allclose(added, sae.directions(), atol=1e-4)


@each_variant
def test_training_lowers_fvu_and_keeps_unit_rows(config):
    before = fvu(latents(), started(config)(latents()))
    sae = quick(config).sae
    assert fvu(latents(), sae(latents())) < before
    assert torch.allclose(sae.W_dec.norm(dim=1), torch.ones(D_SAE), atol=1e-5)
    if not config.decoder_bias:
        assert not sae.b_dec.any()


@each_variant
def test_state_dict_round_trip_is_exact(config):
    sae = quick(config, steps=5).sae
    other = build_sae(SAEConfig.from_dict(sae.config.to_dict()), seed=9)
    other.load_state_dict(sae.state_dict())
    assert torch.equal(other.encode(latents()), sae.encode(latents()))


@each_variant
def test_same_seed_same_weights(config):
    one, two, other = quick(config, steps=10).sae, quick(config, steps=10).sae, quick(config, steps=10, seed=1).sae
    assert all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), two.state_dict().values(), strict=True))
    assert not torch.equal(one.W_enc, other.W_enc)


@each_variant
def test_global_random_state_is_left_alone(config):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    quick(config, steps=2)
    assert torch.equal(torch.rand(3), expected)


@each_variant
def test_input_scaling_changes_units_not_results(config):
    """Latents in other units (a scale and a shift per channel) give the same activations and reconstructions in those units."""
    scale, shift = torch.linspace(0.1, 10, D_IN), torch.linspace(100, -100, D_IN)
    x = latents().double()
    results = []
    for data in (x, x * scale + shift):
        sae = build_sae(config).double()
        sae.fit_scaling(data.mean(0), data.std(0))
        sae.fit_start(data)
        results.append((sae.encode(data), sae(data)))
    (acts, x_hat), (acts_2, x_hat_2) = results
    assert torch.allclose(acts, acts_2, atol=1e-8) and torch.allclose(x_hat * scale + shift, x_hat_2, atol=1e-6)


@each_variant
def test_a_channel_that_never_varies_is_harmless(config):
    x = latents(512)
    x[:, 3] = 7.0
    sae = train_sae(x, config, TrainConfig(steps=5, batch_size=128), progress=False).sae
    assert sae.std[3] == 1 and sae(x).isfinite().all()


@each_variant
def test_aux_gradient_reaches_encoder_and_decoder_of_dead_features(config):
    if not config.aux_coefficient:
        return
    sae, x = started(config), latents(64)
    with torch.no_grad():
        sae.b_enc[:5] = -100.0  # these can never fire
    dead = torch.arange(5)
    sae.backward(x, NONE_DEAD)
    assert not sae.W_enc.grad[:, :5].any() and not sae.W_dec.grad[:5].any()
    result = sae.backward(x, dead)
    assert result.losses["aux"] > 0
    assert (
        (sae.W_enc.grad[:, :5] != 0).any(0).all() and (sae.b_enc.grad[:5] != 0).all() and (sae.W_dec.grad[:5] != 0).any(1).all()
    )


@each_variant
def test_batch_result_describes_the_batch(config):
    sae, x = started(config), latents(256)
    result = sae.backward(x, NONE_DEAD)
    if config.variant in ("batch_topk", "matryoshka"):  # trained with a batch selection, encoded with a threshold
        assert result.l0 == pytest.approx(K, rel=1e-3)
    else:
        acts = sae.encode(x)
        assert result.l0 == pytest.approx(l0(acts)) and torch.equal(result.fired, (acts > 0).any(0))
        assert torch.allclose(result.residual * sae.std, x - sae(x), atol=1e-4)
    assert result.losses["mse"] == pytest.approx(float(result.residual.pow(2).sum(1).mean()), rel=1e-4)


@pytest.mark.parametrize(
    "change, names",
    [
        ({"k": 0}, "k is 0"),
        ({"k": 65}, "from 1 to d_sae = 64"),
        ({"k": None}, "k is None for 'topk'"),
        ({"d_in": 2.5}, "d_in is 2.5"),
        ({"d_sae": True}, "d_sae is True"),
        ({"l1_on": "both"}, "'pre' or 'post'"),
        ({"aux_coefficient": -1.0}, "aux_coefficient is -1.0"),
        ({"l0_coefficient": float("nan")}, "l0_coefficient is nan"),
        ({"bandwidth": 0.0}, "bandwidth is 0.0"),
        ({"prefixes": (8, 8, 64)}, "prefixes is"),
        ({"prefixes": (8, 32)}, "end at d_sae = 64"),
    ],
)
def test_config_names_what_is_wrong(change, names):
    with pytest.raises(ParameterError, match=names):
        SAEConfig(**({"variant": "topk", "d_in": D_IN, "d_sae": D_SAE, "k": K} | change))


@each_variant
def test_config_round_trip(config):
    assert SAEConfig.from_dict(config.to_dict()) == config


def test_unknown_keys_and_variants_are_refused():
    values = ALL_VARIANTS[3].to_dict()
    with pytest.raises(ParameterError, match="unknown keys: topk_k"):
        SAEConfig.from_dict(values | {"topk_k": 3})
    with pytest.raises(ParameterError, match="lacks: d_sae"):
        SAEConfig.from_dict({"variant": "relu", "d_in": 4})
    with pytest.raises(ParameterError, match=r"'topkk'.*matryoshka"):
        build_sae(SAEConfig("topkk", D_IN, D_SAE, k=K))


def test_wrong_latents_are_refused():
    with pytest.raises(ParameterError, match=r"takes latents \[..., 16\], got \[3, 15\]"):
        build_sae(ALL_VARIANTS[0]).encode(torch.zeros(3, 15))


# The start.


def test_geometric_median_ignores_outliers():
    points = torch.tensor([[0.0, 0.0]] * 50 + [[1.0, 1.0]] * 10 + [[1000.0, 0.0]])
    assert torch.allclose(geometric_median(points, 200), torch.zeros(2), atol=1e-3)
    cross = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 3.0], [0.0, -3.0]]) + 5
    assert torch.allclose(geometric_median(cross), torch.full((2,), 5.0), atol=1e-5)


def test_least_squares_scale_by_hand():
    assert least_squares_scale(torch.tensor([1.0, 2.0]), torch.tensor([3.0, 6.0])) == 3
    assert least_squares_scale(torch.zeros(2), torch.ones(2)) == 1


def test_threshold_for_l0_by_hand():
    assert threshold_for_l0(torch.tensor([[5.0, 1.0, -1.0], [4.0, 3.0, 0.0]]), 1) == 3.5
    assert threshold_for_l0(-torch.ones(2, 3), 1) == 0.0


@pytest.mark.parametrize("config", [c for c in ALL_VARIANTS if c.variant != "relu_rmsnorm"], ids=lambda c: c.variant)
def test_start_reconstructs_at_the_right_length(config):
    x, sae = latents(), started(config)
    assert fvu(x, sae(x)) < 1
    longer = build_sae(config)
    longer.fit_scaling(x.mean(0), x.std(0))
    longer.b_dec.data.copy_(sae.b_dec)
    assert fvu(x, sae(x)) < fvu(x, longer(x))


# topk


def test_topk_keeps_the_k_largest():
    sae, z = build_sae(SAEConfig("topk", 2, 4, k=2)), torch.tensor([[1.0, 3.0, 2.0, -1.0], [-1.0, 5.0, -2.0, -3.0]])
    assert torch.equal(sae.activate(z), torch.tensor([[0.0, 3.0, 2.0, 0.0], [0.0, 5.0, 0.0, 0.0]]))


def test_sparse_encode_equals_dense_encode():
    sae, x = quick(ALL_VARIANTS[3], steps=20).sae, latents(1500)
    sparse = sae.encode_sparse(x)
    assert sparse.values.shape == sparse.indices.shape == (1500, K) and sparse.indices.dtype == torch.int64
    assert torch.allclose(sparse.dense(D_SAE), sae.encode(x), atol=1e-5)


# batch_topk and matryoshka


@pytest.mark.parametrize("config", [ALL_VARIANTS[5], ALL_VARIANTS[8]], ids=lambda c: c.variant)
def test_inference_threshold_keeps_k_features_on_average(config):
    sae = quick(config, steps=200).sae
    assert l0(sae.encode(latents())) == pytest.approx(K, rel=0.1)
    assert l0(sae.encode(latents())).is_integer() is False


def test_matryoshka_prefixes_reconstruct_better_than_batch_topks():
    def prefix_fvu(config):
        sae = quick(config, steps=300).sae
        acts = sae.encode(latents())
        acts[:, 8:] = 0
        return fvu(latents(), sae.decode(acts))

    assert prefix_fvu(ALL_VARIANTS[8]) < 0.9 * prefix_fvu(ALL_VARIANTS[5])


def test_default_prefixes():
    assert build_sae(SAEConfig("matryoshka", D_IN, D_SAE, k=K)).widths == (4, 8, 16, 32, 64)
    assert build_sae(SAEConfig("matryoshka", D_IN, 6, k=K)).widths == (1, 3, 6)


# jumprelu


def test_jumprelu_gradients_by_hand():
    z = torch.tensor([[0.9, 1.04, 1.3], [0.97, 2.0, 0.2]], requires_grad=True)
    theta = torch.ones(3, requires_grad=True)
    Jump.apply(z, theta, 0.1).sum().backward()
    assert torch.equal(z.grad, torch.tensor([[0.0, 1.0, 1.0], [0.0, 1.0, 0.0]]))
    # Within 0.05 of θ: 0.97 in column 0 and 1.04 in column 1; each moves θ by −θ/ε.
    assert torch.allclose(theta.grad, torch.tensor([-10.0, -10.0, 0.0]))
    theta.grad = None
    StraightThroughStep.apply(z, theta, 0.1).sum().backward()
    assert torch.allclose(theta.grad, torch.tensor([-10.0, -10.0, 0.0]))


@pytest.mark.parametrize("target", [2, 8])
def test_jumprelu_reaches_its_l0(target):
    sae = quick(SAEConfig("jumprelu", D_IN, D_SAE, k=target), steps=400).sae
    assert l0(sae.encode(latents())) == pytest.approx(target, rel=0.2)
    assert (sae.threshold >= 0).all() and sae.threshold.std() > 0


def test_jumprelu_l0_falls_with_its_coefficient():
    few, many = (
        l0(quick(SAEConfig("jumprelu", D_IN, D_SAE, l0_coefficient=c), steps=300).sae.encode(latents())) for c in (1.0, 0.03)
    )
    assert few < 0.6 * many


# relu, relu_rmsnorm


def test_relu_l0_falls_with_l1():
    few, many = (
        l0(quick(SAEConfig("relu", D_IN, D_SAE, l1_coefficient=c), steps=300).sae.encode(latents())) for c in (2.0, 0.02)
    )
    assert few < 0.6 * many


def test_rms_norm_by_hand():
    assert torch.allclose(rms_norm(torch.tensor([[3.0, 0.0, 4.0, 0.0]])), torch.tensor([[3.0, 0.0, 4.0, 0.0]]) / 2.5)
    assert not rms_norm(torch.zeros(1, 4)).any()


def test_pre_norm_l1_can_be_dodged_and_post_norm_l1_cannot():
    """A hundred times smaller encoder changes neither activations nor reconstruction, but pays 100 times less pre-norm L1."""
    x = latents(256)
    losses = {}
    for l1_on in ("pre", "post"):
        for factor in (1.0, 1e-2):
            sae = started(SAEConfig("relu_rmsnorm", D_IN, D_SAE, l1_on=l1_on))
            with torch.no_grad():
                sae.W_enc.mul_(factor)  # b_enc starts at 0
            losses[l1_on, factor] = sae.backward(x, NONE_DEAD).losses
    for l1_on in ("pre", "post"):
        assert losses[l1_on, 1e-2]["mse"] == pytest.approx(float(losses[l1_on, 1.0]["mse"]), rel=1e-3)
    assert losses["pre", 1e-2]["l1"] == pytest.approx(1e-2 * float(losses["pre", 1.0]["l1"]), rel=1e-3)
    assert losses["post", 1e-2]["l1"] == pytest.approx(float(losses["post", 1.0]["l1"]), rel=1e-3)


def test_post_norm_lambda_sparsifies_where_pre_norm_lambda_hardly_does():
    def sparsest(l1_on, coefficient):
        sae = quick(SAEConfig("relu_rmsnorm", D_IN, D_SAE, l1_on=l1_on, l1_coefficient=coefficient), steps=300).sae
        return l0(sae.encode(latents()))

    assert sparsest("post", 0.5) < 0.7 * sparsest("pre", 0.5)


# Dead features.


def test_dead_features_revive_with_auxk_only():
    """Half the dictionary is pushed out of reach; AuxK brings it back, plain training never does."""

    def share_firing(aux_coefficient: float) -> float:
        sae = started(SAEConfig("topk", D_IN, D_SAE, k=K, aux_coefficient=aux_coefficient))
        with torch.no_grad():
            sae.b_enc[:32] = -8.0
        x, since = latents(1024), torch.zeros(D_SAE)
        assert not (sae.encode(x)[:, :32] > 0).any()
        optimiser = torch.optim.Adam(sae.parameters(), lr=3e-2)
        ever = torch.zeros(D_SAE, dtype=torch.bool)
        for _ in range(400):
            fired = sae.backward(x, (since >= 10).nonzero().squeeze(1)).fired
            since, ever = torch.where(fired, 0, since + 1), ever | fired
            sae.project_gradient()
            optimiser.step()
            sae.constrain()
        return float(ever[:32].float().mean())

    assert share_firing(0.0) == 0
    assert share_firing(1 / 32) > 0.9


@pytest.mark.slow
def test_auxk_keeps_a_wide_dictionary_alive():
    frames, _ = planted(60_000, d_in=32, true=512, active=5.0, seed=1)
    idle = {}
    for coefficient in (0.0, 1 / 32):
        config = SAEConfig("topk", 32, 1024, k=8, dead_after=20_000, aux_coefficient=coefficient)
        sae = train_sae(frames[:50_000], config, TrainConfig(steps=1000, batch_size=1024, lr=1e-2), progress=False).sae
        idle[coefficient] = reconstruction(sae, frames[50_000:]).dead_share
    assert idle[0.0] > 0.15 and idle[1 / 32] < 0.05


def test_auxk_gradient_survives_pre_activations_below_zero():
    """A ReLU on these activations would make this gradient exactly zero."""
    sae, x = started(ALL_VARIANTS[3]), latents(64)
    with torch.no_grad():
        sae.b_enc[:8] = -50.0
    standard = sae.standardise(x)
    auxk_loss(sae, standard, torch.randn(64, D_IN, generator=torch.Generator().manual_seed(0)), torch.arange(8)).backward()
    assert (sae.W_enc.grad[:, :8] != 0).any(0).all() and not sae.W_enc.grad[:, 8:].any()


# Recovery of a known dictionary.


def recovery(config: SAEConfig, directions, frames, train) -> float:
    """Mean over true directions of the best |cosine| with a decoder row."""
    sae = train_sae(frames, config, train, progress=False).sae
    rows = torch.nn.functional.normalize(sae.directions().detach())
    return float((torch.nn.functional.normalize(directions) @ rows.T).abs().max(1).values.mean())


@pytest.mark.parametrize("variant", ["topk", "batch_topk", "jumprelu"])
def test_recovers_a_planted_dictionary(variant):
    frames, directions = planted(20_000, d_in=16, true=32, active=2.0)
    config = SAEConfig(variant, 16, 48, k=3)
    assert recovery(config, directions, frames, TrainConfig(steps=500, batch_size=1024, lr=5e-3)) > 0.95


@pytest.mark.slow
@pytest.mark.parametrize(("variant", "bar"), [("topk", 0.95), ("batch_topk", 0.95), ("jumprelu", 0.95), ("matryoshka", 0.8)])
def test_recovers_a_planted_dictionary_of_512(variant, bar):
    """Matryoshka's prefixes of 64 to 256 have to rebuild 512 directions that have no hierarchy, so they hold mixtures of them."""
    frames, directions = planted(200_000, d_in=64, true=512, active=8.0)
    config = SAEConfig(variant, 64, 1024, k=12)
    assert recovery(config, directions, frames, TrainConfig(steps=1500, batch_size=1024, lr=3e-3)) > bar
