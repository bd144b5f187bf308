"""Bundles survive a round trip bit for bit; damaged and foreign ones are refused in one line that says what is wrong."""

import json
import math
import os
import resource
import runpy
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_bundle import SPEC, tiny_bundle, tiny_latents

from sae_audio import bundle as bundle_module
from sae_audio import bundle_format, sealed
from sae_audio.bundle import Bundle
from sae_audio.calibration import Trial
from sae_audio.errors import BundleError
from sae_audio.sae import VARIANTS
from sae_audio.sae.saelens import SAELENS_VARIANTS, from_saelens


@pytest.fixture(scope="module")
def made():
    return tiny_bundle()


@pytest.fixture
def folder(made, tmp_path):
    return made.save(tmp_path / "bundle")


def contents(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.mark.parametrize("variant", VARIANTS)
def test_activations_are_equal_bit_for_bit(variant, tmp_path):
    made, x = tiny_bundle(variant), tiny_latents()
    loaded = Bundle.from_pretrained(made.save(tmp_path / "b"))
    assert loaded.sae.config == made.sae.config
    assert torch.equal(loaded.sae.encode(x), made.sae.encode(x))
    assert torch.equal(loaded.sae(x), made.sae(x))


def test_everything_comes_back(made, folder):
    loaded = Bundle.from_pretrained(str(folder))
    assert loaded.spec == made.spec and loaded.properties == made.properties and loaded.figures == made.figures
    assert list(loaded.properties) == list(made.properties)
    assert loaded.history == made.history and loaded.provenance == made.provenance
    assert loaded.metrics["sae"] == made.metrics["sae"]
    assert loaded.metrics["control"]["trials"][1]["change"] == [None, -5.8, 0.05]  # NaN has no place in JSON
    assert loaded.probes.keys() == made.probes.keys() and loaded.controls.keys() == made.controls.keys()
    for key, probe in made.probes.items():
        assert torch.equal(loaded.probes[key].weight, probe.weight) and torch.equal(loaded.probes[key].bias, probe.bias)
        assert (loaded.probes[key].property, loaded.probes[key].on) == (probe.property, probe.on)
    for key, control in made.controls.items():
        other = loaded.controls[key]
        assert (other.property, other.kind, other.via, other.labels) == (
            control.property,
            control.kind,
            control.via,
            control.labels,
        )
        for field in ("directions", "doses", "responses", "hit_rate"):
            assert torch.allclose(getattr(other, field), getattr(control, field), rtol=0, atol=0, equal_nan=True)
    assert loaded.atlas.names == made.atlas.names and loaded.atlas.feature(3) == made.atlas.feature(3)
    assert loaded.atlas.recordings == ("a", "b", "ç")


def test_equal_bundles_give_equal_bytes(made, folder, tmp_path):
    assert contents(tiny_bundle().save(tmp_path / "again")) == contents(folder)
    assert contents(Bundle.from_pretrained(folder).save(tmp_path / "loaded")) == contents(folder)


def test_format_1(folder):
    files = contents(folder)
    assert len(files) <= 20
    assert {
        "config.json",
        "cfg.json",
        "sae.safetensors",
        "probes.safetensors",
        "control.safetensors",
        "atlas.safetensors",
    } <= files.keys()
    assert {"atlas.json", "metrics.json", "history.json", "README.md", "manifest.json", "figures/training.png"} <= files.keys()
    manifest = json.loads(files["manifest.json"])
    assert manifest["format_version"] == 1 and manifest["files"].keys() == files.keys() - {"manifest.json"}
    assert all(
        json.dumps(json.loads(v), sort_keys=True, indent=2, ensure_ascii=False) + "\n" == v.decode()
        for k, v in files.items()
        if k[-4:] == "json"
    )


def test_save_replaces_a_bundle_and_leaves_nothing_beside_it(made, folder):
    (folder / "probes.safetensors").unlink()  # also a damaged one
    replace(made, provenance={"seed": 7}).save(folder)
    assert Bundle.from_pretrained(folder).provenance == {"seed": 7}
    assert [path.name for path in folder.parent.iterdir()] == ["bundle"]


def test_the_saelens_part_computes_the_same(made, folder):
    weights, x = load_file(folder / "sae_weights.safetensors"), tiny_latents()
    theirs = from_saelens(json.loads((folder / "cfg.json").read_text()), weights)
    assert weights.keys() == {"W_enc", "b_enc", "W_dec", "b_dec"}
    assert torch.allclose(theirs.encode(x), made.sae.encode(x), atol=1e-5)
    assert torch.allclose(theirs(x), made.sae(x), atol=1e-5)


LOAD_IN_SAE_LENS = """
import sys, torch
from safetensors.torch import load_file, save_file
from sae_lens import SAE
sae = SAE.load_from_disk(sys.argv[1], device="cpu")
x = load_file(sys.argv[2])["x"]
acts = sae.encode(x)
save_file({"acts": acts.detach().contiguous(), "x_hat": sae.decode(acts).detach().contiguous()}, sys.argv[3])
"""


@pytest.mark.slow
@pytest.mark.parametrize("variant", SAELENS_VARIANTS)
def test_sae_lens_itself_loads_the_folder(variant, tmp_path):
    """The real package, in the environment of its own that benchmarks/sae_training.py builds."""
    benchmark = runpy.run_path(str(Path(__file__).parent.parent / "benchmarks" / "sae_training.py"))
    made, x = tiny_bundle(variant), tiny_latents()
    folder = made.save(tmp_path / "bundle")
    save_file({"x": x}, tmp_path / "x.safetensors")
    arguments = [str(folder), str(tmp_path / "x.safetensors"), str(tmp_path / "out.safetensors")]
    python = benchmark["environment"]("sae-lens")
    subprocess.run([python, "-c", LOAD_IN_SAE_LENS, *arguments], check=True, cwd=tmp_path)
    theirs = load_file(tmp_path / "out.safetensors")
    assert torch.allclose(theirs["acts"], made.sae.encode(x), atol=1e-5)
    assert torch.allclose(theirs["x_hat"], made.sae(x), atol=1e-5)


def test_a_variant_that_saelens_lacks_says_so(tmp_path):
    folder = tiny_bundle("relu_rmsnorm").save(tmp_path / "b")
    assert json.loads((folder / "cfg.json").read_text())["architecture"] == "sae_audio/relu_rmsnorm"
    assert not (folder / "sae_weights.safetensors").exists()


@pytest.mark.parametrize("stray", ["notes.txt", "figures/mine.png", ".git/HEAD"])
def test_save_never_destroys_other_files(made, folder, stray):
    (folder / stray).parent.mkdir(exist_ok=True)
    (folder / stray).write_text("precious")
    before = contents(folder)
    with pytest.raises(BundleError, match=r"would be lost; save to a new or empty folder"):
        made.save(folder)
    assert contents(folder) == before


def test_save_refuses_a_folder_of_something_else_and_a_file(made, tmp_path):
    (tmp_path / "home" / "photos").mkdir(parents=True)
    with pytest.raises(BundleError, match="would be lost"):
        made.save(tmp_path / "home")
    (tmp_path / "song.wav").write_bytes(b"RIFF")
    with pytest.raises(BundleError, match="not a folder"):
        made.save(tmp_path / "song.wav")
    assert (tmp_path / "song.wav").read_bytes() == b"RIFF"


def test_save_into_an_empty_folder_and_new_parents(made, tmp_path):
    (tmp_path / "empty").mkdir()
    assert Bundle.from_pretrained(made.save(tmp_path / "empty")).spec == SPEC
    assert Bundle.from_pretrained(made.save_pretrained(tmp_path / "a" / "b" / "c")).spec == SPEC


def test_failed_save_leaves_the_old_bundle(made, folder):
    before, limits = contents(folder), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (3000, limits[1]))  # as a full disk: the system refuses longer files
    try:
        with pytest.raises(BundleError, match=r"cannot write the bundle .*File too large; check space and permissions"):
            replace(made, provenance={"seed": 7}).save(folder)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert contents(folder) == before and [path.name for path in folder.parent.iterdir()] == ["bundle"]


