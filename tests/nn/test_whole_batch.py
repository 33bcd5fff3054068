"""The random numbers of a share of a batch are those of the whole batch."""

import pytest
import torch

from cwm.infra import ranks
from cwm.infra.errors import UserError
from cwm.infra.ranks import Ranks
from cwm.nn.attention import keep_some, random_tokens
from cwm.nn.context import choose
from cwm.nn.dists import gumbel
from cwm.nn.whole_batch import share

CPU = torch.device("cpu")
DRAWS = {  # of a number of clips, two frames each
    "latents": lambda clips: gumbel((clips, 2, 3, 4), torch.empty(0)),
    "tokens": lambda clips: random_tokens(2 * clips, 16, 0.75, torch.empty(0)),
    "dropout": lambda clips: keep_some(torch.empty(2 * clips, 3, 5, 5), 0.1),
    "context frames": lambda clips: choose("random", clips, 25, CPU),
}


@pytest.mark.parametrize("name", DRAWS)
def test_processes_draw_their_rows_of_one_drawing(name, monkeypatch):
    draw = DRAWS[name]
    torch.manual_seed(0)
    whole = draw(12)
    parts = []
    for rank in range(4):
        monkeypatch.setattr(ranks, "current", Ranks(rank, 4))
        torch.manual_seed(0)
        parts.append(draw(3))
        following = torch.rand(1)
        torch.manual_seed(0)
        with ranks.alone():
            assert torch.equal(draw(12), whole)
        assert torch.equal(torch.rand(1), following)
    assert torch.equal(torch.cat(parts), whole)


def test_batch_that_cannot_be_divided_is_an_error(monkeypatch):
    monkeypatch.setattr(ranks, "current", Ranks(1, 4))
    assert share(12) == slice(3, 6)
    with pytest.raises(UserError, match=r"pretrain\.batch 10 is no multiple of 4 processes"):
        share(10)
