"""Statistics of predicted clips (predictions.npz of `cwm predict`): attention and composition."""

import numpy as np


def attention_note(film: dict[str, np.ndarray]) -> str:
    """Share of the attention of moving tokens that reaches what differs from the context frame.

    film: `attention` (N, T, h, w), each map a distribution over the context frame's tokens and NaN
    where nothing moves; `moves` (N, T, h, w), the tokens that differ; `observed`, a frame count.
    """
    maps, differs = film["attention"], film["moves"]
    defined = ~np.isnan(maps).any((2, 3))
    defined[:, : int(film["observed"])] = False
    maps, differs = maps[defined], differs[defined]
    if not len(maps):
        return "nothing moves in these clips."
    share, uniform = (maps * differs).sum((1, 2)).mean(), differs.mean()
    tokens = np.exp(-(maps * np.log(maps + 1e-12)).sum((1, 2))).mean()  # perplexity
    return (
        f"{len(film['truth'])} clips; {share:.0%} of the attention of moving tokens goes to tokens "
        f"where the context frame differs from the predicted frame (uniform attention: "
        f"{uniform:.0%}); its perplexity is {tokens:.0f} of {maps[0].size} tokens."
    )


def composition_note(film: dict[str, np.ndarray]) -> str:
    """Correlation of composed clips with the clip of their context and that of their dynamics.

    film: `truth` and `recomposed` (N, T, H, W, 3), and `other` (N,), the clip of each context.
    """
    if "recomposed" not in film:
        return "no context, so nothing to exchange."
    truth, other = film["truth"] / 255, film["other"]
    if (other == np.arange(len(other))).any():
        return "one held-out clip only, so no other context."
    composed = film["recomposed"] / 255
    still, motion = (lambda x: x.mean(1), lambda x: x - x.mean(1, keepdims=True))
    look = [_correlation(still(composed), still(of)) for of in (truth[other], truth)]
    moves = [_correlation(motion(composed), motion(of)) for of in (truth[other], truth)]
    return (
        f"{len(other)} clips; the mean frame of a composition correlates {look[0]:.2f} with the "
        f"clip of the context and {look[1]:.2f} with the clip of the dynamics; its deviations from "
        f"the mean frame correlate {moves[0]:.2f} and {moves[1]:.2f}."
    )


def _correlation(x: np.ndarray, y: np.ndarray) -> float:
    """Mean over clips of the correlation of two arrays (N, ...)."""
    pairs = zip(x, y, strict=True)
    return float(np.mean([np.corrcoef(a.ravel(), b.ravel())[0, 1] for a, b in pairs]))
