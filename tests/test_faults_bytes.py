"""Every byte counts: in a bundle a changed byte or a missing end is refused; without a manifest it never ends in a traceback."""

import random
import shutil

import pytest
import torch
from hub_bundles import contents
from test_activations import tones
from tiny_bundle import tiny_bundle
from tiny_models import noise, tiny_etude, tiny_space
from toy_flow import random_generator

from sae_audio import Bundle
from sae_audio.activations import ActivationStore, extract
from sae_audio.bundle_format import to_files
from sae_audio.control_file import load_controls, save_controls
from sae_audio.descriptors import Descriptors
from sae_audio.diffrhythm.checkpoint import load_generator, save_generator
from sae_audio.errors import BundleError, SaeAudioError
from sae_audio.etude.checkpoint import load_codec
from sae_audio.sae import SAEConfig
from sae_audio.traces import Trace, load_trace
from sae_audio.training import TrainConfig, train_sae


def damaged(content, accidents, number):
    """Cut the end off, or change a byte: anywhere, or in the first hundred, where lengths and versions are."""
    if number % 3 == 0:
        return content[: accidents.randrange(len(content))]
    at, changed = accidents.randrange(min(len(content), (100, len(content))[number % 2])), bytearray(content)
    changed[at] ^= accidents.choice((1, 1 << accidents.randrange(8), accidents.randrange(1, 256)))
    return bytes(changed)


@pytest.mark.filterwarnings("ignore:.*README.md was edited")  # people edit the card; that is told, and nothing reads it
def test_a_changed_byte_or_a_missing_end_of_a_bundle_is_refused(tmp_path):
    folder = tiny_bundle().save(tmp_path / "bundle")
    expected, accidents, refused = to_files(Bundle.from_pretrained(folder)._parts()), random.Random(0), 0
    files = contents(folder)
    for name, content in files.items():
        for number in range(60):
            (folder / name).write_bytes(damaged(content, accidents, number))
            try:
                found = to_files(Bundle.from_pretrained(folder)._parts())
            except BundleError as error:
                said, refused = str(error), refused + 1
                assert "\n" not in said and str(folder) in said
            else:  # the card, its sum, or a blank between two words of the manifest: nothing that is used
                assert name in ("README.md", "manifest.json") and found == expected, name
        (folder / name).write_bytes(content)
    assert refused > 60 * (len(files) - 1) - 30 > 500
    assert to_files(Bundle.from_pretrained(folder)._parts()) == expected


# What has no manifest: a changed weight cannot be told from a trained one, but what cannot be read is told in one line ----------


def make_codec(folder):
    tiny_etude(folder / "codec")


def make_flow(folder):
    save_generator(random_generator(torch.zeros(64), torch.ones(64)), folder / "flow")


def make_controls(folder):
    bundle = tiny_bundle()
    save_controls(folder / "mine.safetensors", bundle, {key: bundle.controls[key] for key in ("pitch", "loudness")})


def make_trace(folder):
    points, shape = torch.linspace(0, 1, 4), (1, 6, 8)
    measured = Descriptors(*(noise(2, 1, 6, seed=i).abs() for i in range(len(Descriptors._fields))))
    read = {"pitch/acts/x1": noise(4, 1, 6, 5).softmax(-1)}
    facts = {"model": "toy", "style": "viola", "seed": 3}
    Trace(points, noise(*shape), {"x1": noise(3, *shape)}, read, (0, 3), measured, facts).save(folder / "song")


def make_store(folder):
    extract(tiny_space(folder / "model", "etude-codec"), tones(5), folder / "store", shard_seconds=0.5, progress=False)
    shutil.rmtree(folder / "model")


def read_store(folder):
    store = ActivationStore.open(folder / "store")
    return store.latents(), store.descriptors()


def make_checkpoint(folder):
    read_checkpoint(folder, resume=False)


def read_checkpoint(folder, resume=True):
    run = (SAEConfig("topk", 8, 16, k=2), TrainConfig(steps=8, batch_size=64, log_every=4, checkpoint_every=4))
    train_sae(noise(300, 8, level=1.0), *run, out_dir=folder / "run", resume=resume, progress=False, device="cpu")
    (folder / "run" / "history.jsonl").unlink(missing_ok=True)  # a log, which nothing is made from


KINDS = {
    "codec": (make_codec, lambda folder: load_codec(folder / "codec"), 150),
    "flow": (make_flow, lambda folder: load_generator(folder / "flow"), 150),
    "controls": (make_controls, lambda folder: load_controls(folder / "mine.safetensors"), 300),
    "trace": (make_trace, lambda folder: load_trace(folder / "song"), 200),
    "store": (make_store, read_store, 100),
    "checkpoint": (make_checkpoint, read_checkpoint, 100),
}
"""How each kind is made and read, and how often each of its files is damaged."""


@pytest.mark.parametrize("kind", KINDS)
def test_damage_without_a_manifest_is_told_in_one_line_or_read(kind, tmp_path):
    make, read, tries = KINDS[kind]
    make(tmp_path)
    accidents, files, refused = random.Random(kind), contents(tmp_path), 0
    for name, content in files.items():
        for number in range(tries):
            (tmp_path / name).write_bytes(damaged(content, accidents, number))
            try:
                read(tmp_path)
            except SaeAudioError as error:
                said, refused = str(error), refused + 1
                assert "\n" not in said and str(tmp_path) in said and len(said) < 1000, said
        (tmp_path / name).write_bytes(content)
    assert refused >= 0.3 * tries * len(files)  # every missing end, and what breaks a header
    read(tmp_path)
