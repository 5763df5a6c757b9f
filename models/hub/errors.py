"""Failures of a hub, each as one line."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from models.errors import CheckpointError
from models.hub.names import HubName

TOKEN = "set HF_TOKEN or run: hf auth login"


class HubUnreachable(CheckpointError):
    """The hub did not answer: no network, offline by choice, or a fault on its side."""


@contextmanager
def in_words(name: HubName) -> Iterator[None]:
    """Whatever a request to the hub or the cache raises is a ``CheckpointError``."""
    import httpx2
    from huggingface_hub import constants, errors

    hub, repository = constants.ENDPOINT, name.repository
    try:
        yield
    except errors.GatedRepoError:
        raise CheckpointError(
            f"{repository}: access must be granted at {hub}/{repository} first; then {TOKEN}"
        ) from None
    except errors.RepositoryNotFoundError:
        raise CheckpointError(
            f"no checkpoint at {repository!r}: no folder here, and no repository on {hub} that can "
            f"be read without another token; for a private one, {TOKEN}"
        ) from None
    except errors.RevisionNotFoundError:
        raise CheckpointError(f"{repository} has no revision {name.revision!r} on {hub}") from None
    except errors.OfflineModeIsEnabled:
        raise HubUnreachable(f"{name}: HF_HUB_OFFLINE is set") from None
    except errors.HfHubHTTPError as error:
        status = error.response.status_code
        kind = HubUnreachable if status >= 500 or status in (408, 429) else CheckpointError
        denied = f"; {TOKEN}" if status in (401, 403) else ""
        raise kind(f"{repository}: {hub} answered {status}{denied}") from None
    except (httpx2.HTTPError, httpx2.InvalidURL) as error:
        reason = str(error) or type(error).__name__
        raise HubUnreachable(f"{name}: cannot reach {hub}: {reason}") from None
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        raise CheckpointError(f"{name}: {where}{error.strerror or error}") from None
    except ValueError as error:
        raise CheckpointError(f"{name}: {hub} sent something else than expected: {error}") from None
