"""A loss that is no number stops a run before it can reach a checkpoint, and its batch is kept."""

import math

from torch import Tensor

from cwm.infra.checkpoint import write_tensors
from cwm.infra.errors import UserError
from cwm.infra.run_dir import RunDir


class NaNGuard:
    """Looks at the figures of updates.

    Reading one makes a CPU wait for its GPU. So there only those are looked at that are read anyway
    or that a checkpoint follows; all of them when the run has failed before, to find the first.
    """

    def __init__(self, run: RunDir, device: str) -> None:
        self.path = run.folder / "not-finite.safetensors"
        self.all = device == "cpu" or self.path.exists()
        self.last: tuple[int, dict[str, Tensor], dict[str, Tensor]] | None = None

    def record(self, update: int, figures: dict[str, Tensor], batch: dict[str, Tensor]) -> None:
        """Take the figures (), and the batch that they come from."""
        self.last = (update, figures, batch)
        if self.all:
            self.check()

    def check(self) -> None:
        """Raise UserError if a figure of the last update is NaN or infinite.

        One wrong gradient makes all weights wrong, so that the figures show it ever after.
        """
        update, figures, batch = self.last or (0, {}, {})
        wrong = next((name for name, x in figures.items() if not math.isfinite(x)), None)
        if wrong is None:
            return
        write_tensors(self.path, batch)
        first = "" if self.all else " or before: the same command looks at every one"
        raise UserError(
            f"{wrong} is {float(figures[wrong])} at update {update}{first}. The batch is in"
            f" {self.path}, the last checkpoint is older. A lower learning rate or"
            " runtime.precision=fp32 may help; either makes another run"
        )
