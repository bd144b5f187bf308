"""Griffin-Lim in blocks against the textbook's on whole tensors, by PyTorch's own STFT and its inverse."""

import pytest
import torch

from sae_audio.etude.phase import BLOCK, griffin_lim, overlap_add, starting_phase

N_FFT, HOP, MOMENTUM = 64, 10, 0.99


def textbook(magnitudes, phasors, window, iterations):
    """doi 10.1109/WASPAA.2013.6701851 on ``[B, n_bins, n]``."""
    length, previous = (magnitudes.shape[-1] - 1) * HOP, 0
    for _ in range(iterations):
        audio = torch.istft(magnitudes * phasors, N_FFT, HOP, window=window, length=length)
        spectra = torch.stft(audio, N_FFT, HOP, window=window, pad_mode="constant", return_complex=True)
        ahead = spectra - MOMENTUM / (1 + MOMENTUM) * previous
        phasors, previous = ahead / ahead.abs().clamp(min=1e-15), spectra
    return torch.istft(magnitudes * phasors, N_FFT, HOP, window=window, length=length)


@pytest.mark.parametrize("n", [12, BLOCK, 2 * BLOCK + 3])  # one block; a whole one; a last block shorter than its overlap
@pytest.mark.parametrize("iterations", [0, 1, 4])
def test_blocks_equal_the_textbook(n, iterations):
    generator = torch.Generator().manual_seed(0)
    magnitudes = torch.rand(2, n, N_FFT // 2 + 1, generator=generator) + 0.1
    turns = torch.rand(2, n, N_FFT // 2 + 1, generator=generator, dtype=torch.float64)
    window = torch.hann_window(N_FFT)
    ours = griffin_lim(magnitudes, turns, window, HOP, iterations, MOMENTUM)
    phasors = starting_phase(turns).transpose(1, 2)
    theirs = textbook(magnitudes.transpose(1, 2), phasors, window, iterations)
    assert ours.shape == theirs.shape
    assert (ours - theirs).norm() < 1e-3 * theirs.norm()


def test_no_magnitude_is_no_sound():
    silent = torch.zeros(1, 20, N_FFT // 2 + 1)
    assert not griffin_lim(silent, silent.double(), torch.hann_window(N_FFT), HOP, 3, MOMENTUM).any()


def test_the_number_of_threads_changes_nothing():
    magnitudes = torch.rand(1, 3 * BLOCK, N_FFT // 2 + 1, generator=torch.Generator().manual_seed(0))
    before, results = torch.get_num_threads(), []
    for threads in (1, 3):
        torch.set_num_threads(threads)
        results.append(griffin_lim(magnitudes, magnitudes.double(), torch.hann_window(N_FFT), HOP, 3, MOMENTUM))
    torch.set_num_threads(before)
    torch.testing.assert_close(*results, atol=1e-5, rtol=1e-4)


def test_overlap_add_by_hand():
    frames = torch.tensor([[[1.0, 2, 3], [10, 20, 30]]])
    assert overlap_add(frames, 2).tolist() == [[[1, 2], [13, 20], [30, 0]]]


def test_starting_phase_alternates_from_bin_to_bin():
    phasors = starting_phase(torch.tensor([[[0.0, 0.0, 0.25]]], dtype=torch.float64))
    torch.testing.assert_close(phasors, torch.tensor([[[1, -1, 1j]]], dtype=torch.complex64), atol=1e-6, rtol=0)
