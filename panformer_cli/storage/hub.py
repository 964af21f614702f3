"""Read repositories of the Hugging Face Hub: only the files that are asked for, into the cache of huggingface_hub.

Each file is of the same commit, even if the repository changes meanwhile. huggingface_hub resumes interrupted
downloads, and finds the user's token by itself; it is never read here.
"""

from __future__ import annotations

import errno
import logging
import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from panformer_cli.errors import CheckpointError, PanformerError
from panformer_cli.reporting import Reporter, megabyte_bar
from panformer_cli.storage.download import DownloadError
from panformer_cli.storage.files import atomic_write
from panformer_cli.wording import short

CONVERTER = "SFconvertbot"
"""Account of the Hub that converts pickles to safetensors, and proposes them in pull requests."""
MODELS = "models--"
"""Start of the names of the folders of models in the cache."""
SNAPSHOTS = "snapshots"
"""Their folder with a folder for each commit."""

_MAIN = "main"
_NAME = re.compile(r"(?!.*(?:--|\.\.))[A-Za-z0-9_](?:[\w.-]*[A-Za-z0-9_])?", re.ASCII)
_REVISION = re.compile(r"(?!.*(?:\.\.|//))[\w](?:[\w./+-]*[\w])?", re.ASCII)
_COMMIT = re.compile(r"[0-9a-f]{40}")
_DISK = (errno.ENOSPC, errno.EACCES, errno.EROFS, errno.EDQUOT, errno.ENOTDIR)
_PULL_REQUEST = re.compile(r"refs/pr/([0-9]+)")
_LOGIN = re.compile(r"(?<=//)[^/\s]*@")  # user name and password in an address
_LONGEST = 96  # characters of a repository's name
_WAIT = 10.0  # seconds for an answer of the Hub


@dataclass(frozen=True)
class HubReference:
    """A repository of the Hub at one of its revisions.

    Attributes:
        repository: `OWNER/NAME`.
        revision: A branch, tag, commit, or `refs/pr/N` for a pull request.
    """

    repository: str
    revision: str = _MAIN

    @classmethod
    def parse(cls, text: str) -> HubReference:
        """Return the reference `OWNER/NAME` or `OWNER/NAME@REVISION`.

        Raises:
            CheckpointError: The text has another form.

        Examples:
            >>> HubReference.parse("facebook/detr-resnet-101-panoptic@refs/pr/3")
            HubReference(repository='facebook/detr-resnet-101-panoptic', revision='refs/pr/3')
        """
        repository, at, revision = text.partition("@")
        names = repository.split("/")
        is_name = len(names) == 2 and len(repository) <= _LONGEST and not repository.endswith(".git")
        if not is_name or not all(map(_NAME.fullmatch, names)):
            raise CheckpointError(
                f"{short(text)} is not the name of a repository on the Hugging Face Hub; expected OWNER/NAME or "
                "OWNER/NAME@REVISION, as in the address https://huggingface.co/OWNER/NAME"
            )
        if at and not _REVISION.fullmatch(revision):
            raise CheckpointError(
                f"{short(text)} has the revision {short(revision)}; expected a branch, a tag, a commit or refs/pr/N "
                "after the @"
            )
        return cls(repository, revision or _MAIN)

    def __str__(self) -> str:
        return self.repository if self.revision == _MAIN else f"{self.repository}@{self.revision}"

    @property
    def pull_request(self) -> int | None:
        """The number of the pull request; None if the revision is not one."""
        found = _PULL_REQUEST.fullmatch(self.revision)
        return int(found[1]) if found else None


