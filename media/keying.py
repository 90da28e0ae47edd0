"""Whether a stream is encrypted, and how: what was offered, what our policy takes, what an answer chose. Pure.

RTP/SAVP is encrypted, with the first a=crypto that we speak. RTP/AVP with a=crypto asks for encryption where both
sides know it (RFC 8643): it stays RTP/AVP, and is encrypted unless our policy is against it.
"""

from __future__ import annotations

from media.crypto import OFFERED, Crypto, Policy
from media.leg import LegError
from media.sdp import Media, shown

PLAIN_PROFILES = ("RTP/AVP", "RTP/AVPF")
SECURE_PROFILES = ("RTP/SAVP", "RTP/SAVPF")
"""Profiles we speak (RFC 3551, 4585, 3711, 5124). Encrypted with keys by DTLS, they begin with UDP/TLS."""


def encryption(line: Media, srtp: Policy) -> Crypto | None:
    """How an offered stream is to be encrypted; None is plain. Raises LegError for what our policy does not take."""
    secure = line.profile in SECURE_PROFILES
    if line.profile not in PLAIN_PROFILES and (srtp == "off" or not secure):
        profiles = {"off": PLAIN_PROFILES, "accept": PLAIN_PROFILES + SECURE_PROFILES, "demand": SECURE_PROFILES}[srtp]
        raise LegError(f"the offer's audio is {shown(line.profile)}; this agent speaks {' and '.join(profiles)}")
    if srtp == "off":
        return None
    cryptos, faults = _cryptos(line)
    if cryptos:
        return cryptos[0]
    if srtp == "accept" and not secure:
        return None
    why = f"none of its a=crypto will do: {'; '.join(faults)}" if faults else "without a=crypto"
    demand = "demands encryption" if srtp == "demand" else "encrypts"
    raise LegError(
        f"the offer's audio is {line.profile}, {why}; this agent {demand} by a=crypto of {', '.join(OFFERED)}"
    )


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


def confirmed(ours: Media, line: Media, srtp: Policy) -> Crypto | None:
    """The a=crypto that the far end chose of ours, by its number (RFC 4568, section 5.1.3). Raises LegError."""
    offered = {crypto.tag: crypto.suite for crypto in _cryptos(ours)[0]}
    cryptos, faults = _cryptos(line) if offered else ([], [])
    chosen = next((crypto for crypto in cryptos if offered.get(crypto.tag) == crypto.suite), None)
    if chosen is None and (srtp == "demand" or ours.profile in SECURE_PROFILES):
        why = "the answer's a=crypto is none of our offer's" if cryptos else "the answer has no a=crypto"
        raise LegError(f"{'; '.join(faults) or why}; our offer has {', '.join(offered.values())}")
    return chosen
