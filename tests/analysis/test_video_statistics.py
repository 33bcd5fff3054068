import numpy as np
import study

from cwm.analysis.video_statistics import attention_note, composition_note


def predictions(root, model, **options):
    return dict(np.load(study.predict(root, model, **options) / "predictions.npz"))


def test_attention_by_hand():
    """All attention on the one of 16 tokens that differs, then a quarter of it."""
    maps = np.zeros((1, 2, 4, 4))
    maps[0, 0], maps[0, 1, 0, 0] = np.nan, 1
    film = {"truth": maps, "moves": maps == 1, "attention": maps, "observed": np.array(1)}
    note = attention_note(film)
    assert "100% of the attention" in note
    assert "(uniform attention: 6%); its perplexity is 1 of 16 tokens" in note
    maps[0, 1, 0] = 0.25
    note = attention_note(film)
    assert "25% of the attention" in note
    assert "4 of 16" in note
    maps[:] = np.nan
    assert "nothing moves" in attention_note(film)


def test_a_composition_that_copies_the_context_clip_correlates_with_it(tmp_path):
    note = composition_note(predictions(tmp_path, "contextwm"))
    look = note.partition("its deviations")[0]
    of_context, of_dynamics = look.split("correlates")[1].split("and")
    assert float(of_context.split()[0]) > float(of_dynamics.split()[0])


def test_composition_needs_a_context_and_two_clips(tmp_path):
    assert "nothing to exchange" in composition_note(predictions(tmp_path, "plain"))
    one = predictions(tmp_path, "contextwm", clips=1)
    assert "one held-out clip only, so no other context" in composition_note(one)