@dataclass(frozen=True)
class HubSnapshot:
    """The files of a repository at one commit.

    Attributes:
        reference: The repository, and the revision that the user named.
        folder: Folder of the commit in the cache.
        names: Paths of the files that can be fetched, relative to the folder.
        offline: Why the Hub cannot be asked, so that only cached files can be used; "" if it can.
    """

    reference: HubReference
    folder: Path
    names: frozenset[str]
    offline: str = ""

    def fetch(self, name: str, reporter: Reporter) -> Path:
        """Return the path of a file in `folder`; download it if it is not there yet.

        Raises:
            CheckpointError: The repository does not have the file, or its files cannot be accessed.
            DownloadError: The Hub cannot be reached, and the file is not in the cache; or it cannot be written.
        """
        path = self.folder / name
        if path.is_file():
            return path
        if name not in self.names:
            raise self.missing(name)
        reporter.message(f"Downloading {name} of {self.reference} to {self.folder}")
        try:
            with _explained(self.reference):
                _download(self.reference.repository, name, self.folder.name, reporter)
        except HubUnreachableError as error:
            raise _without_copy(self.reference, str(error), self.folder, name) from error
        return path

    def missing(self, *names: str) -> PanformerError:
        """Return the error for files that the repository or, without network, the cache does not have."""
        listed = " and ".join(names)
        if self.offline:
            return _without_copy(self.reference, self.offline, self.folder, listed)
        return CheckpointError(
            f"the repository {self.reference} on the Hugging Face Hub has no {listed}; check its name and revision"
        )


class HubUnreachableError(DownloadError):
    """The Hub cannot be reached, or it is out of order; the message says why."""


