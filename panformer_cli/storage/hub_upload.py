"""Upload the files of a model to the Hugging Face Hub, in one commit.

huggingface_hub finds the user's token and sends it. It is never shown, and neither is the text of an error of a
request, since it could contain the token.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from panformer_cli.errors import PanformerError
from panformer_cli.reporting import Reporter
from panformer_cli.storage.hub import hub_address, import_hub
from panformer_cli.wording import short

EXTRA = "hub"
"""The extra of panformer that installs huggingface_hub."""


class UploadError(PanformerError):
    """Files that could not be uploaded. The repository is unchanged."""

    may_pass = True


@dataclass(frozen=True)
class Destination:
    """Where a model is uploaded to.

    Attributes:
        repository: `USER/NAME`.
        private: Whether a new repository is private; one that exists must be then.
        overwrite: Replace files of the same names.
        shows_bars: Whether huggingface_hub shows its progress bars on stderr.
    """

    repository: str
    private: bool = False
    overwrite: bool = False
    shows_bars: bool = False


def check_destination(destination: Destination, names: tuple[str, ...], reporter: Reporter) -> str | None:
    """Check, before anything is written, that files with these names can be uploaded.

    Returns:
        The commit that the upload is based on; None if the repository does not exist yet.

    Raises:
        UploadError: There is no token, the Hub cannot be reached, or the repository exists and has files of these
            names, or is public although a private one was asked for.
    """
    hub, repository = import_hub(EXTRA), destination.repository
    token = hub.get_token()
    if token is None or not (token.isascii() and token.isprintable()):
        found = "there is no token" if token is None else "there are characters that no token has in that"
        raise UploadError(
            f"{found} for the Hugging Face Hub; log in with `hf auth login`, or set the environment variable HF_TOKEN "
            "to a token with write access"
        )
    try:
        with _explained(repository):
            info = hub.HfApi().model_info(repository)
    except _NoRepositoryError:
        return None
    if destination.private and not info.private:
        raise UploadError(
            f"{repository} exists and is public, and --private is only for new repositories; make it private in its "
            "settings on the Hub, or leave --private out"
        )
    replaced = [name for name in names if name in {file.rfilename for file in info.siblings}]
    if replaced:
        listed = " and ".join(filter(None, (", ".join(replaced[:-1]), replaced[-1])))
        if not destination.overwrite:
            raise UploadError(
                f"{repository} already has {listed} (commit {info.sha[:7]}); replace them with --yes, or choose "
                "another name"
            )
        reporter.message(f"Replacing {listed} of {repository}; the old files stay in its history ({info.sha[:7]})")
    return str(info.sha)


def upload(destination: Destination, files: Mapping[str, Path], parent: str | None, message: str) -> str:
    """Upload files in one commit; create the repository if `parent` is None.

    Args:
        destination: As checked by `check_destination`.
        files: Files by their names in the repository.
        parent: What `check_destination` returned; nothing is uploaded if the repository has changed since.
        message: Of the commit.

    Returns:
        The address of the commit.

    Raises:
        UploadError: The Hub refuses the upload, or cannot be reached.
    """
    hub, repository = import_hub(EXTRA), destination.repository
    api, made = hub.HfApi(), False
    operations = [hub.CommitOperationAdd(name, path) for name, path in files.items()]
    try:
        with _bars(hub, destination.shows_bars), _explained(repository):
            if parent is None:
                api.create_repo(repository, private=destination.private)
                made = True
            done = api.create_commit(repository, operations, commit_message=message, parent_commit=parent)
    except UploadError as error:
        if not made:
            raise
        raise UploadError(f"{error}; the new repository {repository} has no files of this model yet") from error
    return str(done.commit_url)


class _NoRepositoryError(UploadError):
    """The repository does not exist, or is private and of another account."""


@contextmanager
def _bars(hub: Any, shown: bool) -> Iterator[None]:
    """Hide huggingface_hub's progress bars unless `shown`."""
    before = hub.utils.are_progress_bars_disabled()
    if not shown and not before:
        hub.utils.disable_progress_bars()
    try:
        yield
    finally:
        if not shown and not before:
            hub.utils.enable_progress_bars()


@contextmanager
def _explained(repository: str) -> Iterator[None]:
    """Turn the errors of huggingface_hub into ours."""
    from huggingface_hub import errors

    where, owner = hub_address(), repository.partition("/")[0]
    try:
        yield
    except errors.RepositoryNotFoundError as error:
        raise _NoRepositoryError(f"{where} has no repository {repository} that you can write to") from error
    except errors.OfflineModeIsEnabled as error:
        raise UploadError(f"{where} is not asked, since HF_HUB_OFFLINE is set; unset it to upload") from error
    except errors.HfHubHTTPError as error:
        status = error.response.status_code
        reasons = {
            401: "does not accept your token; log in again with `hf auth login`, or set HF_TOKEN to a valid token",
            403: f"does not let you write to {repository}; use a token with write access and an account that may "
            f"write to {owner}",
            409: f"already has {repository}, and you cannot read it; choose another name",
            412: f"has a newer commit of {repository}, so nothing was uploaded; look at it and rerun the command",
        }
        reason = reasons.get(status, f"refused the upload (it responded {status}); rerun the command later")
        raise UploadError(f"{where} {reason}") from error
    except PanformerError:
        raise
    except ValueError as error:  # the model card, whose problem the Hub names
        text = (
            short(" ".join(str(error).split())) if str(error).startswith("Invalid metadata") else type(error).__name__
        )
        raise UploadError(f"{where} does not accept the model card ({text}); check --license") from error
    except Exception as error:  # httpx, the storage of the Hub and the disk raise many types
        raise UploadError(f"could not reach {where} ({type(error).__name__}); rerun the command later") from error
