"""Open the viewer with some models."""

from collections.abc import Sequence
from pathlib import Path

from cwm.commands.trust import check_trusted
from cwm.infra.errors import UserError
from cwm.models import PUBLISHED, AgentModel, VideoModel, load
from cwm.train.environment import EnvConfig
from cwm.viewer.clips import Clips, StoreClips, SyntheticClips
from cwm.viewer.server import serve
from cwm.viewer.session import LENGTH, Session


def dream(
    places: Sequence[str], clips: Path | None, port: int, show: bool, trust: bool = False
) -> None:
    """Serve the viewer on loopback until interrupted; for `places` see `cwm.load`.

    Without `places` it shows the published models. Without `clips`, a store.json, synthetic clips
    are rendered on demand. Raises UserError for a place without a model, an agent without a task or
    whose settings name code without `trust`, a store without long clips, and a port in use.
    """
    places = places or published()
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
            if not about.get("suite"):
                raise UserError(f"{place} does not say which task its agent learned")
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
    shown: Clips = StoreClips(clips, LENGTH) if clips else SyntheticClips(LENGTH)
    serve(lambda: Session(models, agents, shown), port, show)


def published() -> list[str]:
    """The folders of the published models; UserError if there are none."""
    found = sorted(str(path.parent) for path in PUBLISHED.rglob("weights.safetensors"))
    if not found:
        raise UserError(f"no models in {PUBLISHED}: name the folder of a run with weights.json")
    return found
