"""Settings of the HTTP server: the page, the API, health."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, SecretStr, model_validator

from voipagent.kinds import Bearer, Port, Section


class HttpSettings(Section):
    """The page, the API, health."""

    host: str = Field(default="127.0.0.1", description="address to listen on for HTTP")
    port: Port = Field(default=8998, description="port for HTTP: the page at /, the API, /healthz and /readyz")
    token: Bearer = Field(
        default=SecretStr(""),
        description="bearer token for calls over the API: to make, steer and read them; empty: nobody can",
    )
    tls: Literal["off", "self-signed"] = Field(
        default="off",
        description="self-signed: https with a certificate that is made once and kept; browsers let a page hear a "
        "microphone only over https, or on the machine itself",
    )
    tls_dir: Path = Field(default=Path("tls"), description="folder in which that certificate is kept")
    tls_cert: Path | None = Field(
        default=None,
        description="https with this certificate: PEM file, with those it is signed by; read anew on SIGHUP",
    )
    tls_key: Path | None = Field(default=None, description="PEM file with its key, unless that is in TLS_CERT")

    @property
    def is_https(self) -> bool:
        """Whether we speak HTTP over TLS, and only that."""
        return self.tls != "off" or self.tls_cert is not None

    @model_validator(mode="after")
    def _one_certificate(self) -> Self:
        if self.tls_key is not None and self.tls_cert is None:
            raise ValueError("tls_key: there is a key, but no certificate; VOIPAGENT_HTTP__TLS_CERT names one")
        if self.tls != "off" and self.tls_cert is not None:
            raise ValueError("tls and tls_cert: make a certificate, or have one; set one of the two")
        return self
