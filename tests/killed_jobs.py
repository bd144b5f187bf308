"""The long jobs at tiny sizes, each in a child forked from one process that has imported everything: ``killed_jobs.py FOLDER``.

A JSON line of ``run``'s arguments on standard input starts a job; the answer is its exit code (-9 where it was killed) and the
seconds that it took.
"""

from __future__ import annotations

import json
import os
import select
import signal
import sys
import time
from pathlib import Path

import torch
import torch._dynamo  # which the first optimiser would import, for two seconds of every child
from test_activations import Tone
from test_etude_flow import TINY, toy_data
from tiny_bundle import tiny_bundle
from tiny_models import noise, tiny_etude

from sae_audio.activations import extract
from sae_audio.etude import train_codec, train_flow
from sae_audio.etude.codec import CodecConfig
from sae_audio.latent_spaces import load_latent_space
from sae_audio.sae import SAEConfig
from sae_audio.training import TrainConfig, train_sae

OPERATIONS = {"os.rename", "os.mkdir", "os.remove", "os.rmdir", "shutil.rmtree", "os.truncate"}


def extraction(inputs, folder: Path, resume: bool) -> None:
    extract(inputs["space"], inputs["sources"], folder / "store", shard_seconds=1.0, progress=False)


def sae(inputs, folder: Path, resume: bool) -> None:
    config, latents = SAEConfig("topk", 16, 64, k=4), inputs["latents"]
    settings = TrainConfig(steps=60, batch_size=256, log_every=5, eval_every=20, checkpoint_every=10)
    options = {"validation": latents[:300], "out_dir": folder / "run", "resume": resume, "progress": False, "device": "cpu"}
    train_sae(latents, config, settings, **options)


def codec(inputs, folder: Path, resume: bool) -> None:
    out, clips = folder / "codec", inputs["clips"]
    again = resume and (out / "training.safetensors").exists()
    recipe = train_codec.CodecRecipe(steps=12, out=out, resume=again, batch_size=2, crop_frames=16, eval_every=3)
    model = train_codec.fit(recipe, CodecConfig(width=16, encoder_blocks=1, decoder_blocks=1), clips, clips[:1])
    state = out / train_codec.FINISHING
    train_codec.finish(model, clips, 4, 0, state=state, resume=state.exists(), save_every=2)
    train_codec.save_codec(model, out)


def flow(inputs, folder: Path, resume: bool) -> None:
    out = folder / "flow"
    out.mkdir(exist_ok=True)
    again = resume and (out / "training.safetensors").exists()
    recipe = train_flow.FlowRecipe(steps=9, out=out, eval_every=3, resume=again)
    train_flow.fit(recipe, TINY, toy_data(), toy_data(seed=1))


def bundle(inputs, folder: Path, resume: bool) -> None:
    inputs["bundle"].save(folder / "bundle")


JOBS = {job.__name__: job for job in (extraction, sae, codec, flow, bundle)}


def made_inputs() -> dict:
    """Make what the jobs start from, once."""
    space = load_latent_space("etude-codec", source=tiny_etude(Path(sys.argv[1])))
    sources = [Tone(f"t{i}") for i in range(24)]
    return {
        "space": space,
        "sources": sources,
        "latents": noise(2000, 16, level=1.0),
        "clips": noise(2, 32_000),
        "bundle": tiny_bundle(),
    }


def kill_before_operation(number: int) -> None:
    """Die before this file operation of the process, counted from 0: a file opened to be written, renamed or removed."""
    seen = 0

    def hook(event: str, arguments: tuple) -> None:
        nonlocal seen
        writes = event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)
        if writes or event in OPERATIONS:
            if seen == number:
                os.kill(os.getpid(), signal.SIGKILL)
            seen += 1

    sys.addaudithook(hook)


def run(inputs: dict, job: str, folder: str, resume: bool, after: float | None, before: int | None) -> tuple[int, float]:
    """Run a job in a child, and kill it ``after`` some seconds or ``before`` a file operation."""
    began, child = time.monotonic(), os.fork()
    if child == 0:
        if before is not None:
            kill_before_operation(before)
        JOBS[job](inputs, Path(folder), resume)
        os._exit(0)
    if after is not None and not select.select([os.pidfd_open(child)], [], [], after)[0]:
        os.kill(child, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), time.monotonic() - began


def main() -> None:
    """Answer lines until there are no more."""
    torch.set_num_threads(1)
    inputs = made_inputs()
    print("ready", flush=True)
    for line in sys.stdin:
        print(*run(inputs, **json.loads(line)), flush=True)


if __name__ == "__main__":
    main()
