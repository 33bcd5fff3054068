"""Settings of all tests.

Threads: tests share a machine, and equal bits need equal threads. fsync waits for the disk, and
protects files from a power failure, which no test causes.
"""

import os

import torch

torch.set_num_threads(1)
os.fsync = lambda file: None
