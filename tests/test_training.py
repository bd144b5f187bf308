"""The training loop: what it writes, that it resumes bit for bit, and that several processes equal one."""

import json
import os
import signal
import socket
import subprocess
import sys
import time

import pytest
import torch
from safetensors.torch import load_file, save_file

from sae_audio.errors import DataError, ParameterError
from sae_audio.metrics import fvu, l0
from sae_audio.sae import SAEConfig
from sae_audio.training import TrainConfig, frame_order, train_sae, validate
from sae_audio.training.checkpoint import STATE
from sae_audio.training.loop import batches
from sae_audio.training.ranks import pick_device

CONFIG = SAEConfig("batch_topk", 8, 32, k=3, dead_after=600)
TRAIN = TrainConfig(steps=30, batch_size=100, lr=3e-3, log_every=5, eval_every=10, checkpoint_every=7)


SCRIPT = """
import os, sys
import torch
from safetensors.torch import load_file, save_file
from sae_audio.sae import SAEConfig
from sae_audio.training import TrainConfig, train_sae
from sae_audio.training.ranks import joined_ranks
config, train = SAEConfig.from_dict({config!r}), TrainConfig(**{train!r})
out = sys.argv[1]
x = load_file(out + "/x.safetensors")["x"]
sae, history = train_sae(x, config, train, out_dir=out + "/run", progress=False, device="cpu")
save_file(dict(sae.state_dict()), out + "/rank" + os.environ["RANK"] + ".safetensors")
for _ in range(10):  # as a bundle does, which is trained from several seeds
    with joined_ranks("cpu"):
        torch.distributed.barrier()
"""


def latents(n: int = 450, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, 8, generator=torch.Generator().manual_seed(seed)) * 3 + 1


def rows(folder) -> list[dict]:
    return [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]


def same(one, two) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), two.state_dict().values(), strict=True))


def without_speed(history) -> list[dict]:
    return [{name: value for name, value in row.items() if name != "frames_per_second"} for row in history]


def test_every_epoch_is_a_permutation_of_its_own():
    steps = batches(450, 100, seed=3, first=0)
    epochs = [torch.cat([next(steps) for _ in range(4)]) for _ in range(2)]
    for number, epoch in enumerate(epochs):
        assert torch.equal(epoch, frame_order(450, 3, number)[:400]) and len(epoch.unique()) == 400
    assert not torch.equal(*epochs)
    assert torch.equal(next(batches(450, 100, seed=3, first=5)), epochs[1][100:200])


def test_schedules_by_hand():
    train = TrainConfig(steps=100, lr=1.0, warmup=0.1, decay=0.2, sparsity_warmup=0.5)
    assert [round(train.learning_rate(s), 6) for s in (0, 4, 9, 50, 80, 90, 99)] == [0.1, 0.5, 1, 1, 1, 0.5, 0.05]
    assert [train.sparsity(s) for s in (0, 25, 50, 99)] == [0, 0.5, 1, 1]
    assert TrainConfig(steps=10, lr=2.0, warmup=0, decay=0).learning_rate(9) == 2.0


