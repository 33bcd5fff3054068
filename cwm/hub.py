"""Share trained models on the Hugging Face Hub.

The address of the Hub is HF_ENDPOINT; a token comes from HF_TOKEN or `hf auth login` and is neither
printed nor stored by us.
"""

import logging
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import yaml

from cwm.infra.checkpoint import load_weights
from cwm.infra.errors import UserError
from cwm.infra.files import write_text

PREFIX = "hf://"
FILES = ("config.yaml", "run.json", "weights.safetensors", "weights.json")
PIPELINES = {"agent": "reinforcement-learning", "action-free": "image-to-video"}


def push(folder: Path, name: str, private: bool) -> str:
    """Upload the finished run in `folder` as `owner/name`; return its address.

    The model card becomes the README, with the Hub's metadata. Raises UserError for a folder
    without a model, a name that the Hub refuses, a missing token, and a Hub that does not answer.
    """
    from huggingface_hub import HfApi

    missing = [file for file in (*FILES, "card.md") if not (folder / file).is_file()]
    if missing:
        raise UserError(f"{folder} is not the folder of a finished model: it has no {missing[0]}")
    _, about = load_weights(folder / "weights.json")  # checks the sha256
    with tempfile.TemporaryDirectory() as temporary, _one_line(name):
        upload = Path(temporary)
        for file in FILES:
            (upload / file).symlink_to((folder / file).resolve())
        write_text(upload / "README.md", readme(folder / "card.md", about))
        hub = HfApi()
        address = hub.create_repo(name, private=private, exist_ok=True)
        hub.upload_folder(repo_id=name, folder_path=upload, commit_message="Upload a model")
    return str(address)


def readme(card: Path, about: dict[str, object]) -> str:
    """The model card with the Hub's metadata in front."""
    kind = str(about.get("kind"))
    labels = (about.get(label) for label in ("model", "dataset", "suite", "task"))
    tags = ["contextwm", "world-model", kind, *(str(label) for label in labels if label)]
    metadata = {
        "license": "other",  # it depends on the data; the card says more
        "license_name": "see-model-card",
        "library_name": "contextwm",
        "pipeline_tag": PIPELINES.get(kind, "other"),
        "tags": list(dict.fromkeys(tags)),
    }
    front = yaml.safe_dump(metadata, sort_keys=False)
    return f"---\n{front}---\n\n{card.read_text(encoding='utf-8')}"


def pull(name: str, revision: str | None = None, out: Path | None = None) -> Path:
    """Download `owner/name`; return its folder, by default in the Hub's cache.

    Raises UserError for a model or revision that does not exist, and without network access.
    """
    from huggingface_hub import snapshot_download

    with _one_line(name):
        folder = snapshot_download(
            name, revision=revision, local_dir=out, allow_patterns=[*FILES, "README.md"]
        )
    if not Path(folder, "weights.json").is_file():
        raise UserError(f"{name} has no weights.json; it is not a model of this project")
    return Path(folder)


def resolve(place: str) -> Path:
    """The folder of `hf://owner/name` or `hf://owner/name@revision`, downloaded if necessary."""
    name, _, revision = place.removeprefix(PREFIX).partition("@")
    return pull(name, revision or None)


@contextmanager
def _one_line(name: str) -> Iterator[None]:
    """Raise the Hub's errors as UserError with their cause and remedy."""
    from httpx2 import HTTPError
    from huggingface_hub import constants, errors

    logging.getLogger("httpx2").setLevel(logging.WARNING)  # it logs every request
    try:
        yield
    except errors.HFValidationError as error:
        raise UserError(f"{name!r} is not a name on the Hub ({error}); use owner/name") from None
    except errors.RepositoryNotFoundError:
        raise UserError(
            f"{constants.ENDPOINT} has no model {name}, or it is private: set HF_TOKEN"
        ) from None
    except errors.RevisionNotFoundError:
        raise UserError(f"{name} has no such revision") from None
    except errors.LocalTokenNotFoundError:
        raise UserError("uploading needs a token: run `hf auth login`, or set HF_TOKEN") from None
    except errors.HfHubHTTPError as error:
        status = error.response.status_code if error.response is not None else "no status"
        cause = "the token is missing or may not do this" if status in (401, 403) else "try again"
        raise UserError(f"{constants.ENDPOINT} answers {status} for {name}: {cause}") from None
    except (errors.LocalEntryNotFoundError, HTTPError) as error:
        raise UserError(
            f"cannot reach {constants.ENDPOINT} for {name} ({type(error).__name__}); check the"
            " network, or HF_ENDPOINT"
        ) from None
