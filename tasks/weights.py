"""Which weights a unit runs, where they run, and with whose key: a model of the registry as it is, or a student of it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from models.embedded import default_cache
from models.engines.base import ModelRef, Server
from models.finetune import load_manifest, wandb_wants_key
from models.registry import HOSTED, ModelEntry, Prices, fetch, fetch_tokenizer
from store.home import Home
from store.types import Frozen, InputError, RunError


class ModelChoice(Frozen):
    """A registry entry, and the student of it if it is not asked as it is: its key, or the path of a folder that lies
    elsewhere than in the home. ``format`` is how its turn is laid out.

    ``server``: where a study has this model asked, in place of what its entry says. A student is always loaded here.
    """

    entry: ModelEntry
    format: str
    student: str | None = None
    server: Server | None = None

    @property
    def name(self) -> str:
        """The alias of the base."""
        return self.entry.alias

    @property
    def hosted(self) -> bool:
        """Whether it is only behind an API, which gives text in place of token ids."""
        return self.entry.source == HOSTED

    @property
    def asked_at(self) -> Server | None:
        """The server that runs it; None where it is loaded here."""
        return None if self.student is not None else self.server or self.entry.server

    @property
    def prices(self) -> Prices | None:
        """What its tokens cost; a student's cost nothing by the token, whatever its base costs."""
        return None if self.student is not None else self.entry.prices

    def reference(self, home: Home) -> ModelRef:
        """What a session opens; downloads what it needs: the weights, or the tokenizer alone of what a server runs.

        Raises:
            InputError: the student's folder is gone, or what ``models.registry.fetch`` finds wrong.
            RunError: the download failed.
        """
        entry, server = self.entry, self.asked_at
        path: Path | None
        path, adapter = None, entry.adapter
        if self.student is not None:
            path, adapter = self._student(home.students / self.student)  # a path that is absolute stays as it is
        elif server is None:
            path = fetch(entry, default_cache())
        elif not self.hosted:
            path = fetch_tokenizer(entry, default_cache())
        return ModelRef(
            alias=self.name,
            path=path,
            adapter=adapter,
            format_name=self.format,
            server=server,
            chat_template=entry.chat_template,
            stop_tokens=entry.stop_tokens,
            trust_remote_code=entry.trust_remote_code,
        )

    def _student(self, folder: Path) -> tuple[Path, Path | None]:
        """Weights and adapter of the student in ``folder``."""
        manifest = load_manifest(folder)
        if manifest is None:
            raise InputError(
                f"student {self.student}: no complete weights in {folder}; run `finetune` again to train it once more"
            )
        return (fetch(self.entry, default_cache()), folder) if manifest.kind == "lora" else (folder, None)

    def secrets(self) -> dict[str, str]:
        """The environment variables that its process needs beside this one's. Raises as :func:`key_of` does."""
        return {} if self.asked_at is None else key_of(self.asked_at, self.name)


def key_of(server: Server, alias: str) -> dict[str, str]:
    """The key of a server under the name of its variable; nothing where it needs none.

    It comes from the environment, else from a Secret block of the Prefect API in use, named as the variable in lower case
    with dashes: OPENAI_API_KEY is ``openai-api-key``. The value is never logged and never in a message.

    Raises:
        InputError: there is none; names the variable, the block and the alias.
        RunError: the Prefect API cannot be asked.
    """
    if server.key_variable is None:
        return {}
    key = os.environ.get(server.key_variable, "").strip() or _secret(
        block_name(server.key_variable), f"model {alias!r}"
    )
    if not key:
        raise InputError(
            f"model {alias!r}: {server.host} wants a key: set the environment variable {server.key_variable}, or save it as "
            f"the Prefect Secret block {block_name(server.key_variable)!r}"
        )
    if not key.isascii() or not key.isprintable() or " " in key:
        raise InputError(
            f"model {alias!r}: what {server.key_variable} (or the block {block_name(server.key_variable)!r}) holds is not one "
            "word of printable ASCII, so it is no key"
        )
    return {server.key_variable: key}


def block_name(variable: str) -> str:
    """The name of the Prefect Secret block that stands for an environment variable."""
    return variable.lower().replace("_", "-")


def tracker_secrets(trackers: Sequence[str]) -> dict[str, str]:
    """The key of Weights & Biases, where it is a tracker and the environment has none but a Secret block has.

    Raises:
        RunError: the Prefect API cannot be asked.
    """
    name = "WANDB_API_KEY"
    if "wandb" not in trackers or not wandb_wants_key(os.environ):
        return {}
    key = _secret(block_name(name), "report_to 'wandb'")
    return {name: key} if key else {}


def _secret(name: str, who: str) -> str:
    """The value of a Secret block, empty where there is no such block, or no API that could have one."""
    from prefect.blocks.system import Secret
    from prefect.settings import PREFECT_API_URL

    if not PREFECT_API_URL.value():  # Prefect would start a server of its own to look for it: half a minute
        return ""
    blocks: Any = Secret  # its annotations leave out what makes it synchronous
    try:
        block = blocks.load(name, _sync=True)
    except ValueError:  # Prefect's word for a block that does not exist
        return ""
    except Exception as error:
        raise RunError(f"{who}: the Prefect API cannot be asked for the block {name!r}: {error}") from None
    return str(block.value.get_secret_value()).strip()
