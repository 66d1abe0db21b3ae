"""The words of the domain: kinds of touchpoints, what they carry, and how what clients send becomes one form."""

from shared.vocabulary.keys import business_key, fact_key, fact_ref, id_key, score_of
from shared.vocabulary.kinds import (
    CHANNELS,
    CSAT_LOW,
    KINDS,
    NPS_LOW,
    PERSONAL_ANYWHERE,
    PERSONAL_TRAITS,
    SCALES,
    Kind,
    Property,
)
from shared.vocabulary.money import EXPONENTS, currency_code
from shared.vocabulary.normalise import (
    PERSONAL_PROPERTIES,
    as_time_ms,
    known_channel,
    known_kind,
    normalise,
    split_personal,
)

__all__ = [
    "CHANNELS", "CSAT_LOW", "EXPONENTS", "KINDS", "NPS_LOW", "PERSONAL_ANYWHERE", "PERSONAL_PROPERTIES",
    "PERSONAL_TRAITS", "SCALES", "Kind", "Property", "as_time_ms", "business_key", "currency_code", "fact_key",
    "fact_ref", "id_key", "known_channel", "known_kind", "normalise", "score_of", "split_personal",
]  # fmt: skip
