from itertools import pairwise

from cwm.analysis.style import DATASETS, MARKERS, MODELS, Method, legend_order, line_styles


def agent(model, dataset="none", variant="standard"):
    return Method("agent", model, dataset, variant)


def test_labels():
    assert agent("contextwm", "something").label == "ContextWM, something"
    assert agent("plain").label == "Plain WM, none (scratch)"
    assert agent("dreamer").label == "DreamerV2"
    assert agent("contextwm", "rlbench", "no-bonus").label == "ContextWM, rlbench, no bonus"
    first = agent("contextwm-first-frame", "something", "no-dual-reward")
    assert first.label == "ContextWM, first frame, something, no dual reward"
    assert agent("contextwm-concatenation").label == "ContextWM, concatenation, none (scratch)"
    assert agent("my-own", "mixture").label == "my-own, mixture"
    assert agent("other", "mixture").label == "other, mixture"
    assert Method("random", "", "", "").label == "Random policy"


def test_legend_order():
    methods = [
        Method("random", "", "", ""),
        agent("zebra"),
        agent("dreamer"),
        agent("contextwm-concatenation", "something"),
        agent("contextwm"),
        agent("contextwm", "something", "no-bonus"),
        agent("contextwm", "something"),
    ]
    assert legend_order(methods) == methods[::-1]


def test_methods_have_distinct_styles():
    methods = [
        agent(model, dataset, variant)
        for model in (*MODELS, "contextwm-concatenation", "new")
        for dataset in (*DATASETS, "own")
        for variant in ("standard", "no-bonus")
    ]
    styles = line_styles([*methods, Method("random", "", "", "")])
    assert set(styles) == set(methods)
    assert len(set(styles.values())) == len(methods)
    assert styles[agent("plain")].fill == "white"
    assert styles[agent("plain", "rlbench")].marker == MARKERS[0]


def test_models_differ_in_lightness():
    """They stay distinguishable in a grey print."""

    def light(colour):
        red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
        return 0.299 * red + 0.587 * green + 0.114 * blue

    levels = sorted(light(colour) for _, colour in MODELS.values())
    assert min(b - a for a, b in pairwise(levels)) > 40
