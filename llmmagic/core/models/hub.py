"""Models and adapters from the Hugging Face Hub: fetched once, then taken from its cache.

Only safetensors weights are taken: a pickle file can run any code when it is read.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmmagic.core.errors import LLMMagicError, ModelLoadError, ModelNotFoundError, NetworkError, StorageError
from llmmagic.core.events import LoadEvent, LoadProgress, Notice
from llmmagic.core.models.cache import STORAGE_ERRNOS
from llmmagic.core.models.files import OTHER_WEIGHTS, missing_weights, why_unusable
from llmmagic.core.operation import CancelToken

Emit = Callable[[LoadEvent], None]

_FILES = ["*.json", "*.jinja", "*.txt", "*.model", "tokenizer*", "model*.safetensors", "adapter_model.safetensors"]
_CODE = ["*.py"]
_ANSWER_S = 10.0
_NOT_FILES = ["*/*"]  # copies of the weights in other formats


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A repository of the Hub on this machine.

    Attributes:
        folder: Its files, in the Hub's cache.
        commit: Which version they are: 40 hexadecimal digits.
    """

    folder: Path
    commit: str


def fetch(repo_id: str, revision: str | None, *, code: bool = False, emit: Emit, cancel: CancelToken) -> Snapshot:
    """Download a repository, or what is missing of it.

    Args:
        repo_id: ``org/name``.
        revision: Branch, tag or commit; ``None`` is the default branch.
        code: Take its Python files too.
        emit: Gets the progress.
        cancel: Checked between chunks.

    Returns:
        Where it is. Without a network it is the copy that was fetched before.

    Raises:
        ModelNotFoundError: No such repository or revision.
        ModelLoadError: No permission, or no safetensors weights in it.
        NetworkError: The Hub cannot be reached and there is no copy.
        StorageError: No space left.
    """
    from huggingface_hub import errors, snapshot_download

    wanted: dict[str, Any] = {
        "repo_id": repo_id,
        "revision": revision,
        "allow_patterns": _FILES + (_CODE if code else []),
        "ignore_patterns": _NOT_FILES,
    }
    try:
        looked_for = [*wanted["allow_patterns"], *(f"*{suffix}" for suffix in OTHER_WEIGHTS)]
        options = {**wanted, "allow_patterns": looked_for, "dry_run": True}
        listing: list[Any] = snapshot_download(**options, tqdm_class=_silent_bar())
        _check_weights(repo_id, [info.filename for info in listing])
        fetched = [info for info in listing if not info.filename.endswith(OTHER_WEIGHTS)]
        missing = sum(info.file_size or 0 for info in fetched if info.will_download)
        if missing:
            _check_space(repo_id, missing)
            bar = _download_bar(repo_id, missing, emit, cancel)
            folder = Path(snapshot_download(**wanted, tqdm_class=bar))
        else:
            folder = Path(snapshot_download(**wanted, local_files_only=True))
    except (_http_error(), OSError, errors.HFValidationError) as err:
        # A dry run has one error for everything, the reason behind it.
        reason = err.__cause__ if isinstance(err, errors.DryRunError) and err.__cause__ is not None else err
        if not _unreachable(reason):
            raise _explain(reason, repo_id, revision) from err
        folder = _local_copy(wanted, reason)
        emit(Notice(f"The Hub cannot be reached; {repo_id} is the copy on this machine.", topic="hub-offline"))
    return Snapshot(folder, folder.name)


def hub_answers(dataset_id: str) -> bool:
    """Ask the Hub one thing about a data set, to know at once whether it can be reached at all.

    Args:
        dataset_id: ``org/name``.

    Returns:
        False without a network, and while the Hub is down. True for whatever it answers, a refusal included.
    """
    from huggingface_hub import HfApi, errors

    try:
        HfApi().dataset_info(dataset_id, timeout=_ANSWER_S)
    except (_http_error(), OSError, errors.HFValidationError) as err:
        return not _unreachable(err)
    return True


def _unreachable(err: BaseException) -> bool:
    """Whether the Hub gave no answer, or none that says anything about the repository."""
    from huggingface_hub import errors

    if isinstance(err, (errors.OfflineModeIsEnabled, errors.LocalEntryNotFoundError)):
        return True
    if isinstance(err, errors.HfHubHTTPError):
        return err.response.status_code >= 500
    return isinstance(err, (_http_error(), ConnectionError, TimeoutError))


