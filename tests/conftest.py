"""Threads: tests share a machine, and equal bits need equal threads."""

import torch

torch.set_num_threads(1)
