"""Asking the agent that serves on this machine, where only it can do what is wanted: it knows where our phones are."""

from __future__ import annotations

from typing import Any

import httpx2

from signaling.call import SignalingError
from voipagent.http import HttpSettings
from voipagent.outbound import Wanted

TIMEOUT_S = 10.0

THIS_MACHINE = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}


def ask_to_call(http: HttpSettings, wanted: Wanted) -> str:
    """Have it make a call; gives the id. Raises SignalingError, in a sentence for who has to mend it."""
    token = http.token.get_secret_value()
    if not token:
        raise SignalingError(
            f"{wanted.target} is a phone of our own; it takes VOIPAGENT_HTTP__TOKEN to have the serving agent call it"
        )
    host = THIS_MACHINE.get(http.host, f"[{http.host}]" if ":" in http.host else http.host)
    url = f"{'https' if http.is_https else 'http'}://{host}:{http.port}/api/v1/calls"
    body = {"target": wanted.target, "persona": wanted.persona, "digits": wanted.digits}
    try:
        # it is an address of this machine's own: its certificate is for those who come from elsewhere
        answer = httpx2.post(
            url,
            json=body,
            headers={"Authorization": f"Bearer {token}"},
            timeout=TIMEOUT_S,
            verify=False,
            trust_env=False,
        )
    except httpx2.HTTPError as error:
        raise SignalingError(
            f"no agent serves at {url} ({error}); {wanted.target} is a phone of our own, which only that one can call"
        ) from None
    told = _told(answer)
    if answer.status_code != 202:
        raise SignalingError(str(told.get("detail") or f"the agent that serves says {answer.status_code}"))
    return str(told["id"])


def _told(answer: httpx2.Response) -> dict[str, Any]:
    """What it says; nothing where that is not JSON, as from who is no agent."""
    try:
        told = answer.json()
    except ValueError:
        return {}
    return told if isinstance(told, dict) else {}
