"""Our SAEs in SAELens' format: equal results by its formulas, and (slow) in the real package."""

import json
import os
import subprocess
import sysconfig
import venv
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from sae_audio.errors import BundleError, ParameterError
from sae_audio.sae import SAEConfig, build_sae
from sae_audio.sae.saelens import SAELENS_VARIANTS, from_saelens, to_saelens
from sae_audio.training import TrainConfig, train_sae

D_IN, D_SAE, K = 8, 32, 4
CONFIGS = [SAEConfig(variant, D_IN, D_SAE, k=K) for variant in SAELENS_VARIANTS]
each = pytest.mark.parametrize("config", CONFIGS, ids=lambda c: c.variant)


def latents(n: int = 2000) -> torch.Tensor:
    return torch.randn(n, D_IN, generator=torch.Generator().manual_seed(0)) * torch.linspace(0.1, 20, D_IN) + 30


def trained(config):
    return train_sae(latents(), config, TrainConfig(steps=30, batch_size=500, lr=3e-3), progress=False).sae


def saelens_codes(cfg, tensors, x):
    """The encoders of SAELens' StandardSAE, TopKSAE and JumpReLUSAE, written from their formulas."""
    z = (x - tensors["b_dec"]) @ tensors["W_enc"] + tensors["b_enc"]
    if cfg["architecture"] == "jumprelu":
        return z.relu() * (z > tensors["threshold"])
    if cfg["architecture"] == "topk":
        values, indices = z.topk(cfg["k"])
        return torch.zeros_like(z).scatter(1, indices, values.relu())
    return z.relu()


@each
def test_folded_weights_give_our_results_by_their_formulas(config):
    sae, x = trained(config), latents(300)
    cfg, tensors = to_saelens(sae)
    codes = saelens_codes(cfg, tensors, x)
    assert torch.allclose(codes, sae.encode(x), atol=1e-4)
    assert torch.allclose(codes @ tensors["W_dec"] + tensors["b_dec"], sae(x), atol=1e-3)


@each
def test_files_hold_what_the_strict_loader_expects(config):
    cfg, tensors = to_saelens(trained(config), {"model_name": "étude"})
    wanted = {"W_enc": (D_IN, D_SAE), "b_enc": (D_SAE,), "W_dec": (D_SAE, D_IN), "b_dec": (D_IN,)}
    wanted |= {"threshold": (D_SAE,)} if cfg["architecture"] == "jumprelu" else {}
    assert {name: tuple(value.shape) for name, value in tensors.items()} == wanted
    assert all(value.dtype == torch.float32 and value.is_contiguous() for value in tensors.values())
    assert cfg["dtype"] == "float32" and cfg["device"] == "cpu" and cfg["metadata"]["model_name"] == "étude"
    assert cfg["metadata"]["training_architecture"] == config.variant
    assert (cfg.get("k"), cfg.get("rescale_acts_by_decoder_norm")) == ((K, False) if config.variant == "topk" else (None, None))
    assert json.dumps(cfg, sort_keys=True) == json.dumps(to_saelens(trained(config), {"model_name": "étude"})[0], sort_keys=True)


@each
def test_round_trip_keeps_the_activations(config):
    sae, x = trained(config), latents(300)
    back = from_saelens(*to_saelens(sae))
    assert torch.allclose(back.encode(x), sae.encode(x), atol=1e-4)
    assert torch.allclose(back.directions(), sae.directions(), atol=1e-6)


def test_relu_rmsnorm_has_no_equivalent():
    with pytest.raises(ParameterError, match="no variant 'relu_rmsnorm'; it can take relu, topk"):
        to_saelens(build_sae(SAEConfig("relu_rmsnorm", D_IN, D_SAE)))


@pytest.mark.parametrize(
    "change, names",
    [
        ({"architecture": "gated"}, "architecture 'gated' is not supported; supported are standard"),
        ({"normalize_activations": "layer_norm"}, "normalises its input"),
        ({"apply_b_dec_to_input": False}, "normalises its input"),
        ({"rescale_acts_by_decoder_norm": True}, "decoder norm"),
        ({"architecture": "jumprelu"}, "unknown tensors: threshold"),
    ],
)
def test_foreign_models_are_refused(change, names):
    cfg, tensors = to_saelens(trained(CONFIGS[1]))
    with pytest.raises(BundleError, match=names):
        from_saelens(cfg | change, tensors)


def saelens_python() -> Path:
    """Python of an environment with the real package, built once; it sees this interpreter's torch through a .pth file."""
    folder = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "sae-audio-tests" / "sae-lens-6.54.12"
    python = folder / "bin" / "python"
    if not (folder / "ready").exists():
        venv.create(folder, with_pip=True, clear=True)
        where = subprocess.run(
            [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], capture_output=True, text=True
        )
        (Path(where.stdout.strip()) / "torch_of_the_caller.pth").write_text(sysconfig.get_path("purelib") + "\n")
        (folder / "constraints.txt").write_text(f"torch=={torch.__version__.split('+')[0]}\n")
        subprocess.run([python, "-m", "pip", "install", "-q", "-c", folder / "constraints.txt", "sae-lens==6.54.12"], check=True)
        (folder / "ready").touch()
    return python


THEIRS = """
import sys, json, torch
from pathlib import Path
from safetensors.torch import load_file, save_file
from sae_lens import SAE
for folder in Path(sys.argv[1]).iterdir():
    sae = SAE.load_from_disk(folder)
    x = load_file(folder / "x.safetensors")["x"]
    with torch.no_grad():
        acts = sae.encode(x)
        save_file({"acts": acts, "x_hat": sae.decode(acts), "forward": sae(x)}, folder / "theirs.safetensors")
"""


@pytest.mark.slow
def test_the_real_package_loads_our_files_and_agrees(tmp_path):
    saes = {config.variant: trained(config) for config in CONFIGS}
    x = latents(500)
    for variant, sae in saes.items():
        cfg, tensors = to_saelens(sae)
        (tmp_path / variant).mkdir()
        (tmp_path / variant / "cfg.json").write_text(json.dumps(cfg, sort_keys=True, indent=2))
        save_file(tensors, tmp_path / variant / "sae_weights.safetensors")
        save_file({"x": x}, tmp_path / variant / "x.safetensors")
    subprocess.run([saelens_python(), "-c", THEIRS, tmp_path], check=True)
    for variant, sae in saes.items():
        theirs = load_file(tmp_path / variant / "theirs.safetensors")
        acts = sae.encode(x)
        assert (theirs["acts"] - acts).norm() < 1e-5 * acts.norm(), variant
        for name in ("x_hat", "forward"):
            assert (theirs[name] - sae(x)).norm() < 1e-5 * x.norm(), variant
