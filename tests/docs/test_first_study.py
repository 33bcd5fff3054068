"""The tutorial works as written, at the scale that it names."""

from blocks import ROOT, copy_project, run


def test_commands_of_the_tutorial_run(tmp_path):
    run(ROOT / "docs/first-study.md", copy_project(tmp_path))
    assert (tmp_path / "results/smoke/figures/prediction.png").exists()
    assert (tmp_path / "episode.mp4").exists()
