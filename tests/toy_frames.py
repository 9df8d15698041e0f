"""Small frames with the kind of structure that SSL features have, or with none."""

import torch


def structured_frames(num_frames: int, width: int, seed: int, num_modes: int = 40, noise: float = 1.0) -> torch.Tensor:
    """(num_frames, width) float32: modes and noise whose spectra fall off, away from the origin."""
    world = torch.Generator().manual_seed(5)
    spectrum = torch.arange(1, width + 1) ** -0.8
    modes = 6 * torch.randn(num_modes, width, generator=world) * spectrum
    offset = 3 * torch.randn(width, generator=world)
    generator = torch.Generator().manual_seed(seed)
    which = torch.randint(num_modes, (num_frames,), generator=generator)
    return modes[which] + noise * torch.randn(num_frames, width, generator=generator) * spectrum.sqrt() + offset


def gaussian_frames(num_frames: int, width: int, seed: int) -> torch.Tensor:
    """(num_frames, width) float32 without structure."""
    return torch.randn(num_frames, width, generator=torch.Generator().manual_seed(seed))