def _local_copy(wanted: dict[str, Any], err: BaseException) -> Path:
    from huggingface_hub import errors, snapshot_download

    try:
        folder = Path(snapshot_download(**wanted, local_files_only=True))
    except errors.LocalEntryNotFoundError:
        folder = None
    if folder is not None and missing_weights(folder) is None:  # a broken-off download leaves some of the files
        return folder
    raise NetworkError(
        f"{wanted['repo_id']} is not on this machine and the Hugging Face Hub cannot be reached.",
        hint="Check the network (and HF_HUB_OFFLINE), or name a model folder, a .gguf file or demo.",
    ) from err


def _check_weights(repo_id: str, names: list[str]) -> None:
    if not any(name.endswith(".safetensors") for name in names):
        message, hint = why_unusable(repo_id, names)
        raise ModelLoadError(message, hint=hint)


def _check_space(repo_id: str, missing: int) -> None:
    from huggingface_hub import constants

    folder = Path(constants.HF_HUB_CACHE)
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    free = shutil.disk_usage(existing).free
    if free < missing:
        raise StorageError(
            f"No space left for {repo_id}: {missing / 1e9:,.2f} GB to download, "
            f"{free / 1e9:,.2f} GB free in {str(folder)!r}.",
            hint="Free some space, or set HF_HOME to a folder on another disk.",
        )


def _explain(err: BaseException, repo_id: str, revision: str | None) -> LLMMagicError:
    """Say what went wrong in our words: the library's messages are long and may name private addresses."""
    from huggingface_hub import errors

    if isinstance(err, errors.GatedRepoError):
        return ModelLoadError(
            f"{repo_id} is gated: its owner asks you to accept a licence first.",
            hint=f"Accept it on https://huggingface.co/{repo_id}, then run `hf auth login`.",
        )
    if isinstance(err, (errors.RepositoryNotFoundError, errors.HFValidationError)):
        return ModelNotFoundError(
            f"There is no model {repo_id!r} on the Hugging Face Hub.",
            hint="Check the spelling; if it is private, run `hf auth login` first.",
        )
    if isinstance(err, errors.RevisionNotFoundError):
        return ModelNotFoundError(f"{repo_id} has no revision {revision!r}.")
    if isinstance(err, _http_error()):
        status = getattr(getattr(err, "response", None), "status_code", None)
        detail = f"HTTP status {status}" if status else type(err).__name__
        return NetworkError(f"{repo_id} could not be downloaded: {detail}.", hint="Try again: it goes on where it was.")
    if isinstance(err, OSError) and err.errno in STORAGE_ERRNOS:
        return StorageError(f"{repo_id} could not be stored: {err.strerror}.", hint="Free some space, or set HF_HOME.")
    return NetworkError(f"{repo_id} could not be downloaded: {type(err).__name__}.", hint="Try again.")


def _http_error() -> type[Exception]:
    """The error of the HTTP library below, whichever the installed version uses: the Hub's own error is one."""
    from huggingface_hub.errors import HfHubHTTPError

    base: type[Exception] = HfHubHTTPError.__bases__[0]
    return base


def _silent_bar() -> type[Any]:
    from tqdm import tqdm

    class SilentBar(tqdm):  # type: ignore[type-arg]
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **{**kwargs, "disable": True})

    return SilentBar


def _download_bar(repo_id: str, total: int, emit: Emit, cancel: CancelToken) -> type[Any]:
    """A bar class for the Hub's library: it makes several, and updates them from several threads."""
    import threading

    from tqdm import tqdm

    lock = threading.Lock()
    done = 0

    class DownloadBar(tqdm):  # type: ignore[type-arg]
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            # There are two of bytes: what came over the network, and what of the files is on disk.
            self.counts_bytes = kwargs.get("unit") == "B" and kwargs.get("desc") != "Downloading bytes"
            super().__init__(*args, **{**kwargs, "disable": True})

        def update(self, n: float | None = 1) -> None:
            nonlocal done
            cancel.check()
            if self.counts_bytes:
                with lock:
                    done = min(total, done + int(n or 0))
                emit(LoadProgress("download", done, total, "bytes", repo_id))

    return DownloadBar