def open_snapshot(reference: HubReference, extra: str, reporter: Reporter) -> HubSnapshot:
    """Return the files of a repository; if the Hub cannot be reached, those in the cache.

    Args:
        reference: The repository and its revision.
        extra: The extra of panformer that installs huggingface_hub.
        reporter: Receives who wrote a pull request, and that the cache is used.

    Raises:
        CheckpointError: huggingface_hub is not installed, or the repository or revision does not exist or is private.
        DownloadError: The Hub cannot be reached, and the cache has no copy.
    """
    hub = import_hub(extra)
    cache = Path(hub.constants.HF_HUB_CACHE) / f"{MODELS}{reference.repository.replace('/', '--')}"
    try:
        with _explained(reference):
            info = hub.HfApi().model_info(reference.repository, revision=reference.revision, timeout=_WAIT)
    except HubUnreachableError as error:
        folder = cache / SNAPSHOTS / _cached_commit(cache, reference.revision)
        if not folder.is_dir():
            raise _without_copy(reference, str(error), folder, "its files") from error
        reporter.message(f"{error}; using the copy of {reference} in {folder}")
        names = frozenset(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
        return HubSnapshot(reference, folder, names, str(error))
    commit = str(info.sha)
    if not _COMMIT.fullmatch(commit):
        raise DownloadError(
            f"{reference}: {hub_address()} does not answer like the Hugging Face Hub; check HF_ENDPOINT and the proxy"
        )
    _report_author(hub, reference, reporter)
    _remember(cache, reference.revision, commit)
    return HubSnapshot(reference, cache / SNAPSHOTS / commit, frozenset(file.rfilename for file in info.siblings))


def hub_name(path: Path) -> str | None:
    """Return `OWNER--NAME` for a folder in the cache of the Hub; None for others."""
    repository = path.parent.parent.name
    return repository.removeprefix(MODELS) if repository.startswith(MODELS) and path.parent.name == SNAPSHOTS else None


def import_hub(extra: str) -> Any:
    """Return the package huggingface_hub; `extra` of panformer installs it.

    Raises:
        CheckpointError: It is not installed.
    """
    logging.getLogger("huggingface_hub").setLevel(
        logging.ERROR
    )  # it reports every retry; the error at the end is enough
    try:
        import_module("huggingface_hub.constants")  # the package finds its functions by itself, but not this module
        return import_module("huggingface_hub")
    except ImportError as error:
        raise CheckpointError(
            f"repositories of the Hugging Face Hub need the package huggingface_hub, which cannot be imported ({error})"
            f"; install it with: pip install 'panformer[{extra}]'"
        ) from error


def hub_address() -> str:
    """Return the address of the Hub or its mirror, for messages: without the login that HF_ENDPOINT can have."""
    return _LOGIN.sub("", import_module("huggingface_hub.constants").ENDPOINT)


def _cached_commit(cache: Path, revision: str) -> str:
    """Return the commit that a revision had when it was last fetched; the revision itself if it never was.

    So a folder that is named after the revision can be filled by hand.
    """
    with suppress(OSError, UnicodeDecodeError):
        commit = (cache / "refs" / revision).read_text(encoding="ascii").strip()
        if _COMMIT.fullmatch(commit):
            return commit
    return revision


def _remember(cache: Path, revision: str, commit: str) -> None:
    """Record the commit of a revision as huggingface_hub does, for later use without network."""
    if revision != commit:
        with suppress(PanformerError), atomic_write(cache / "refs" / revision) as temporary:
            temporary.write_text(commit, encoding="ascii")


def _report_author(hub: Any, reference: HubReference, reporter: Reporter) -> None:
    """Report who wrote a pull request, which need not be the owner of the repository."""
    number = reference.pull_request
    if number is None:
        return
    with _explained(reference):
        author = hub.HfApi().get_discussion_details(reference.repository, number).author
    text = f"{reference} is a pull request of {author}"
    if author == CONVERTER:
        reporter.message(f"{text}, the Hub's converter to safetensors")
    else:
        reporter.warn(f"{text}, not of {CONVERTER}, the Hub's converter to safetensors; use it only if you trust them")


def _download(repository: str, name: str, commit: str, reporter: Reporter) -> None:
    hub = import_module("huggingface_hub")
    hub.hf_hub_download(repository, name, revision=commit, tqdm_class=_bar_class(name, reporter))


def _bar_class(name: str, reporter: Reporter) -> type:
    """Return a class like tqdm, whose bar is shown by the reporter."""
    from tqdm import tqdm

    class Bar(tqdm):  # type: ignore[misc]
        monitor_interval = 0  # no thread for each bar

        def __init__(self, *arguments: Any, total: int | None = None, initial: int = 0, **options: Any) -> None:
            super().__init__(*arguments, total=total, initial=initial, **{**options, "disable": True})
            self._shown = ExitStack()
            self._bar = self._shown.enter_context(megabyte_bar(f"{name}, MB", total or 0, initial, reporter))

        def update(self, n: float | None = 1) -> None:
            self._bar.advance(int(n or 0))

        def close(self) -> None:
            self._shown.close()
            super().close()

    return Bar


@contextmanager
def _explained(reference: HubReference) -> Iterator[None]:
    """Turn the errors of huggingface_hub into ours. Its messages are not shown, except reasons of the connection."""
    from huggingface_hub import errors

    where = hub_address()
    try:
        yield
    except errors.GatedRepoError as error:
        raise CheckpointError(
            f"the repository {reference.repository} is gated: accept its license on {where}/{reference.repository}, "
            "then log in with `hf auth login`"
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise CheckpointError(
            f"{where} has no repository {reference.repository}, or it is private; check the name, or log in with `hf "
            "auth login` if you have access"
        ) from error
    except errors.RevisionNotFoundError as error:
        raise CheckpointError(
            f"the repository {reference.repository} has no revision {reference.revision}; give a branch, a tag, a "
            "commit or refs/pr/N after the @, or leave it out for main"
        ) from error
    except errors.HfHubHTTPError as error:
        status = error.response.status_code
        if status >= 500 or status == 429:
            raise HubUnreachableError(f"{where} is out of order (it responded {status})") from error
        raise DownloadError(
            f"{where} refused {reference} (it responded {status}); check the name, and `hf auth whoami` for your login"
        ) from error
    except errors.OfflineModeIsEnabled as error:
        raise HubUnreachableError(f"{where} is not asked, since HF_HUB_OFFLINE is set") from error
    except PanformerError:
        raise
    except Exception as error:  # httpx, the disk and the Hub's storage raise many types
        if isinstance(error, OSError) and error.errno in _DISK:
            raise DownloadError(
                f"cannot write the files of {reference}: {error.strerror}; free some space, or choose another cache "
                "with HF_HOME"
            ) from error
        raise HubUnreachableError(f"could not reach {where} ({_reason(error)})") from error


def _reason(error: Exception) -> str:
    """Return the name of an error, and its text if it is short and has no header of a request, such as the token's."""
    text = _LOGIN.sub("", " ".join(str(error).split()))
    shown = 0 < len(text) <= _LONGEST and "header" not in text.lower() and "bearer" not in text.lower()
    return f"{type(error).__name__}: {text}" if shown else type(error).__name__


def _without_copy(reference: HubReference, reason: str, folder: Path, what: str) -> DownloadError:
    return DownloadError(
        f"{reason}, and the cache has no copy of {what} of {reference}; connect to the internet, or fill {folder} with "
        "the files of the repository, or give a folder that has them as hf:FOLDER"
    )
