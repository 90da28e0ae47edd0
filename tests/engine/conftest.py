"""What the engine's tests share: one thread for torch."""

from __future__ import annotations

import torch

torch.set_num_threads(1)  # the tests share their cores with others, and the models are tiny