def test_interrupted_swap_is_explained(folder):
    folder.rename(folder.with_name(".bundle.previous"))
    with pytest.raises(BundleError, match=r"interrupted and left .*\.bundle\.previous; rename it"):
        Bundle.from_pretrained(folder)


def test_unfitting_parts_are_refused_before_anything_is_written(made, tmp_path):
    probe = made.probes["pitch/acts"]
    wrong = {**made.probes, "pitch/acts": replace(probe, weight=probe.weight[:-1])}
    for bad, message in [
        (replace(made, probes=wrong), r"pitch/acts.weight is float32 \[15, 66\], expected float32 \[16, 66\]; nothing was saved"),
        (replace(made, spec=replace(SPEC, d_in=7)), "the SAE takes 6 channels, the latents of 'etude-codec' have 7"),
        (replace(made, figures={"a.png": b"GIF89a"}), "not a PNG"),
        (replace(made, figures={f"{i}.png": bundle_module.PNG for i in range(10)}), "at most 20"),
    ]:
        with pytest.raises(BundleError, match=message):
            bad.save(tmp_path / "new")
        assert not list(tmp_path.iterdir())


# Damage. Each takes the folder of a good bundle and breaks it; `sealed_anew` also rewrites the manifest, so that the hashes
# fit and the deeper checks have to find it.


