"""Figures of pre-trained models, drawn from run folders on disk."""

import shutil

import matplotlib.image
import numpy as np
import pytest
import study
from pictures import ABOUT, assert_embedded, facts, shows

from cwm.analysis import video
from cwm.analysis.style import GREY, MODELS
from cwm.infra.errors import UserError

BOTH = ("plain", "contextwm")


def test_pretraining(tmp_path):
    runs = [study.pretrain(tmp_path, m, of) for of in ("something", "rlbench") for m in BOTH]
    stem = tmp_path / "pretraining"
    video.draw_pretraining(runs, stem, ABOUT)
    for colour in (MODELS["contextwm"][1], MODELS["plain"][1], GREY):
        assert shows(stem, colour)
    assert_embedded(stem.with_suffix(".pdf"))
    assert facts(stem)["runs"] == [
        "pretrain/rlbench/contextwm/0",
        "pretrain/rlbench/plain/0",
        "pretrain/something/contextwm/0",
        "pretrain/something/plain/0",
    ]
    (note,) = facts(stem)["notes"]
    assert note.startswith("One run of each model")


def test_a_diverged_training_and_one_of_another_time_are_remarked(tmp_path):
    run = study.pretrain(tmp_path, "plain")
    lines = (run / "metrics.jsonl").read_text().splitlines()[:3]
    lines += ['{"step": 40, "train/image": NaN, "train/kl": 1}', '{"step": 50, "heldout/image": 2}']
    (run / "metrics.jsonl").write_text("\n".join(lines))
    video.draw_pretraining([run], tmp_path / "f", ABOUT)
    notes = facts(tmp_path / "f")["notes"]
    assert "Plain WM, something: 1 values of train/image are not finite." in notes
    assert "Plain WM, something: heldout/prediction was not logged." in notes


def test_prediction(tmp_path):
    runs = [study.predict(tmp_path, model) for model in BOTH]
    video.draw_prediction(runs, tmp_path / "strip", ABOUT)
    image = matplotlib.image.imread(tmp_path / "strip.png")[..., :3]
    coloured = np.ptp(image, axis=-1) > 0.1
    assert 0.15 < coloured.mean() < 0.6  # four rows of frames among seven
    assert_embedded(tmp_path / "strip.pdf")
    assert "4 frames are observed" in facts(tmp_path / "strip")["caption"]
    (note,) = facts(tmp_path / "strip")["notes"]
    assert note.startswith("ContextWM, something, clips: 4; of the attention of what moves, ")


def test_where_it_looks_by_hand(tmp_path):
    """All attention on the one of four by four tokens that differs, and then a quarter of it."""
    maps = np.zeros((1, 2, 4, 4))
    maps[0, 0], maps[0, 1, 0, 0] = np.nan, 1
    film = {"truth": maps, "moves": maps == 1, "attention": maps, "observed": np.array(1)}
    method = next(iter(video.models.folders([study.predict(tmp_path, "contextwm")])))
    said = video._looks(method, film)
    assert "100% goes to the tokens where the context frame differs" in said
    assert "6% if it were even; it is spread as over 1 of 16 tokens" in said
    maps[0, 1, 0] = 0.25
    said = video._looks(method, film)
    assert "25% goes to" in said
    assert "over 4 of 16" in said
    maps[:] = np.nan
    assert "nothing moves" in video._looks(method, film)


def test_prediction_errors(tmp_path):
    runs = [study.predict(tmp_path, model) / "errors.csv" for model in BOTH]
    stem = tmp_path / "errors"
    video.draw_prediction_errors(runs, stem, ABOUT)
    for colour in (MODELS["contextwm"][1], MODELS["plain"][1], GREY):
        assert shows(stem, colour)
    assert_embedded(stem.with_suffix(".pdf"))
    few, plain, repeated = facts(stem)["notes"]
    assert few.startswith("something: 4 held-out clips, so only rough intervals")
    gain = 10 * np.log10(1.5)  # in every frame the squared error is 1.5 times as large
    assert (
        f"less Plain WM, means over the predicted frames of each clip: PSNR (dB) {gain:.2f}"
        in plain
    )
    assert "less repeating" in repeated


