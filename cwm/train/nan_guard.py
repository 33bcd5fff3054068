"""Stop a run whose loss is NaN or infinite before it writes a checkpoint, and keep the batch."""

import math

from torch import Tensor

from cwm.infra import ranks
from cwm.infra.checkpoint import write_tensors
from cwm.infra.errors import UserError
from cwm.infra.run_dir import RunDir


class NaNGuard:
    """Checks that the metrics of updates are finite.

    On a CPU it checks every update. Reading a value makes the CPU wait for the GPU, so on a GPU it
    checks only before logging and checkpoints. After a failure, the rerun checks every update to
    find the first bad one.
    """

    def __init__(self, run: RunDir, device: str) -> None:
        rank = f"-{ranks.current.rank}" if ranks.current.rank else ""  # each has a share of a batch
        self.path = run.folder / f"not-finite{rank}.safetensors"
        self.check_all = device == "cpu" or self.path.exists()
        self.last: tuple[int, dict[str, Tensor], dict[str, Tensor]] | None = None

    def record(self, update: int, metrics: dict[str, Tensor], batch: dict[str, Tensor]) -> None:
        """Note the metrics () of an update and its batch; check them if every update is checked."""
        self.last = (update, metrics, batch)
        if self.check_all:
            self.check()

    def check(self) -> None:
        """Raise UserError if a metric of the last update is NaN or infinite.

        NaN weights stay NaN, so the last update shows every earlier failure too.
        """
        update, metrics, batch = self.last or (0, {}, {})
        bad = next((name for name, x in metrics.items() if not math.isfinite(x)), None)
        if bad is None:
            return
        write_tensors(self.path, batch)
        first = "" if self.check_all else " or earlier; rerun the command to find the first one"
        raise UserError(
            f"{bad} is {float(metrics[bad])} at update {update}{first}. The batch is in"
            f" {self.path}; the last checkpoint is earlier. A lower learning rate or"
            " runtime.precision=fp32 may help; changing either starts a new run"
        )
