"""How personal data looks: which names mean a person, and which texts look like an email, a phone or an address.

When in doubt a value is sealed: that loses nothing (profiles opens it), while a readable one stays in the log for ever.
"""

import re
from enum import IntEnum
from functools import lru_cache
from urllib.parse import unquote

from shared.vocabulary import PERSONAL_ANYWHERE


class Name(IntEnum):
    """What a property's name says about its value."""

    PLAIN = 0
    ID = 1  # a number of something: bare digits are no phone here
    ADDRESS = 2  # of a page: cut at its query
    NAMED = 3  # the name or picture of a person or of a thing: the object around it decides
    NUMBERED = 4  # `id` alone: of a person it is an identifier
    SEALED = 5


class Around(IntEnum):
    """What kind of object a property stands in."""

    NEUTRAL = 0
    THING = 1
    PERSON = 2


# On the hot path as plain names: a member's look-up through its class costs more than the comparison.
ID, ADDRESS, NAMED, NUMBERED, SEALED = Name.ID, Name.ADDRESS, Name.NAMED, Name.NUMBERED, Name.SEALED
THING, PERSON = Around.THING, Around.PERSON


_SEALED_WORDS = """
nickname username login familyname givenname surname displayname customername contactname recipientname
billingname shippingname cardholder cardholdername telephone tel cell fax mail
ip ips ipv4 ipv6 remoteip clientip useragent useragentdata macaddress dob birthdate
userid customerid anonymousid previousid distinctid visitorid clientid memberid deviceid advertisingid idfa idfv gaid
password passwd secret token devicetoken accesstoken apikey ssn nationalcode taxid iban cardnumber creditcard cvv
comment comments message messages text body note notes feedback description query q search keyword keywords
street1 street2 addressline1 addressline2 address1 address2 geo coordinates lat lng lon externalids
"""
_SEALED = frozenset(name.replace("_", "") for name in PERSONAL_ANYWHERE) | frozenset(_SEALED_WORDS.split())
_SEALED_ENDS = (
    "email", "emailaddress", "phone", "phonenumber", "mobile", "mobilenumber", "firstname", "lastname", "fullname",
    "address", "ipaddress", "subject", "comment", "birthday", "password", "userid", "customerid",
)  # fmt: skip
_NAMED = frozenset(("name", "avatar", "photo", "picture"))
_ADDRESS_WORDS = "url uri href link linkurl path referrer referer landingpage pageurl imageurl location"
_ADDRESSES = frozenset(_ADDRESS_WORDS.split())
_ID_ENDS = ("_id", "Id", "ID", "-id", "_at", "At", "_time", "Time", "timestamp", "date", "Date")
_ID_NAMES = frozenset(("sku", "uuid", "ean", "gtin", "isbn"))

_THING_WORDS = """
app library os network screen campaign timezone product products item items category brand page plan company group
organization organisation experiment variant coupon store
"""
_THINGS = frozenset(_THING_WORDS.split())
_PERSON_WORDS = "traits user customer person contact recipient profile device patient client"
_PERSONS = frozenset(_PERSON_WORDS.split())

_SQUASHED = re.compile(r"[\s_.\-]+")
_MARKS = re.compile(r"[@\uff20\ufe6b?#%]")
_RUN = re.compile(r"\d[\d\s().\-\u2010-\u2015]{5,}\d")
_MAILBOX = re.compile(r"[^\s@]\s?[@\uff20\ufe6b]\s?[^\s@]")
_DIGITS = re.compile(r"(?:\+|(?<![\w.+\-])\(?\+?)\(?\d[\d\s().\-\u2010-\u2015]{5,}\d(?!\w)")
_DATE = re.compile(r"\d{4}[-.]\d{1,2}[-.]\d{1,2}(?!\d)|\d{1,2}[-.]\d{1,2}[-.]\d{4}(?!\d)")
_IP_4 = re.compile(r"(?<![\w.])(?:\d{1,3}\.){3}\d{1,3}(?![\w.])", re.ASCII)
_IP_6 = re.compile(
    r"\[?(?:[0-9A-Fa-f]{1,4}:){7}[0-9A-Fa-f]{1,4}\]?|\[?[0-9A-Fa-f:]*::[0-9A-Fa-f:.]*\]?|(?:[0-9A-Fa-f]{2}:){5}[0-9A-Fa-f]{2}"
)
_IP_CHARACTERS = 64  # beyond it the pattern would cost the square of the length
_URL = re.compile(r"(?:[A-Za-z][A-Za-z0-9+.\-]*:)?//\S+|[/?#]\S*")
REMEMBERED_CHARACTERS_MAX = 64
"""Longer texts seldom come again, and would make a memory of thousands of them large."""
_URL_END = re.compile(r"[?#;]")


