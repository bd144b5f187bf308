"""The spectrogram that the page draws."""

import pytest
import torch

from sae_audio.spectrum import log_mel_db, mel_height

RATE = 16000


@pytest.mark.parametrize("hz", [200.0, 1000.0, 5000.0])
def test_a_tone_is_brightest_at_its_own_height(hz):
    tone = 0.5 * torch.sin(2 * torch.pi * hz * torch.arange(RATE) / RATE)
    picture = log_mel_db(tone[None], RATE)
    brightest = int(picture[:, picture.shape[1] // 2].argmax())
    assert abs((brightest + 1) / 97 - float(mel_height(hz, RATE))) < 0.015


def test_half_the_amplitude_is_six_decibels_less():
    tone = torch.sin(2 * torch.pi * 440 * torch.arange(RATE) / RATE)[None]
    difference = log_mel_db(tone, RATE).max() - log_mel_db(tone / 2, RATE).max()
    assert float(difference) == pytest.approx(6.02, abs=0.02)


@pytest.mark.parametrize("seconds", [0.05, 3.0, 60.0])
def test_columns_are_bounded_and_silence_is_the_floor(seconds):
    picture = log_mel_db(torch.zeros(2, int(RATE * seconds)), RATE, columns=300)
    assert picture.shape[0] == 96 and 2 <= picture.shape[1] <= 300
    assert float(picture.max()) == pytest.approx(-100, abs=1e-3)