def flip_a_byte(name):
    def damage(folder):
        content = bytearray((folder / name).read_bytes())
        content[len(content) // 2] ^= 1
        (folder / name).write_bytes(content)

    return damage


def truncate(folder):
    (folder / "atlas.safetensors").write_bytes((folder / "atlas.safetensors").read_bytes()[:-100])


def edit_manifest(**changes):
    def damage(folder):
        manifest = json.loads((folder / "manifest.json").read_text())
        (folder / "manifest.json").write_text(json.dumps(manifest | changes))

    return damage


def list_a_path(name):
    def damage(folder):
        manifest = json.loads((folder / "manifest.json").read_text())
        manifest["files"][name] = "0" * 64
        (folder / "manifest.json").write_text(json.dumps(manifest))

    return damage


def link(folder):
    shutil.move(folder / "metrics.json", folder.parent / "elsewhere.json")
    (folder / "metrics.json").symlink_to(folder.parent / "elsewhere.json")


def link_a_folder(folder):
    shutil.move(folder / "figures", folder.parent / "elsewhere")
    (folder / "figures").symlink_to(folder.parent / "elsewhere")


def sealed_anew(damage):
    def both(folder):
        damage(folder)
        files = {name: content for name, content in contents(folder).items() if name != "manifest.json"}
        (folder / "manifest.json").write_bytes(sealed.manifest_of(files))

    return both


def tensors(name, change):
    def damage(folder):
        values = load_file(folder / name)
        change(values)
        save_file(values, folder / name)

    return sealed_anew(damage)


def config(change, name="config.json"):
    def damage(folder):
        values = json.loads((folder / name).read_text())
        change(values)
        (folder / name).write_text(json.dumps(values))

    return sealed_anew(damage)


def text(name, content):
    return sealed_anew(lambda folder: (folder / name).write_text(content))


def put(name, value):
    return lambda values: values.__setitem__(name, value)


def at(values, *path):
    for key in path:
        values = values[key]
    return values


DAMAGE = {
    "flipped byte in weights": (flip_a_byte("sae.safetensors"), r"sae\.safetensors is damaged or was edited"),
    "flipped byte in json": (flip_a_byte("config.json"), r"config\.json is damaged or was edited"),
    "flipped byte in figure": (flip_a_byte("figures/training.png"), r"figures/training\.png is damaged"),
    "truncated": (truncate, r"atlas\.safetensors is damaged"),
    "truncated, sealed anew": (sealed_anew(truncate), r"atlas\.safetensors cannot be used"),
    "missing file": (lambda f: (f / "probes.safetensors").unlink(), r"lacks probes\.safetensors, which its manifest lists"),
    "missing file, sealed anew": (sealed_anew(lambda f: (f / "atlas.json").unlink()), "lacks atlas.json, which every bundle has"),
    "extra file": (lambda f: (f / "extra.json").write_text("{}"), r"holds extra\.json, which its manifest does not list"),
    "no manifest": (lambda f: (f / "manifest.json").unlink(), r"not a sae_audio bundle: it has no manifest\.json"),
    "manifest not json": (lambda f: (f / "manifest.json").write_text("{"), r"manifest\.json is not the manifest of a bundle"),
    "manifest a list": (lambda f: (f / "manifest.json").write_text("[]"), r"manifest\.json is not the manifest of a bundle"),
    "newer format": (edit_manifest(format_version=2), "has format version 2, this program reads 1; upgrade sae-audio"),
    "other format": (edit_manifest(format="pytorch"), "says the format is 'pytorch', expected 'sae_audio bundle'"),
    "path traversal": (list_a_path("../../etc/passwd"), "lists '../../etc/passwd', which cannot be a file of a bundle"),
    "absolute path": (list_a_path("/etc/passwd"), "lists '/etc/passwd', which cannot be a file of a bundle"),
    "linked file": (link, r"metrics\.json is a link to .*elsewhere\.json"),
    "linked folder": (link_a_folder, r"figures is a link to"),
    "pickle": (lambda f: (f / "sae.pt").write_bytes(b"\x80"), r"holds sae\.pt, a file type that can run code"),
    "pickle in a folder": (sealed_anew(lambda f: (f / "figures/a.pkl").write_bytes(b"\x80")), "a file type that can run code"),
    "pipe": (lambda f: os.mkfifo(f / "metrics2.json"), r"metrics2\.json is not a plain file"),
    "another SAE for SAELens": (
        tensors("sae_weights.safetensors", lambda t: t["b_dec"].add_(1)),
        r"sae_weights\.safetensors: b_dec is not that of sae\.safetensors",
    ),
    "no SAE for SAELens": (sealed_anew(lambda f: (f / "sae_weights.safetensors").unlink()), "lacks sae_weights.safetensors"),
    "extra tensor": (tensors("sae.safetensors", put("W_extra", torch.zeros(1))), "has a tensor too many, W_extra"),
    "missing tensor": (tensors("sae.safetensors", lambda t: t.pop("b_dec")), "lacks the tensor b_dec"),
    "wrong shape": (
        tensors("probes.safetensors", put("pitch/acts.bias", torch.zeros(65))),
        r"pitch/acts\.bias is float32 \[65\], expected float32 \[66\]",
    ),
    "wrong dtype": (
        tensors("control.safetensors", put("pitch.directions", torch.zeros(66, 16, dtype=torch.float16))),
        r"pitch\.directions is float16 \[66, 16\], expected float32 \[66, 16\]",
    ),
    "nan weights": (
        tensors("sae.safetensors", lambda t: t["W_dec"].__setitem__((0, 0), torch.nan)),
        "W_dec has 1 values that are not finite numbers",
    ),
    "infinite statistics": (
        tensors("atlas.safetensors", lambda t: t["mean"].fill_(torch.inf)),
        "mean has 16 values that are not finite",
    ),
    "moment of no recording": (
        tensors("atlas.safetensors", lambda t: t["moment_recording"].fill_(3)),
        "moment_recording in atlas.safetensors runs from 3 to 3, allowed -1 to 2",
    ),
    "neighbour of no feature": (
        tensors("atlas.safetensors", lambda t: t["neighbour"].fill_(16)),
        "neighbour in atlas.safetensors runs from 16 to 16, allowed 0 to 15",
    ),
    "names missing": (config(lambda c: c["names"].pop(), "atlas.json"), "names 15 features, the SAE has 16"),
    "name with unknown field": (config(lambda c: c["names"][0].update(colour="red"), "atlas.json"), "atlas.json cannot be used"),
    "invalid json": (text("config.json", "{not json"), r"config\.json cannot be used: Expecting property name"),
    "json list": (text("metrics.json", "[1]"), r"metrics\.json cannot be used: expected an object in braces, found list"),
    "not utf-8": (sealed_anew(lambda f: (f / "config.json").write_bytes(b"\xff\xfe{}")), r"config\.json cannot be used"),
    "spec with a missing key": (config(lambda c: c["latent_spec"].pop("tap")), "unknown or missing keys: tap"),
    "spec of another size": (config(lambda c: c["latent_spec"].update(d_in=8)), "takes 6 channels, the latents .* have 8"),
    "spec of nonsense": (config(lambda c: c["latent_spec"].update(hop_length=0)), "hop_length is 0"),
    "unknown variant": (config(lambda c: c["sae"].update(variant="magic")), "unknown SAE variant 'magic'"),
    "unknown key": (config(put("surprise", 1)), "unknown or missing keys: surprise"),
    "probe of no property": (config(lambda c: at(c, "probes", "pitch/acts").update(property="mood")), "'mood'"),
    "control of no property": (config(lambda c: at(c, "controls", "pitch").update(property="mood")), "'mood'"),
    "control without labels": (config(lambda c: at(c, "controls", "pitch").pop("labels")), "lacks 'labels'"),
    "history of the wrong kind": (config(put("rows", 3), "history.json"), "rows must be a list"),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_damage_is_refused_in_one_line(folder, kind):
    damage, message = DAMAGE[kind]
    damage(folder)
    with pytest.raises(BundleError, match=message) as caught:
        Bundle.from_pretrained(folder)
    said = str(caught.value)
    assert "\n" not in said and str(folder) in said


def saelens_folder(folder):
    (folder / "cfg.json").write_text(json.dumps({"architecture": "topk", "k": 3, "d_in": 6, "d_sae": 16}))
    save_file({"W_enc": torch.zeros(6, 16)}, folder / "sae_weights.safetensors")


def transformers_folder(folder):
    (folder / "config.json").write_text(json.dumps({"model_type": "encodec", "architectures": ["EncodecModel"]}))
    save_file({"weight": torch.zeros(2)}, folder / "model.safetensors")


FOREIGN = {
    "empty": (lambda f: None, "it is empty"),
    "SAELens": (saelens_folder, r"SAELens' format.*from_saelens"),
    "transformers": (transformers_folder, "it is a transformers model"),
    "music": (lambda f: (f / "song.wav").write_bytes(b"RIFF"), r"has no manifest\.json, found song\.wav"),
    "pickled model": (lambda f: (f / "pytorch_model.bin").write_bytes(b"\x80"), "a file type that can run code"),
}


@pytest.mark.parametrize("kind", FOREIGN)
def test_foreign_folders_are_named(tmp_path, kind):
    make, message = FOREIGN[kind]
    make(tmp_path)
    with pytest.raises(BundleError, match=message):
        Bundle.from_pretrained(tmp_path)


def test_file_missing_folder_and_revision(tmp_path):
    (tmp_path / "bundle.zip").write_bytes(b"PK")
    with pytest.raises(BundleError, match="is a file; give the folder of a bundle"):
        Bundle.from_pretrained(tmp_path / "bundle.zip")
    with pytest.raises(BundleError, match="there is no folder"):
        Bundle.from_pretrained(tmp_path / "nothing")
    with pytest.raises(BundleError, match="has no revision 'v1'"):
        Bundle.from_pretrained(tmp_path, revision="v1")


def test_a_hub_cache_snapshot_of_links_loads(folder, tmp_path):
    """The Hub's cache keeps blobs/<hash> and links to them from snapshots/<commit>/."""
    blobs, snapshot = tmp_path / "hub" / "blobs", tmp_path / "hub" / "snapshots" / "abc"
    blobs.mkdir(parents=True)
    for i, (name, content) in enumerate(contents(folder).items()):
        (blobs / str(i)).write_bytes(content)
        (snapshot / name).parent.mkdir(parents=True, exist_ok=True)
        (snapshot / name).symlink_to(os.path.relpath(blobs / str(i), (snapshot / name).parent))
    assert Bundle.from_pretrained(snapshot).spec == SPEC


def test_hidden_files_of_downloads_do_not_matter(folder):
    (folder / ".gitattributes").write_text("*.safetensors filter=lfs")
    (folder / ".cache" / "huggingface").mkdir(parents=True)
    (folder / ".cache" / "huggingface" / "x.bin").write_bytes(b"0")
    assert Bundle.from_pretrained(folder).spec == SPEC


def test_an_edited_card_is_told_and_reseal_accepts_it(folder, recwarn):
    (folder / "README.md").write_text("my own words")
    with pytest.warns(UserWarning, match=r"README\.md was edited after the bundle was made"):
        assert Bundle.from_pretrained(folder).spec == SPEC
    sealed.reseal(folder)
    recwarn.clear()
    assert Bundle.from_pretrained(folder).spec == SPEC and not recwarn
    assert (folder / "README.md").read_text() == "my own words"


def test_reseal_accepts_an_edited_file_on_purpose_only(folder):
    values = json.loads((folder / "metrics.json").read_text())
    (folder / "metrics.json").write_text(json.dumps(values | {"note": "by hand"}))
    with pytest.raises(BundleError, match=r"metrics\.json is damaged or was edited.*reseal"):
        Bundle.from_pretrained(folder)
    sealed.reseal(folder)
    assert Bundle.from_pretrained(folder).metrics["note"] == "by hand"


def test_what_else_a_repository_holds_does_not_matter_in_a_download_of_it(folder):
    (folder / "LICENSE").write_text("terms")
    (folder / "samples").mkdir()
    (folder / "samples" / "a.wav").write_bytes(b"RIFF")
    with pytest.raises(BundleError, match=r"holds LICENSE, samples/a\.wav, which its manifest does not list"):
        Bundle.from_pretrained(folder)
    (folder / ".cache" / "huggingface").mkdir(parents=True)  # as `hf download --local-dir` leaves
    assert Bundle.from_pretrained(folder).spec == SPEC


def test_whatever_a_table_holds_becomes_json():
    trial = Trial("pitch", 2.0, 1.9, 0.1, None, (1.9, math.nan, 0.0), (0.0, 0.0, 0.0), 0.1, True, 3)
    table = {1: trial, "a": torch.tensor([1.0, math.inf]), "b": np.int64(3), "c": Path("x")}
    plain = bundle_format.plain_table(table)
    assert plain["1"]["change"] == [1.9, None, 0.0] and plain["1"]["held"] is True
    assert {key: plain[key] for key in "abc"} == {"a": [1.0, None], "b": 3, "c": "x"}


def test_a_folder_whose_new_version_cannot_come_stays_as_it_was(tmp_path):
    folder = tiny_bundle().save(tmp_path / "mine")
    before = sealed.read_sealed(folder)
    with pytest.raises(FileNotFoundError):
        sealed._swap(tmp_path / "never written", folder)
    assert sealed.read_sealed(folder) == before and [path.name for path in tmp_path.iterdir()] == ["mine"]
