"""Settings of all tests.

Threads: tests share a machine, and equal bits need equal threads. fsync waits for the disk, and
protects files from a power failure, which no test causes. Folders with tests of minutes come
first, so that processes end together.
"""

import os

import torch

torch.set_num_threads(1)
os.fsync = lambda file: None

SLOW = ("workflow", "train", "bench", "gpu")


def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: item.path.parent.name not in SLOW)
