"""Spectra that losses compare: mel bands, and complex spectra on four scales.

Shapes: B rows, S samples, N frequency bins, M mel bands, T spectra.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from engine.slot import FRAME_SAMPLES, SAMPLE_RATE

SUBFRAMES = 4
"""Of 20 ms in a frame: the grid of phone labels and mel targets."""

SUBFRAME_SAMPLES = FRAME_SAMPLES // SUBFRAMES

MELS = 40

MEL_WINDOW = 1024


def mel_bands(window: int, bands: int) -> Tensor:
    """Triangles, equally far apart on the mel scale from 0 to 12 kHz, each of sum 1: [M, N]."""

    def mel(hz: NDArray[np.float64]) -> NDArray[np.float64]:
        return 2595 * np.log10(1 + hz / 700)

    bins = mel(np.linspace(0, SAMPLE_RATE / 2, window // 2 + 1))
    edges = np.linspace(0, bins[-1], bands + 2)
    up = (bins - edges[:-2, None]) / (edges[1:-1] - edges[:-2])[:, None]
    down = (edges[2:, None] - bins) / (edges[2:] - edges[1:-1])[:, None]
    triangles = np.maximum(0, np.minimum(up, down))
    nearest = np.abs(bins - edges[1:-1, None]).argmin(1)
    triangles[np.arange(bands), nearest] += 1e-3  # a band that falls between two bins still hears one
    return torch.from_numpy(triangles / triangles.sum(1, keepdims=True)).float()


class LogMel:
    """Log power in mel bands of every 20 ms, about zero mean and unit size for speech: [B, S] -> [B, T, M]."""

    def __init__(self, device: torch.device) -> None:
        self.bands = mel_bands(MEL_WINDOW, MELS).to(device)
        self.window = torch.hann_window(MEL_WINDOW, device=device)

    def __call__(self, audio: Tensor) -> Tensor:
        beside = (MEL_WINDOW - SUBFRAME_SAMPLES) // 2  # each window is about the middle of its 20 ms
        padded = F.pad(audio, (beside, beside))
        spectra = torch.stft(
            padded, MEL_WINDOW, SUBFRAME_SAMPLES, window=self.window, center=False, return_complex=True
        )
        power = torch.einsum("mn,bnt->btm", self.bands, spectra.abs().square())
        return ((power + 1e-3).log() + 1) / 3


class WaveLoss:
    """How far a wave is from its target, phases included, measured against the mean spectrum of all targets.

    On each scale: complex difference + log mel difference + 0.3 times the difference of magnitudes, all L1; beside
    them the difference of the waves. Spectra are divided bin by bin by the targets' mean, or else only the loudest bins
    below 1 kHz are learnt; magnitudes alone give a whisper.
    """

    SCALES = ((2048, 80), (960, 64), (384, 40), (128, 20))
    """Window in samples, mel bands. A spectrum every quarter of a window."""

    FLOOR = 0.02
    """Of the loudest bin's mean; what is below it is not amplified any further."""

    def __init__(self, targets: Tensor) -> None:
        """`targets` [S]: all that is to be said."""
        self.size = targets.abs().mean().item()
        self.windows = [torch.hann_window(size, device=targets.device) for size, _ in self.SCALES]
        self.bands, self.means, self.mel_means = [], [], []
        for scale, (size, count) in enumerate(self.SCALES):
            magnitude = self._spectra(targets[None], scale).abs()
            mean = magnitude.mean((0, 2))
            bands = mel_bands(size, count).to(targets.device)
            self.means.append((mean + self.FLOOR * mean.max())[:, None])
            self.bands.append(bands)
            self.mel_means.append((bands @ mean)[:, None])

    def __call__(self, made: Tensor, target: Tensor) -> tuple[Tensor, dict[str, float]]:
        """Both [B, S] float32. Also the figures of its parts."""
        complex_part, mel_part, magnitude_part = (made.new_zeros(()) for _ in range(3))
        for scale in range(len(self.SCALES)):
            ours, theirs = self._spectra(made, scale), self._spectra(target, scale)
            apart = torch.view_as_real(ours - theirs) / self.means[scale][..., None]
            complex_part = complex_part + apart.abs().mean()
            ours, theirs = (spectra.abs() for spectra in (ours, theirs))
            magnitude_part = magnitude_part + ((ours - theirs) / self.means[scale]).abs().mean()
            mel_part = mel_part + (self._log_mel(ours, scale) - self._log_mel(theirs, scale)).abs().mean()
        count = len(self.SCALES)
        wave_part = (made - target).abs().mean() / self.size
        loss = (complex_part + mel_part + 0.3 * magnitude_part) / count + wave_part
        return loss, {"complex": complex_part.item() / count, "mel": mel_part.item() / count, "wave": wave_part.item()}

    def _spectra(self, audio: Tensor, scale: int) -> Tensor:  # [B, N, T]
        size, _ = self.SCALES[scale]
        return torch.stft(audio, size, size // 4, window=self.windows[scale], center=False, return_complex=True)

    def _log_mel(self, magnitude: Tensor, scale: int) -> Tensor:
        """A hundredth of the mean is as good as silence."""
        return (self.bands[scale] @ magnitude / self.mel_means[scale] + 0.01).log()


def snr_db(made: Tensor, target: Tensor) -> float:
    """Of the waveform, over all of it."""
    noise = (made - target).square().sum().clamp(min=1e-12)
    return float(10 * torch.log10(target.square().sum().clamp(min=1e-12) / noise))
