"""Whether a stream is encrypted, and how: what was offered, what our policy takes, what an answer chose. Pure.

RTP/SAVP is encrypted, with the first a=crypto that we speak. RTP/AVP with a=crypto asks for encryption where both
sides know it (RFC 8643): it stays RTP/AVP, and is encrypted unless our policy is against it. UDP/TLS/RTP/SAVP is
encrypted with keys that a handshake makes, on the audio's own way.
"""

from __future__ import annotations

from typing import TypeAlias

from media.crypto import OFFERED, Crypto, Policy
from media.dtls import Dtls
from media.leg import LegError
from media.sdp import Media, shown

PLAIN_PROFILES = ("RTP/AVP", "RTP/AVPF")
SECURE_PROFILES = ("RTP/SAVP", "RTP/SAVPF")
DTLS_PROFILES = ("UDP/TLS/RTP/SAVP", "UDP/TLS/RTP/SAVPF")
"""Profiles we speak (RFC 3551, 4585, 3711, 5124, 5764)."""

FAMILIES = (PLAIN_PROFILES, SECURE_PROFILES, DTLS_PROFILES)
"""Within one of these an answer may differ from its offer: feedback is only asked for."""

TAKEN = {
    "off": PLAIN_PROFILES,
    "accept": PLAIN_PROFILES + SECURE_PROFILES + DTLS_PROFILES,
    "demand": SECURE_PROFILES + DTLS_PROFILES,
    "dtls": SECURE_PROFILES + DTLS_PROFILES,
}
"""What we take of what is offered; `demand` and `dtls` differ in what we offer ourselves."""

STRICT = ("demand", "dtls")

Keys: TypeAlias = Crypto | Dtls | None
"""How a stream is encrypted: by a key that was told, by one that is agreed on its way, or not at all."""


def encryption(line: Media, srtp: Policy, client: bool = True) -> Keys:
    """How an offered stream is to be encrypted. Raises LegError for what our policy does not take.

    `client` is our part in a handshake by DTLS, where the offer leaves it to us.
    """
    secure = line.profile not in PLAIN_PROFILES
    if line.profile not in TAKEN["accept"] or (srtp == "off" and secure):
        raise LegError(f"the offer's audio is {shown(line.profile)}; this agent speaks {' and '.join(TAKEN[srtp])}")
    if srtp == "off":
        return None
    cryptos, faults = _cryptos(line)
    if cryptos and line.profile not in DTLS_PROFILES:
        return cryptos[0]
    if line.profile in DTLS_PROFILES or (secure and line.attribute("fingerprint")):  # as before RFC 5764
        return _dtls(line, client, "offer")
    if srtp == "accept" and not secure:
        return None
    why = f"none of its a=crypto will do: {'; '.join(faults)}" if faults else "without a=crypto"
    demand = "demands encryption" if srtp in STRICT else "encrypts"
    raise LegError(
        f"the offer's audio is {line.profile}, {why}; this agent {demand} by a=crypto of {', '.join(OFFERED)}"
    )


def _dtls(line: Media, client: bool, whose: str) -> Dtls:
    fingerprints = [value for name, value in line.attributes if name == "fingerprint"]
    try:
        return Dtls.parse(fingerprints, line.attribute("setup") or "", client)
    except LegError as error:
        raise LegError(f"the {whose}'s audio is {line.profile}, {error}") from None


def _cryptos(line: Media) -> tuple[list[Crypto], list[str]]:
    """The stream's a=crypto lines in order of preference, and what is wrong with those that we cannot read."""
    cryptos, faults = [], []
    for name, value in line.attributes:
        if name == "crypto":
            try:
                cryptos.append(Crypto.parse(value))
            except LegError as error:
                faults.append(str(error))
    return cryptos, faults[:4]


def confirmed(ours: Media, line: Media, srtp: Policy) -> Keys:
    """What the far end made of our offer of encryption. Raises LegError.

    That is the a=crypto that it chose, by its number (RFC 4568, section 5.1.3), or its part in a handshake.
    """
    if ours.attribute("fingerprint"):
        return _dtls(line, True, "answer")
    offered = {crypto.tag: crypto.suite for crypto in _cryptos(ours)[0]}
    cryptos, faults = _cryptos(line) if offered else ([], [])
    chosen = next((crypto for crypto in cryptos if offered.get(crypto.tag) == crypto.suite), None)
    if chosen is None and (srtp in STRICT or ours.profile in SECURE_PROFILES):
        why = "the answer's a=crypto is none of our offer's" if cryptos else "the answer has no a=crypto"
        raise LegError(f"{'; '.join(faults) or why}; our offer has {', '.join(offered.values())}")
    return chosen
