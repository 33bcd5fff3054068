"""Settings of a downloaded model can name code; run it only with the user's consent."""

from pathlib import Path

from cwm.infra.errors import UserError
from cwm.train.environment import EnvConfig


def check_trusted(place: str | Path, env: EnvConfig, trust: bool) -> None:
    """UserError if the settings in `place` name code to run and the user did not pass --trust."""
    code = env.make or (env.server and env.server.command)
    if code and not trust:
        raise UserError(
            f"the settings in {place} run code from outside this package, {code}; if you trust it,"
            " add --trust"
        )