def test_seeds_of_pretraining_are_what_the_intervals_are_over(tmp_path):
    runs = [study.predict(tmp_path, model, seed=seed) for model in BOTH for seed in range(3)]
    video.draw_prediction_errors(runs, tmp_path / "errors", ABOUT)
    few, plain, _ = facts(tmp_path / "errors")["notes"]
    assert "seeds of pre-training of each model: 3." in few
    gain = f"{10 * np.log10(1.5):.2f}"  # the same in every seed
    assert f"PSNR (dB) {gain} [{gain}, {gain}] (seeds: {gain}, {gain}, {gain})" in plain
    curves = [study.pretrain(tmp_path, model, seed=seed) for model in BOTH for seed in range(2)]
    video.draw_pretraining(curves, tmp_path / "curves", ABOUT)
    assert facts(tmp_path / "curves")["seeds"]["pretrain/something/plain"] == 2
    assert facts(tmp_path / "curves")["notes"] == []
    with pytest.raises(UserError, match="3 seeds of ContextWM, something, of which one can"):
        video.draw_prediction(runs, tmp_path / "strip", ABOUT)


def test_signal_to_noise_by_hand(tmp_path):
    run = study.predict(tmp_path, "plain")
    text = (run / "errors.csv").read_text().splitlines()
    rows = [line.split(",") for line in text[1:]]
    for row in rows:
        row[3:5], row[7:9] = ["0.001", ""], ["0", "0.1"]
    (run / "errors.csv").write_text("\n".join([text[0], *map(",".join, rows)]))
    frames = video._read_errors({0: run})
    assert frames["psnr"].to_numpy() == pytest.approx(30)
    assert frames["psnr_moving"].isna().all()
    assert frames["repeat_psnr"].to_numpy() == pytest.approx(60)
    assert frames["repeat_psnr_moving"].to_numpy() == pytest.approx(10)
    video.draw_prediction_errors([run], tmp_path / "still", ABOUT)
    assert (
        "something: at some horizons pixels move in 0 of 4 clips."
        in facts(tmp_path / "still")["notes"]
    )


def test_composition(tmp_path):
    runs = [study.predict(tmp_path, model) for model in BOTH]
    video.draw_composition(runs, tmp_path / "composition", ABOUT)
    assert_embedded(tmp_path / "composition.pdf")
    ours, plain = facts(tmp_path / "composition")["notes"]
    looks, _ = ours.split("changes over time")
    of_context, of_dynamics = looks.split("correlates")[1].split("and")
    assert float(of_context.split()[0]) > float(of_dynamics.split()[0])
    assert "nothing to exchange" in plain


def test_one_clip_has_no_other_context(tmp_path):
    run = study.predict(tmp_path, "contextwm", clips=1)
    video.draw_composition([run], tmp_path / "one", ABOUT)
    assert facts(tmp_path / "one")["notes"] == [
        "ContextWM, something: one held-out clip only, so no other context."
    ]


def test_predictions_of_different_clips_are_refused(tmp_path):
    first, second = (study.predict(tmp_path, model) for model in BOTH)
    arrays = dict(np.load(second / "predictions.npz"))
    np.savez(second / "predictions.npz", **arrays | {"truth": 255 - arrays["truth"]})
    with pytest.raises(UserError, match="predicts other clips"):
        video.draw_prediction([first, second], tmp_path / "strip", ABOUT)


def test_broken_runs_are_named(tmp_path):
    trained, tested = study.pretrain(tmp_path, "plain"), study.predict(tmp_path, "plain")

    def draw(match):
        with pytest.raises(UserError, match=match):
            video.draw_pretraining([trained], tmp_path / "f", ABOUT)

    def draw_errors(match):
        with pytest.raises(UserError, match=match):
            video.draw_prediction_errors([tested], tmp_path / "f", ABOUT)

    twin = shutil.copytree(trained, tmp_path / "twin")
    with pytest.raises(UserError, match="are both Plain WM, something, seed 0"):
        video.draw_pretraining([trained, twin], tmp_path / "f", ABOUT)
    with pytest.raises(UserError, match="no runs to draw"):
        video.draw_prediction([], tmp_path / "f", ABOUT)
    text = (tested / "errors.csv").read_text()
    (tested / "errors.csv").write_text(text.replace("predicted", "observed"))
    draw_errors(r"errors.csv has not both observed and predicted frames")
    (tested / "errors.csv").write_text("clip,t\n")
    draw_errors(r"errors.csv lacks the columns phase, mse")
    (trained / "metrics.jsonl").write_text('{"step": 1, "train/kl": 2}\n')
    draw(r"metrics.jsonl has no line with train/image")
    (trained / "metrics.jsonl").write_text('{"step": 1, "train/kl')
    draw(r"metrics.jsonl is not lines of JSON")
    (tested / "predictions.npz").write_bytes(b"PK\x03\x04 and no more")
    with pytest.raises(UserError, match=r"predictions.npz is not a file of arrays"):
        video.draw_prediction([tested], tmp_path / "f", ABOUT)
