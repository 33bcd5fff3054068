import numpy as np
import pandas as pd
import pytest
import study

from cwm.analysis.prediction_errors import by_horizon, compare_models, read_errors, sample_sizes
from cwm.analysis.runs import runs_by_seed
from cwm.infra.errors import UserError


def errors(root, seeds=1, models=("plain", "contextwm")):
    runs = [study.predict(root, model, seed=seed) for model in models for seed in range(seeds)]
    return {method: read_errors(found) for method, found in runs_by_seed(runs).items()}


def test_errors_by_horizon_by_hand():
    """Two clips of two observed and two predicted frames; in one, nothing moves at first."""
    frames = pd.DataFrame(
        {
            "clip": [0, 0, 0, 0, 1, 1, 1, 1],
            "t": [0, 1, 2, 3, 0, 1, 2, 3],
            "phase": ["observed", "observed", "predicted", "predicted"] * 2,
            "mse": [9, 9, 1, 2, 9, 9, 3, 6.0],
            "mse_moving": [9, 9, np.nan, 4, 9, 9, 5, 6],
            "seed": 0,
        }
    )
    whole = by_horizon(frames, "mse")
    assert whole["ahead"].tolist() == [1, 2]
    assert whole["value"].tolist() == [2, 4]
    assert whole["value_low"].tolist() == [1, 2]
    assert whole["value_high"].tolist() == [3, 6]
    moving = by_horizon(frames, "mse_moving")
    assert moving["value"].tolist() == [5, 5]
    assert moving["n"].tolist() == [1, 2]
    assert np.isnan(moving["value_low"][0])
    other = frames.assign(mse=frames["mse"] + 4, seed=1)
    both = by_horizon(pd.concat([frames, other], ignore_index=True), "mse")
    assert both["value"].tolist() == [4, 6]
    assert both["value_low"].tolist() == [2, 4]  # means of the two seeds, not single clips
    assert both["value_high"].tolist() == [6, 8]
    assert both["n"].tolist() == [2, 2]


def test_psnr_by_hand(tmp_path):
    run = study.predict(tmp_path, "plain")
    frame = pd.read_csv(run / "errors.csv")
    frame = frame.assign(mse=0.001, mse_moving="", repeat_mse=0, repeat_mse_moving=0.1)
    frame.to_csv(run / "errors.csv", index=False)
    frames = read_errors({0: run})
    assert frames["psnr"].to_numpy() == pytest.approx(30)
    assert frames["psnr_moving"].isna().all()
    assert frames["repeat_psnr"].to_numpy() == pytest.approx(60)
    assert frames["repeat_psnr_moving"].to_numpy() == pytest.approx(10)
    (method,) = runs_by_seed([run])
    assert "at some horizons pixels move in 0 of 4 clips" in " ".join(
        sample_sizes({method: frames})
    )


def test_models_are_compared_clip_by_clip(tmp_path):
    plain, repeated = compare_models(errors(tmp_path))
    gain = 10 * np.log10(1.5)  # every squared error of the plain model is 1.5 times as large
    assert plain.startswith("something: ContextWM minus Plain WM")
    assert f"predicted frames: PSNR (dB) {gain:.2f}" in plain
    assert "ContextWM minus repeated frame" in repeated


def test_intervals_resample_the_seeds_of_pretraining(tmp_path):
    of_models = errors(tmp_path, seeds=3)
    gain = f"{10 * np.log10(1.5):.2f}"  # equal in every seed
    plain, _ = compare_models(of_models)
    assert f"PSNR (dB) {gain} [{gain}, {gain}] (seeds: {gain}, {gain}, {gain})" in plain
    (sizes,) = sample_sizes(of_models)
    assert sizes == (
        "something: 4 held-out clips, so rough intervals; seeds of pre-training per model: 3."
    )


def test_broken_errors_are_named(tmp_path):
    run = study.predict(tmp_path, "plain")
    text = (run / "errors.csv").read_text()
    (run / "errors.csv").write_text(text.replace("predicted", "observed"))
    with pytest.raises(UserError, match=r"errors.csv needs observed and predicted frames"):
        read_errors({0: run})
    (run / "errors.csv").write_text("clip,t\n")
    with pytest.raises(UserError, match=r"errors.csv lacks the columns phase, mse"):
        read_errors({0: run})
