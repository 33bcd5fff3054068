"""Copy run folders to TensorBoard event files. The folders are the source of truth.

A run has one event file, which is always written whole. So each point is in it once, also when a
resumed run logged the point again or moved from `work` to its final folder.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter

from cwm.infra.errors import UserError
from cwm.infra.files import atomic_write
from cwm.infra.tracking_record import Lines, run_record

NAME = "events.out.tfevents.cwm"  # TensorBoard reads the files whose names contain `tfevents`


def write_event_files(places: Sequence[Path], out: Path) -> int:
    """Write the metrics of every run in `places`, run folders or folders of runs; return how many.

    A run's file is in `out/<stage>/<labels>/<key>`. Runs without metrics and their times are
    skipped. Raises UserError for a place without a run, and for a damaged run.
    """
    written = set()
    for place in places:
        folders = sorted(path.parent for path in place.rglob("metrics.jsonl"))
        if not folders:
            raise UserError(f"no metrics.jsonl in {place}; name a run's folder or a folder of runs")
        for folder in folders:
            record = run_record(folder)
            if not record.lines:
                continue
            target = out / record.stage / record.name / record.key
            if not target.resolve().is_relative_to(out.resolve()):
                raise UserError(f"{folder}/run.json has a label that leads out of {out}")
            target.mkdir(parents=True, exist_ok=True)
            with atomic_write(target / NAME) as temporary, temporary.open("wb") as file:
                writer = RecordWriter(file)
                for event in _events(record.lines):
                    writer.write(event.SerializeToString())
            written.add(target)
    return len(written)


def _events(lines: Lines) -> Iterator[Event]:
    """The head of an event file, then an event for each line; values become float32."""
    yield Event(wall_time=lines[0][1] / 1000, file_version="brain.Event:2")
    for values, at in lines:
        names = sorted(values.keys() - {"step"})
        summary = Summary(value=[Summary.Value(tag=x, simple_value=values[x]) for x in names])
        yield Event(wall_time=at / 1000, step=int(values["step"]), summary=summary)