def test_history_and_evaluation(tmp_path):
    validation = latents(300, seed=1)
    sae, history = train_sae(latents(), CONFIG, TRAIN, validation=validation, out_dir=tmp_path, progress=False)
    assert rows(tmp_path) == history
    assert [row["step"] for row in history] == [5, 10, 15, 20, 25, 30]
    wanted = {"step", "fvu", "l0", "dead", "lr", "loss_mse", "frames_per_second"}
    assert all(wanted <= set(row) for row in history)
    assert ["validation_fvu" in row for row in history] == [False, True, False, True, False, True]
    assert history[-1]["validation_fvu"] == pytest.approx(fvu(validation, sae(validation)))
    assert history[-1]["validation_l0"] == pytest.approx(l0(sae.encode(validation)))
    assert history[-1]["fvu"] < history[0]["fvu"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["history.jsonl", STATE]


def test_evaluation_is_that_of_metrics_py():
    sae, x = train_sae(latents(), CONFIG, TRAIN, progress=False).sae, latents(333)
    assert validate(sae, x) == pytest.approx({"fvu": fvu(x, sae(x)), "l0": l0(sae.encode(x))})


def test_scaling_is_the_datas(tmp_path):
    sae = train_sae(latents(), CONFIG, TRAIN, progress=False).sae
    assert torch.allclose(sae.mean, latents().mean(0), atol=1e-5) and torch.allclose(sae.std, latents().std(0), atol=1e-5)


@pytest.mark.parametrize("variant", ["topk", "batch_topk", "jumprelu", "relu_rmsnorm"])
@pytest.mark.parametrize("stop", [7, 21])
def test_resumed_run_equals_an_uninterrupted_one_bit_for_bit(tmp_path, variant, stop):
    config = SAEConfig(variant, 8, 32, k=3, dead_after=600)
    whole = train_sae(latents(), config, TRAIN, out_dir=tmp_path / "whole", progress=False)

    class Stopped(Exception):
        pass

    def stop_after(step):
        if step > stop + 2:
            raise Stopped

    with pytest.raises(Stopped):
        train_sae(Watched(latents(), stop_after), config, TRAIN, out_dir=tmp_path / "part", progress=False)
    resumed = train_sae(latents(), config, TRAIN, out_dir=tmp_path / "part", resume=True, progress=False)
    assert same(whole.sae, resumed.sae)
    assert without_speed(whole.history) == without_speed(resumed.history) == without_speed(rows(tmp_path / "part"))
    assert (tmp_path / "whole" / STATE).read_bytes() == (tmp_path / "part" / STATE).read_bytes()


class Watched(torch.Tensor):
    """Latents that call a function with the number of the batch they are asked for."""

    @staticmethod
    def __new__(cls, values, watch):
        made = values.as_subclass(cls)
        made.watch, made.asked = watch, -1  # the first request is for the frames that training starts from
        return made

    def __getitem__(self, index):
        if isinstance(index, torch.Tensor):
            self.asked += 1
            self.watch(self.asked)
        return super().__getitem__(index).as_subclass(torch.Tensor)


def test_killed_process_resumes(tmp_path):
    """kill −9 in the middle of a real run, then half a line in its history; the resumed run equals an uninterrupted one."""
    save_file({"x": latents()}, tmp_path / "x.safetensors")
    train = TrainConfig(**TRAIN.to_dict() | {"steps": 800, "checkpoint_every": 20})
    code = SCRIPT.format(config=CONFIG.to_dict(), train=train.to_dict())
    process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], env=os.environ | {"RANK": "0"})
    while not (tmp_path / "run" / STATE).exists():
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    with open(tmp_path / "run" / "history.jsonl", "a") as file:
        file.write('{"step": 39')
    resumed = train_sae(latents(), CONFIG, train, out_dir=tmp_path / "run", resume=True, progress=False)
    whole = train_sae(latents(), CONFIG, train, progress=False)
    assert same(whole.sae, resumed.sae) and without_speed(whole.history) == without_speed(resumed.history)


def test_resuming_nothing_starts_and_resuming_the_end_returns_it(tmp_path):
    first = train_sae(latents(), CONFIG, TRAIN, out_dir=tmp_path, resume=True, progress=False)
    again = train_sae(latents(), CONFIG, TRAIN, out_dir=tmp_path, resume=True, progress=False)
    assert same(first.sae, again.sae) and first.history == again.history


@pytest.mark.parametrize(
    "config, train, data, names",
    [
        (SAEConfig("batch_topk", 8, 32, k=4, dead_after=600), TRAIN, latents(), "sae k = 3, not 4"),
        (CONFIG, TrainConfig(**TRAIN.to_dict() | {"lr": 1.0}), latents(), r"train lr = 0.003, not 1.0"),
        (CONFIG, TRAIN, latents(460), r"data shape = \[450, 8\], not \[460, 8\]"),
    ],
)
def test_resuming_with_other_settings_is_refused(tmp_path, config, train, data, names):
    train_sae(latents(), CONFIG, TRAIN, out_dir=tmp_path, progress=False)
    before = (tmp_path / "history.jsonl").read_bytes()
    with pytest.raises(ParameterError, match=names):
        train_sae(data, config, train, out_dir=tmp_path, resume=True, progress=False)
    assert (tmp_path / "history.jsonl").read_bytes() == before


