"""Where the twins run: in Triton's interpreter on tensors of the CPU, or on a GPU."""

import os

import torch

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
HERE = torch.device("cpu" if INTERPRETED else "cuda")
