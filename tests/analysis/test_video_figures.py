import matplotlib.image
import numpy as np
import pytest
import study
from pictures import META, assert_embedded, facts, shows

from cwm.analysis.draw import draw
from cwm.analysis.style import GREY, MODELS
from cwm.infra.errors import UserError

BOTH = ("plain", "contextwm")


def test_pretraining_shows_every_model_and_the_repeated_frame(tmp_path):
    runs = [study.pretrain(tmp_path, m, of) for of in ("something", "rlbench") for m in BOTH]
    stem = tmp_path / "pretraining"
    draw("pretraining", runs, stem, META)
    for colour in (MODELS["contextwm"][1], MODELS["plain"][1], GREY):
        assert shows(stem, colour)
    assert_embedded(stem.with_suffix(".pdf"))
    assert facts(stem)["runs"] == [
        "pretrain/rlbench/contextwm/0",
        "pretrain/rlbench/plain/0",
        "pretrain/something/contextwm/0",
        "pretrain/something/plain/0",
    ]
    assert facts(stem)["notes"] == [
        "One run of each model: the spread between seeds is unknown."
    ]  # fmt: skip


def test_several_seeds_are_counted_without_a_caveat(tmp_path):
    runs = [study.pretrain(tmp_path, model, seed=seed) for model in BOTH for seed in range(2)]
    draw("pretraining", runs, tmp_path / "f", META)
    assert facts(tmp_path / "f")["seeds"]["pretrain/something/plain"] == 2
    assert facts(tmp_path / "f")["notes"] == []


def test_missing_and_diverged_metrics_are_noted(tmp_path):
    run = study.pretrain(tmp_path, "plain")
    lines = (run / "metrics.jsonl").read_text().splitlines()[:3]
    lines += ['{"step": 40, "train/image": NaN, "train/kl": 1}', '{"step": 50, "heldout/image": 2}']
    (run / "metrics.jsonl").write_text("\n".join(lines))
    draw("pretraining", [run], tmp_path / "f", META)
    notes = facts(tmp_path / "f")["notes"]
    assert "Plain WM, something: 1 values of train/image are not finite." in notes
    assert "Plain WM, something: heldout/prediction was not logged." in notes


def test_a_metric_that_was_never_finite_is_noted(tmp_path):
    run = study.pretrain(tmp_path, "plain")
    lines = [f'{{"step": {i}, "train/image": NaN, "train/kl": 1}}' for i in (10, 20)]
    (run / "metrics.jsonl").write_text("\n".join(lines))
    draw("pretraining", [run], tmp_path / "f", META)
    note = "Plain WM, something: 2 values of train/image are not finite."
    assert note in facts(tmp_path / "f")["notes"]


def test_prediction_errors_show_every_model_and_the_repeated_frame(tmp_path):
    runs = [study.predict(tmp_path, model) / "errors.csv" for model in BOTH]
    stem = tmp_path / "errors"
    draw("prediction_errors", runs, stem, META)
    for colour in (MODELS["contextwm"][1], MODELS["plain"][1], GREY):
        assert shows(stem, colour)
    assert_embedded(stem.with_suffix(".pdf"))
    assert len(facts(stem)["notes"]) == 3  # sample sizes and two comparisons


def test_prediction_strip_shows_frames_and_attention(tmp_path):
    runs = [study.predict(tmp_path, model) for model in BOTH]
    draw("prediction", runs, tmp_path / "strip", META)
    image = matplotlib.image.imread(tmp_path / "strip.png")[..., :3]
    coloured = np.ptp(image, axis=-1) > 0.1
    assert 0.15 < coloured.mean() < 0.6  # four rows of frames among seven
    assert_embedded(tmp_path / "strip.pdf")
    assert "4 frames are observed" in facts(tmp_path / "strip")["caption"]
    (note,) = facts(tmp_path / "strip")["notes"]
    assert note.startswith("ContextWM, something: 4 clips; ")


def test_composition_notes_every_model(tmp_path):
    runs = [study.predict(tmp_path, model) for model in BOTH]
    draw("composition", runs, tmp_path / "composition", META)
    assert_embedded(tmp_path / "composition.pdf")
    ours, plain = facts(tmp_path / "composition")["notes"]
    assert ours.startswith("ContextWM, something: 4 clips; ")
    assert plain == "Plain WM, something: no context, so nothing to exchange."


def test_predictions_of_different_clips_are_refused(tmp_path):
    first, second = (study.predict(tmp_path, model) for model in BOTH)
    arrays = dict(np.load(second / "predictions.npz"))
    np.savez(second / "predictions.npz", **arrays | {"truth": 255 - arrays["truth"]})
    with pytest.raises(UserError, match="predicts other clips"):
        draw("prediction", [first, second], tmp_path / "strip", META)