@lru_cache(4096)
def name_says(name: str) -> Name:
    """What `name` means, in whatever case and spelling. A name that may not itself stay is SEALED."""
    squashed = _SQUASHED.sub("", name).lower()
    if squashed in _SEALED or squashed.endswith(_SEALED_ENDS) or not may_stay(name):
        return Name.SEALED
    if squashed in _NAMED:
        return Name.NAMED
    if squashed == "id":
        return Name.NUMBERED
    if squashed in _ADDRESSES:
        return Name.ADDRESS
    return Name.ID if name.endswith(_ID_ENDS) or squashed in _ID_NAMES else Name.PLAIN


@lru_cache(4096)
def object_says(name: str, outside: Around) -> Around:
    """What the object called `name` describes; one with an unknown name describes what stands around it."""
    squashed = _SQUASHED.sub("", name).lower()
    if squashed in _THINGS:
        return Around.THING
    return Around.PERSON if squashed in _PERSONS else outside


def is_suspect(text: str) -> bool:
    """Fast: False only where `looks_personal` is False and an address has neither query nor fragment."""
    # Three searches that each begin with one class of characters are several times faster than their alternation.
    return _MARKS.search(text) is not None or _RUN.search(text) is not None or text.count(":") > 1


@lru_cache(16384)
def stays(name: str, text: str) -> bool:
    """Fast: True only where a property of this name and text stays as it is, whatever stands around it. Remembered, as
    names, places, categories and campaigns come again and again: for texts up to REMEMBERED_CHARACTERS_MAX."""
    says = name_says(name)
    return says < NAMED and not is_suspect(text) and not (says == ADDRESS and ";" in text)


def looks_personal(text: str, number_of_something: bool = False) -> bool:
    """Whether an email, a phone or an IP or hardware address stands anywhere in `text`.

    `number_of_something`: the name says that it is an id or a time, so only phones written with `+` are phones.
    """
    seen = unquote(text) if "%" in text else text
    if _MAILBOX.search(seen) or _IP_4.search(seen) or (len(seen) <= _IP_CHARACTERS and _IP_6.fullmatch(seen.strip())):
        return True
    return any(_is_phone(run.group(), number_of_something) for run in _DIGITS.finditer(seen))


def is_url(text: str) -> bool:
    """Whether `text` is an address of a page: with a host, or a path or query alone."""
    return _URL.fullmatch(text) is not None


def before_query(url: str) -> str:
    """`url` without query, fragment and path parameters."""
    end = _URL_END.search(url)
    return url[: end.start()] if end else url


def may_stay(text: str) -> bool:
    """Whether a text that is kept whole or not at all (a name, a path) may stay readable."""
    return not looks_personal(text) and not (is_url(text) and before_query(text) != text)


def _is_phone(run: str, number_of_something: bool) -> bool:
    """A run of digits and separators: international form, or long enough and neither date, version nor plain number."""
    digits = sum(map(str.isdigit, run))
    if not 7 <= digits <= 15:
        return False
    if "+" in run:
        return True
    if number_of_something or _DATE.match(run):
        return False
    if digits == len(run):
        return digits >= 10 or (digits >= 9 and run[0] in "0۰٠")
    groups = run.split(".")
    if all(map(str.isdigit, groups)):
        return len(groups) >= 5 or [len(group) for group in groups[-3:]] == [3, 3, 4]
    return True
