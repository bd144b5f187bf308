"""DiffRhythm on the page: a small checkpoint in the public layout, on the CPU by DIFFRHYTHM_DEVICE, through the API."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import tiny_models
import torch
from gradio_client import Client
from gradio_client.exceptions import AppError
from tiny_bundle import tiny_bundle

from sae_audio import Request, trace
from sae_audio.diffrhythm.dit import DiT, DiTConfig
from sae_audio.generators import load_model
from sae_audio.latent_spaces import load_latent_space
from sae_audio.sae import SAEConfig, build_sae
from ui.generate import FLOW_NAME

pytest_plugins = ["browser"]
DIFFRHYTHM = next(label for label, name in FLOW_NAME.items() if name == "DiffRhythm")
STEPS, SEED, GUIDANCE = 4, 5, 2.0


@pytest.fixture(scope="module")
def placed(tmp_path_factory) -> tuple[Path, Path, object]:
    """A folder with a checkpoint, styles and a bundle of a small Oobleck; and what they are, loaded."""
    home = tmp_path_factory.mktemp("diffrhythm")
    torch.manual_seed(0)
    config = DiTConfig(dim=64, depth=2, heads=32, text_dim=16, conv_layers=1, style_dim=512, time_dim=16, mel_dim=4)
    tensors = {f"transformer.{name}": value.half() for name, value in DiT(config).state_dict().items()}
    (home / "DiffRhythm-1_2").mkdir()
    torch.save({"model_state_dict": tensors}, home / "DiffRhythm-1_2" / "cfm_model.pt")
    (home / "styles").mkdir()
    for i, name in enumerate(("calm piano", "loud drums", "null")):
        np.save(home / "styles" / f"{name}.npy", np.eye(512, dtype=np.float32)[i])
    vae = load_latent_space("diffrhythm-vae", source=tiny_models.BUILDERS["diffrhythm-vae"](home / "vae", "diffrhythm-vae"))
    tiny, sizes = tiny_bundle(), {"acts": 16, "latents": 4}
    probes = {key: replace(probe, weight=torch.randn(sizes[probe.on], len(probe.bias))) for key, probe in tiny.probes.items()}
    bundle = replace(tiny, spec=vae.spec, sae=build_sae(SAEConfig("topk", 4, 16, k=3)), probes=probes, controls={})
    bundle.save(home / "bundle")
    return home, bundle, vae


@pytest.fixture(scope="module")
def client(placed, run_app):
    home = placed[0]
    env = {"DIFFRHYTHM": str(home / "DiffRhythm-1_2"), "DIFFRHYTHM_STYLES": str(home / "styles"), "DIFFRHYTHM_DEVICE": "cpu"}
    with run_app(BUNDLE=str(home / "bundle"), **env) as url:
        yield Client(url, verbose=False, analytics_enabled=False)


def generate(client, style: str, which: str = DIFFRHYTHM) -> dict:
    return client.predict(which, style, "", "", 1.0, STEPS, GUIDANCE, SEED, api_name="/generate")


def test_diffrhythm_is_generated_watched_and_heard_as_by_the_library(placed, client):
    home, bundle, vae = placed
    view = generate(client, "calm piano")
    assert view["complete"] and view["title"] == "Calm piano, seed 5" and view["runs"]["song"]["points"] == [0, 1, 2, 3]
    assert view["how"] == "made just now · DiffRhythm-1_2, 1 s, 4 steps, guidance 2" and str(home) not in json.dumps(view)
    style, null = torch.eye(512)[:1], torch.eye(512)[2:3]
    asked = Request(style, seconds=1.0, steps=STEPS, guidance=GUIDANCE, seed=SEED, null_style=null)
    same = trace(bundle, asked, model=load_model(home / "DiffRhythm-1_2"), space=vae)
    with torch.inference_mode():
        expected = vae.decode(same.final)[0].clamp(-1, 1).numpy()
    samples, rate = soundfile.read(client.predict("song", STEPS - 1, api_name="/generate_hear"), always_2d=True)
    assert rate == 44_100 and samples.T.shape == expected.shape
    np.testing.assert_allclose(samples.T, expected, atol=2e-3)
    settings = Path(client.predict(api_name="/generate_save_settings")).read_text()
    assert json.loads(settings)["song"]["model"] == "DiffRhythm-1_2" and str(home) not in settings
    assert client.predict(api_name="/generate_control")["runs"]["control"]["curves"]


def test_what_diffrhythm_cannot_do_here_is_said(client):
    generate(client, "loud drums")
    with pytest.raises(AppError, match="this bundle has no control for loudness"):
        client.predict(-6, 0, 0, 0.0, 1.0, api_name="/generate_steered")
    with pytest.raises(AppError, match="style 'grand piano' is unknown; choose one of the list"):
        generate(client, "grand piano")


def test_etude_flow_is_still_there_and_read_by_its_own_bundle(client):
    view = generate(client, "grand piano", "étude-flow, here")
    assert view["complete"] and view["how"].startswith("made just now, read by the bundle 'etude' · etude-flow")
