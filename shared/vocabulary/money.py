"""Money as integers: any amount a client may send, in the minor unit of its ISO 4217 currency."""

from decimal import ROUND_HALF_EVEN, Decimal, InvalidOperation
from functools import lru_cache

from shared.errors import InvalidField, quoted

MINOR_LIMIT = 2**53
"""Amounts stay below this, so that every JSON reader shows them exactly."""
REMEMBERED_CHARACTERS_MAX = 32

_TWO = (
    "AED AFN ALL AMD AOA ARS AUD AWG AZN BAM BBD BDT BGN BMD BND BOB BOV BRL BSD BTN BWP BYN BZD CAD CDF CHE CHF CHW "
    "CNY COP COU CRC CUP CVE CZK DKK DOP DZD EGP ERN ETB EUR FJD FKP GBP GEL GHS GIP GMD GTQ GYD HKD HNL HTG HUF IDR "
    "ILS INR IRR JMD KES KGS KHR KPW KYD KZT LAK LBP LKR LRD LSL MAD MDL MGA MKD MMK MNT MOP MRU MUR MVR MWK MXN MXV "
    "MYR MZN NAD NGN NIO NOK NPR NZD PAB PEN PGK PHP PKR PLN QAR RON RSD RUB SAR SBD SCR SDG SEK SGD SHP SLE SOS SRD "
    "SSP STN SVC SYP SZL THB TJS TMT TOP TRY TTD TWD TZS UAH USD USN UYU UZS VED VES WST XCD XCG YER ZAR ZMW ZWG"
)
_ZERO = "BIF CLP DJF GNF ISK JPY KMF KRW PYG RWF UGX UYI VND VUV XAF XOF XPF"
_THREE = "BHD IQD JOD KWD LYD OMR TND"
_FOUR = "CLF UYW"

EXPONENTS: dict[str, int] = {
    code: digits for digits, codes in ((2, _TWO), (0, _ZERO), (3, _THREE), (4, _FOUR)) for code in codes.split()
}
"""Currency → digits after the decimal point (ISO 4217, list one)."""

_TOMAN = {"IRT", "TOMAN", "TMN"}


def currency_code(value: object, path: str) -> str:
    """The upper-case ISO 4217 code. Raises InvalidField for anything that is not one."""
    code = value.strip().upper() if isinstance(value, str) else ""
    if code in EXPONENTS:
        return code
    if code in _TOMAN:
        raise InvalidField(path, "toman has no ISO 4217 code: send rial (IRR), ten to a toman")
    raise InvalidField(path, f"{quoted(value)} is not an ISO 4217 currency code such as EUR")


def minor_units(value: object, currency: str, path: str) -> int:
    """An amount in major units (number or decimal text) as minor units of `currency`, half to even.

    >>> minor_units("19.99", "EUR", "amount"), minor_units(1200, "JPY", "amount")
    (1999, 1200)

    Raises InvalidField for what is no finite, non-negative number below 2^53 minor units.
    """
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise InvalidField(path, "must be a number or a decimal text such as 19.99")
    if type(value) is str and len(value) > REMEMBERED_CHARACTERS_MAX:
        return _minor_units(value, currency, path)
    return _known_minor_units(value, currency, path)


def _minor_units(value: int | float | str, currency: str, path: str) -> int:
    try:
        amount = Decimal(value.strip() if isinstance(value, str) else repr(value))
    except InvalidOperation:
        raise InvalidField(path, f"{quoted(value)} is not a decimal number") from None
    if not amount.is_finite() or amount < 0 or amount >= MINOR_LIMIT:
        raise InvalidField(path, "must be finite, not negative and below 2^53 minor units")
    minor = int(amount.scaleb(EXPONENTS[currency]).to_integral_value(ROUND_HALF_EVEN))
    return checked_minor(minor, path)


_known_minor_units = lru_cache(4096, typed=True)(_minor_units)
"""A shop has few prices: what was exact once is so again."""


def checked_minor(value: object, path: str) -> int:
    """`value` when it is a whole number of minor units, 0..2^53 - 1. Raises InvalidField."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < MINOR_LIMIT:
        raise InvalidField(path, "must be a whole number of minor units, not negative and below 2^53")
    return value
