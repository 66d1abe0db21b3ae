"""Encryption towards Kafka, as every connection uses it. Settings are in the client library's words."""

import ssl
from collections.abc import Mapping
from typing import Any


def ssl_context(settings: Mapping[str, Any]) -> ssl.SSLContext | None:
    """None where `security_protocol` asks for no encryption. Raises OSError for files that cannot be read."""
    if settings.get("security_protocol") not in ("SSL", "SASL_SSL"):
        return None
    context = ssl.create_default_context(cafile=settings.get("ssl_cafile"))
    if settings.get("ssl_certfile"):
        context.load_cert_chain(settings["ssl_certfile"], settings.get("ssl_keyfile"), settings.get("ssl_password"))
    return context