def test_checkpoint_holds_tensors_only(tmp_path):
    train_sae(latents(), CONFIG, TRAIN, out_dir=tmp_path, progress=False)
    names = set(load_file(tmp_path / STATE))
    assert {"sae.W_enc", "sae.threshold", "sae.mean", "since", "adam.0.exp_avg", "adam.0.step"} <= names


@pytest.mark.parametrize(
    "data, names",
    [
        (torch.zeros(10, 7), r"\[N >= 2, 8\], got torch.float32 \[10, 7\]"),
        (torch.zeros(1, 8), "N >= 2"),
        (torch.zeros(2, 5, 8), "N >= 2"),
        (torch.zeros(10, 8, dtype=torch.int64), "torch.int64"),
    ],
)
def test_wrong_latents_are_refused(data, names):
    with pytest.raises(ParameterError, match=names):
        train_sae(data, CONFIG, TRAIN, progress=False)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_latents_that_are_not_finite_are_refused(bad):
    x = latents()
    x[17, 3] = bad
    with pytest.raises(DataError, match="NaN or infinite"):
        train_sae(x, CONFIG, TRAIN, progress=False)


@pytest.mark.parametrize("change", [{"steps": 0}, {"lr": 0.0}, {"warmup": 2.0}, {"batch_size": 1.5}])
def test_settings_name_what_is_wrong(change):
    with pytest.raises(ParameterError, match=f"TrainConfig.{next(iter(change))} is"):
        TrainConfig(**change)


def test_fewer_frames_than_a_batch_and_half_precision():
    sae, history = train_sae(latents(40).half(), CONFIG, TRAIN, progress=False)
    assert history[-1]["step"] == 30 and sae.W_enc.dtype == torch.float32


# Several processes.


def launch(tmp_path, config, train, world: int = 2) -> list[dict]:
    save_file({"x": latents()}, tmp_path / "x.safetensors")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    shared = os.environ | {"WORLD_SIZE": str(world), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": "1"}
    code = SCRIPT.format(config=config.to_dict(), train=train.to_dict())
    command = [sys.executable, "-c", code, str(tmp_path)]
    ranks = [subprocess.Popen(command, env=shared | {"RANK": str(r), "LOCAL_RANK": str(r)}) for r in range(world)]
    try:
        assert [process.wait(120) for process in ranks] == [0] * world
    finally:
        for process in ranks:
            process.kill()
    return [load_file(tmp_path / f"rank{r}.safetensors") for r in range(world)]


@pytest.mark.parametrize("variant", ["topk", pytest.param("relu", marks=pytest.mark.slow)])
def test_two_processes_equal_one(tmp_path, variant):
    config = SAEConfig(variant, 8, 32, k=3, dead_after=300)
    one, two = launch(tmp_path, config, TRAIN)
    single = train_sae(latents(), config, TRAIN, progress=False)
    for name, expected in single.sae.state_dict().items():
        assert torch.equal(one[name], two[name]), name
        assert torch.allclose(one[name], expected, atol=1e-6), name
    shared, alone = rows(tmp_path / "run"), single.history
    assert [row["step"] for row in shared] == [row["step"] for row in alone]
    assert [row["loss_mse"] for row in shared] == pytest.approx([row["loss_mse"] for row in alone], rel=1e-5)
    assert [row["dead"] for row in shared] == [row["dead"] for row in alone]


@pytest.mark.parametrize(
    "named, own",
    [("cuda", "cuda:1"), (torch.device("cuda"), "cuda:1"), ("cuda:0", "cuda:0"), ("cpu", "cpu"), ("mps", "mps")],
)
def test_every_process_has_a_gpu_of_its_own(named, own, monkeypatch):
    assert pick_device(named, 1) == torch.device(own)
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert pick_device(named) == torch.device(own) and pick_device("cuda", 0) == torch.device("cuda:0")


def test_a_device_that_no_machine_has_is_refused():
    with pytest.raises(ParameterError, match="device 'nonsense' is not available here"):
        pick_device("nonsense")


def test_a_batch_that_processes_cannot_share_is_refused():
    from sae_audio.training.ranks import Ranks

    Ranks(0, 3, torch.device("cpu")).check_batch(99)
    with pytest.raises(ParameterError, match="100 frames cannot be shared by 3 processes; take 99"):
        Ranks(0, 3, torch.device("cpu")).check_batch(100)
