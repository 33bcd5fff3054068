"""Open the viewer with some models."""

from collections.abc import Sequence
from pathlib import Path

from cwm.commands.trust import check_trusted
from cwm.infra.errors import UserError
from cwm.models import AgentModel, VideoModel, load
from cwm.train.rollout import EnvConfig
from cwm.viewer.clips import Clips, StoreClips, SyntheticClips
from cwm.viewer.server import serve
from cwm.viewer.session import LENGTH, Session


def dream(
    places: Sequence[str], clips: Path | None, port: int, show: bool, trust: bool = False
) -> None:
    """Serve the viewer on loopback until interrupted; for `places` see `cwm.load`.

    Without `clips`, a store.json, synthetic clips are rendered on demand. Raises UserError for a
    place without a model, an agent whose settings name code without `trust`, a store without long
    clips, and a port in use.
    """
    models: dict[str, VideoModel] = {}
    agents: dict[str, tuple[AgentModel, str, EnvConfig]] = {}
    for place in dict.fromkeys(places):
        model = load(place)
        if not isinstance(model, VideoModel | AgentModel):
            raise UserError(f"{place} is neither a pre-trained model nor an agent")
        about = model.about
        known: dict[str, object] = {**models, **agents}
        if isinstance(model, AgentModel):
            check_trusted(place, model.settings.env, trust)
            task = f"{about.get('suite')}/{about.get('task')}"
            name = f"{task}, {about.get('model')}"
        else:
            name = f"{about.get('model')}, {about.get('dataset')}"
        if name in known:
            name = f"{name} ({place})"
        if isinstance(model, AgentModel):
            agents[name] = model, task, model.settings.env
        else:
            models[name] = model
    if not (models or agents):
        raise UserError("name a model: the folder of a run of cwm pretrain or cwm finetune")
    shown: Clips = StoreClips(clips, LENGTH) if clips else SyntheticClips(LENGTH)
    serve(lambda: Session(models, agents, shown), port, show)
