"""Reaching a cluster's dashboard: its address, its token, and one clear paragraph where it cannot be reached.

The token is looked for where Ray looks for it: RAY_AUTH_TOKEN, the file RAY_AUTH_TOKEN_PATH, ~/.ray/auth_token. It is
sent to a dashboard that asks for one, and to no other; it is never printed. (Ray's own client sends it only where
RAY_AUTH_MODE is "token", whatever the server says.) The dashboard speaks plain HTTP: reach it through `ray dashboard`,
an ssh tunnel or a private network.
"""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import urlsplit

import requests

from raysim.core.plugin import ConfigError

VARIABLES = ("RAYSIM_ADDRESS", "RAY_API_SERVER_ADDRESS")
TIMES = (10.0, 60.0)  # seconds to connect, and for an answer: a busy head is slow, a wrong address is silent

_HOW = (
    "A cluster of `ray up` is reached with `ray dashboard cluster.yaml`, which opens http://127.0.0.1:8265."
)


def address_of(given: str | None) -> str:
    """A dashboard's address, from the command or the environment.

    Args:
        given: such as http://127.0.0.1:8265; None looks into RAYSIM_ADDRESS and RAY_API_SERVER_ADDRESS.

    Raises:
        ConfigError: none is named, or it is no dashboard's.
    """
    found = given or named()
    if not found:
        raise ConfigError(
            f"No cluster is named. Use --address http://HOST:8265 or set RAYSIM_ADDRESS. {_HOW}"
        )
    address = (found if "://" in found else f"http://{found}").rstrip("/")
    try:
        parts = urlsplit(address)
        known = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:  # a port that is no number
        known = False
    if not known or found == "auto":
        raise ConfigError(
            f"{found!r} is not a dashboard's address: runs are submitted over HTTP, such as to http://127.0.0.1:8265. "
            f"{_HOW}"
        )
    return address


def named() -> str | None:
    """The dashboard that the environment names, None if it names none."""
    return next((os.environ[name] for name in VARIABLES if os.environ.get(name)), None)


def token() -> str | None:
    """The token that Ray would use, None if there is none to be found."""
    text = os.environ.get("RAY_AUTH_TOKEN", "").strip()
    if text:
        return text
    file = os.environ.get("RAY_AUTH_TOKEN_PATH")
    try:
        return (Path(file) if file else Path.home() / ".ray" / "auth_token").read_text().strip() or None
    except (OSError, UnicodeDecodeError):
        return None


def headers(address: str) -> dict[str, str]:
    """What to send along so that the dashboard at an address answers: nothing, or the token that it asks for.

    Raises:
        ConfigError: nothing listens there, it is no dashboard, there is no token, or it is the wrong one.
    """
    answer = _asked(address, {})
    if answer.status_code in (401, 403):
        found = token()
        if found is None:
            raise ConfigError(_no_token(address))
        bearer = {"Authorization": f"Bearer {found}"}
        answer = _asked(address, bearer)
        if answer.status_code in (401, 403):
            raise ConfigError(
                f"The cluster at {address} refuses the token from {_source()}: it is another cluster's, or an old one. "
                "Get the right one from whoever runs the cluster (there, `ray get-auth-token` prints it)."
            )
    else:
        bearer = {}
    if not _is_dashboard(answer):
        raise ConfigError(
            f"Something answers at {address}, but it is not a Ray dashboard (status {answer.status_code}). {_HOW}"
        )
    return bearer


def _asked(address: str, bearer: dict[str, str]) -> requests.Response:
    try:
        return requests.get(f"{address}/api/version", headers=bearer, timeout=TIMES, allow_redirects=False)
    except requests.exceptions.SSLError as error:
        raise ConfigError(f"The certificate of {address} is not accepted: {reason(error)}.") from None
    except requests.exceptions.ReadTimeout:
        raise ConfigError(
            f"{address} takes calls but does not answer within {TIMES[1]:.0f} s: the head node may be out of memory, "
            "or it is no dashboard. `ray status` on the head says more."
        ) from None
    except (requests.exceptions.RequestException, ValueError) as error:
        raise ConfigError(
            f"Nothing answers at {address} ({reason(error)}). Is the cluster up, with the tunnel to it? {_HOW}"
        ) from None


def _is_dashboard(answer: requests.Response) -> bool:
    if answer.status_code != 200:
        return False
    try:
        return "ray_version" in answer.json()
    except ValueError:
        return False


def reason(error: BaseException) -> str:
    """Why a connection failed, in one line.

    Args:
        error: what was raised; the innermost reason counts, which requests wraps three times over.
    """
    while error.__context__ is not None:
        error = error.__context__
    return " ".join(str(error).split()).rstrip(".") or type(error).__name__


def _source() -> str:
    if os.environ.get("RAY_AUTH_TOKEN", "").strip():
        return "RAY_AUTH_TOKEN"
    return os.environ.get("RAY_AUTH_TOKEN_PATH") or "~/.ray/auth_token"


def _no_token(address: str) -> str:
    file = os.environ.get("RAY_AUTH_TOKEN_PATH")
    where = f"RAY_AUTH_TOKEN_PATH names {file}, which cannot be read" if file else "none was found"
    return (
        f"The cluster at {address} asks for a token, and {where}. Put it into ~/.ray/auth_token (chmod 600), or "
        "name its file in RAY_AUTH_TOKEN_PATH; on the cluster `ray get-auth-token` prints it."
    )
