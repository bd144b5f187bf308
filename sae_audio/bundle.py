"""A bundle: the SAE of a latent space with everything learned about it, in one folder. Format in ``bundle_format``."""

from __future__ import annotations

import os
import shutil
import tempfile
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from sae_audio.atlas import Atlas
from sae_audio.bundle_format import (
    Parts,
    check,
    check_saelens,
    explained,
    from_files,
    plain_table,
    saelens_files,
    split_fields,
    to_files,
)
from sae_audio.card import model_card
from sae_audio.control import ControlVector
from sae_audio.errors import BundleError, HubError
from sae_audio.probes import Probe
from sae_audio.properties import Property
from sae_audio.sae import SAE, SAEConfig, build_sae
from sae_audio.sealed import read_sealed, write_sealed
from sae_audio.spec import HUB_ID, LatentSpec

if TYPE_CHECKING:
    from sae_audio.hub import Published

PNG = b"\x89PNG\r\n\x1a\n"


@dataclass(frozen=True, eq=False)
class Bundle:
    """An SAE with its probes, control vectors, feature atlas and figures.

    Examples
    --------
    >>> from sae_audio.bundle import Bundle
    >>> bundle = Bundle.from_pretrained("checkpoints/etude")
    >>> bundle.spec.name, bundle.sae.config.variant, list(bundle.properties)
    ('etude-codec', 'topk', ['pitch', 'loudness', 'brightness'])
    """

    spec: LatentSpec
    """The latent space that all of it is for."""
    sae: SAE
    """The sparse autoencoder, with its input scaling."""
    properties: dict[str, Property]
    """Classes of pitch, loudness and brightness, by name."""
    probes: dict[str, Probe]
    """Probes by ``property/on``, for example ``pitch/acts`` and the baseline ``pitch/latents``."""
    controls: dict[str, ControlVector]
    """Control vectors by property, or by ``property/kind`` for further ones."""
    atlas: Atlas
    """What each feature does."""
    metrics: dict = field(default_factory=dict)
    """Everything the model card reports, JSON-ready."""
    provenance: dict = field(default_factory=dict)
    """Where it comes from: data, seed, versions, git sha, command; JSON-ready."""
    history: list[dict] = field(default_factory=list)
    """Rows of the SAE's training history, JSON-ready."""
    figures: dict[str, bytes] = field(default_factory=dict)
    """PNG files by name (``training.png``), at most 7."""

    def save(self, folder: str | os.PathLike) -> Path:
        """Write the bundle as a folder, whole or not at all; equal bundles give equal bytes.

        Parameters
        ----------
        folder : path
            New, empty, or a bundle that is then replaced.

        Returns
        -------
        Path
            The folder.

        Raises
        ------
        BundleError
            The parts do not fit each other, or the folder holds something else. Nothing is written then.
        """
        parts = self._parts()
        check(parts, str(folder), "nothing was saved: make the parts of the bundle fit each other")
        stored = replace(self, metrics=parts.tables["metrics"], provenance=parts.tables["config"]["provenance"])
        # From what is stored, so that a loaded bundle saves to the same bytes.
        card = {"README.md": model_card(stored).encode(errors="replace")}
        return write_sealed(folder, to_files(parts) | saelens_files(self.sae, self.spec) | self._figures() | card)

    save_pretrained = save

    @classmethod
    def from_pretrained(
        cls,
        source: str | os.PathLike,
        revision: str | None = None,
        *,
        token: str | bool | None = None,
        cache_dir: str | os.PathLike | None = None,
        local_files_only: bool = False,
    ) -> Bundle:
        """Load a bundle and check all of it.

        Parameters
        ----------
        source : path or str
            Folder of a bundle, or the id ``user/name`` of a Hub repository.
        revision : str, optional
            Branch, tag or commit of the repository; by default the newest of ``main``.
        token : str or bool, optional
            Access token of the Hub; by default the one that is stored or in HF_TOKEN. False sends none: for ids that strangers
            typed.
        cache_dir : path, optional
            Where downloads are kept; by default the Hub's own cache.
        local_files_only : bool
            Take what is in the cache and ask nobody.

        Returns
        -------
        Bundle
            On the CPU; activations are bit for bit those of the SAE that was saved. Where the Hub cannot be reached it is the
            version in the cache, with a warning.

        Raises
        ------
        BundleError
            Missing, damaged, foreign or of another format version; the message says what, and what to do.
        HubError
            The repository or revision does not exist, may not be read, or is out of reach with nothing in the cache.
        """
        folder = Path(source)
        if is_hub_id(source):
            folder = _pulled(str(source), revision, token=token, cache_dir=cache_dir, local_files_only=local_files_only)
        elif revision is not None:
            raise BundleError(f"{source} is a local path, which has no revision '{revision}'; leave the revision out")
        files = read_sealed(folder)
        parts = from_files(files, str(folder))
        check(parts, str(folder))
        return cls._from_parts(parts, files, str(folder))

    def push_to_hub(
        self, repo_id: str, *, private: bool = False, revision: str | None = None, token: str | bool | None = None
    ) -> Published:
        """Publish the bundle on the Hub as one commit; ``hub.push`` says how, and what can go wrong.

        Parameters
        ----------
        repo_id, private, revision, token
            As in ``hub.push``, and so is what is returned.

        Raises
        ------
        BundleError
            The parts do not fit each other.
        HubError
            Refused before anything is saved; or out of reach later: the bundle is then kept in a folder that the message
            names, with the command that goes on.
        """
        from sae_audio.hub import check_publish, push

        check_publish(repo_id, private=private, revision=revision, token=token)
        kept = Path(tempfile.mkdtemp(prefix="bundle-"))
        try:
            folder = self.save(kept / repo_id.split("/")[1])
        except BaseException:
            shutil.rmtree(kept)
            raise
        done = push(folder, repo_id, private=private, revision=revision, token=token)
        shutil.rmtree(kept)  # only now: what could not be published is kept
        return done

    def _parts(self) -> Parts:
        probes = {key: split_fields(probe) for key, probe in self.probes.items()}
        controls = {key: split_fields(control) for key, control in self.controls.items()}
        config = {
            "latent_spec": self.spec.to_dict(),
            "sae": self.sae.config.to_dict(),
            "properties": [prop.to_dict() for prop in self.properties.values()],
            "probes": {key: values for key, (values, _) in probes.items()},
            "controls": {key: values for key, (values, _) in controls.items()},
            "provenance": self.provenance,
        }
        tensors = {
            "sae": dict(self.sae.state_dict()),
            "probes": {f"{key}.{name}": value for key, (_, own) in probes.items() for name, value in own.items()},
            "control": {f"{key}.{name}": value for key, (_, own) in controls.items() for name, value in own.items()},
            "atlas": self.atlas.tensors(),
        }
        tables: dict[str, Any] = {
            "config": config,
            "atlas": self.atlas.table(),
            "metrics": self.metrics,
            "history": {"rows": self.history},
        }
        return Parts({name: plain_table(table) for name, table in tables.items()}, tensors)

    @classmethod
    def _from_parts(cls, parts: Parts, files: dict[str, bytes], where: str) -> Bundle:
        config, tensors = parts.tables["config"], parts.tensors
        sae = build_sae(SAEConfig.from_dict(config["sae"]))
        sae.load_state_dict(tensors["sae"])
        spec = LatentSpec.from_dict(config["latent_spec"])
        check_saelens(sae, spec, files, where)
        with explained(where, "atlas.json"):
            atlas = Atlas.from_parts(tensors["atlas"], parts.tables["atlas"])
        with explained(where, "config.json"):
            probes = {key: Probe(**values, **_own(tensors["probes"], key)) for key, values in config["probes"].items()}
            controls = {key: _control(values, _own(tensors["control"], key)) for key, values in config["controls"].items()}
        return cls(
            spec=spec,
            sae=sae.eval(),
            properties={values["name"]: Property.from_dict(values) for values in config["properties"]},
            probes=probes,
            controls=controls,
            atlas=atlas,
            metrics=parts.tables["metrics"],
            provenance=config["provenance"],
            history=parts.tables["history"]["rows"],
            figures={name.removeprefix("figures/"): content for name, content in files.items() if name.startswith("figures/")},
        )

    def _figures(self) -> dict[str, bytes]:
        for name, content in self.figures.items():
            if not name.endswith(".png") or not content.startswith(PNG):
                raise BundleError(
                    f"figure {name!r} is not a PNG file; give the bytes of plots.png under a name that ends in .png"
                )
        return {f"figures/{name}": content for name, content in self.figures.items()}


def is_hub_id(source: str | os.PathLike) -> bool:
    """Whether a bundle of this name would be looked for on the Hub: it reads ``user/name``, and no such folder exists."""
    return HUB_ID.fullmatch(str(source)) is not None and not Path(source).exists()


def _pulled(repo_id: str, revision: str | None, **options: Any) -> Path:
    from sae_audio.hub import pull

    try:
        return pull(repo_id, revision, **options)
    except HubError as error:
        if not Path(repo_id).parent.is_dir():
            raise
        raise HubError(f"there is no folder {repo_id}; taken for the id of a Hub repository, {error}") from error


def _own(tensors: dict[str, torch.Tensor], key: str) -> dict[str, Any]:
    """Tensors of one probe or control, by field."""
    return {name.rpartition(".")[2]: value for name, value in tensors.items() if name.rpartition(".")[0] == key}


def _control(values: dict, tensors: dict[str, Any]) -> ControlVector:
    return ControlVector(**{**values, "labels": tuple(values["labels"])}, **tensors)
