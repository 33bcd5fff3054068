import numpy as np
import pandas as pd

from cwm.analysis.estimates import by_horizon


def test_prediction_errors_by_horizon_by_hand():
    """Two clips of two observed and two predicted frames; in one nothing moves at first."""
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
    assert both["value_low"].tolist() == [2, 4]  # the means of the two seeds, not single clips
    assert both["value_high"].tolist() == [6, 8]
    assert both["n"].tolist() == [2, 2]
