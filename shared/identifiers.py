"""Identifiers: one pure, versioned way from what a client sends to the 16-byte leaf it belongs to.

The normalised text decides the leaf, and leaves stand in the log for ever: a change of meaning here is a new
`NORMALISER_VERSION`, never an edit. `tests/golden/identifiers.json` holds this version.
"""

import re
import unicodedata
from hashlib import blake2b

import phonenumbers

from shared.errors import InvalidField
from shared.ids import LEAF_BYTES, Leaf

NORMALISER_VERSION = 1
VALUE_BYTES_MAX = 512
SECRET_BYTES = 32

RANKS = {"user": 0, "email": 1, "phone": 2, "provider": 3, "anonymous": 4}
"""Rank of each family of kinds: the first byte of its leaves (design §5)."""

RANK_NAMES = ("user id", "email", "phone", "provider id", "anonymous id")
"""What a person reads for each rank."""

_PLACEHOLDER_LINES = """
null nil none undefined void nan unknown n/a empty missing invalid error true false dbnull -1 not_set notset
anonymous anon guest visitor nobody default not_authenticated unauthenticated logged_out object string function
user userid user_id user-id customer customerid customer_id customer-id id uid uuid guid distinct_id distinctid
anonymousid anonymous_id anonymous-id deviceid device_id client_id clientid email e-mail phone
[object] (null) (none) (not) <null> <nil> <none> 9774d56d682e549c
"""
PLACEHOLDERS = frozenset(_PLACEHOLDER_LINES.split()) | {
    "not set", "(not set)", "not authenticated", "logged out", "[object object]", "[object promise]",
    "[object null]", "[object undefined]",
}  # fmt: skip
"""What buggy clients send where an identifier should stand, lower-cased; each would tie thousands of strangers.

The last one is the Android id that a whole series of devices shared."""

_KIND = re.compile(r"provider:[a-z0-9][a-z0-9_.-]{0,62}")
_PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:|@/+=-]{0,511}")
_TEMPLATE = re.compile(r"\{\{.*|\$\{.*|<%.*|%[A-Za-z_]+%|\[\[.*|\{[A-Za-z_.]+\}|<[A-Za-z_ -]+>")
_LOCAL_PART = re.compile(r"""[^\s@<>()\[\]\\,;:"]{1,64}""")
_LABEL = re.compile(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?")
_PERSIAN = str.maketrans("\u064a\u0643", "\u06cc\u06a9")  # ARABIC YEH, KAF → the same letters as Persian writes them


def rank_of(kind: str) -> int:
    """Rank of a kind: user 0, email 1, phone 2, `provider:<name>` 3, anonymous 4. Raises InvalidField (`kind`)."""
    rank = RANKS.get(kind)
    if rank is not None and kind != "provider":
        return rank
    if _KIND.fullmatch(kind):
        return RANKS["provider"]
    raise InvalidField("kind", f"{kind[:80]!r} is not one of user, email, phone, anonymous or provider:<name>")


def normalise(kind: str, value: str, region: str = "", *, field: str = "") -> str:
    """The one text that all spellings of an identifier share; normalising it again changes nothing.

    `kind`: see `rank_of` · `region`: two letters (ISO 3166), what a local phone number is read as; "" refuses local
    numbers · `field`: path named in errors, the kind when "". The result has 1 to 512 bytes of UTF-8.

    All kinds: Unicode NFKC, digits of every script as ASCII, format characters (ZWNJ, bidi, BOM) and controls
    removed, outer space removed, inner space one blank. Ids also get Arabic yeh and kaf as Persian ones (the same
    letter from another keyboard) and keep their case; emails are lower-cased, their domain in its ASCII form;
    phones are E.164, with `;ext=` when they have an extension, so that one switchboard is not one person.

    Raises InvalidField: empty, too long, a placeholder like `null` or `[object Object]`, a wrong email or phone.
    """
    path = field or kind
    rank = rank_of(kind)
    if rank in (1, 2):
        clean = _clean(value, path)
        return _email(clean, path) if rank == 1 else _phone(clean, region, path)
    if not _PLAIN.fullmatch(value):
        value = _clean(value, path).translate(_PERSIAN)
    if value.lower() in PLACEHOLDERS or not value.strip("0-"):
        raise _placeholder(value, path)
    return value


def leaf_of(secret: bytes, workspace: str, kind: str, normalised: str) -> Leaf:
    """The leaf of a normalised identifier: its rank, then 15 bytes of BLAKE2b keyed with the workspace's `secret`.

    `secret`: exactly 32 bytes, the same for ever. Version, workspace, kind and value are framed by their lengths.
    Raises ValueError for another length of secret, InvalidField for an unknown kind.
    """
    if len(secret) != SECRET_BYTES:
        raise ValueError(f"the identifier secret has {SECRET_BYTES} bytes, not {len(secret)}")
    head, tail = f"{NORMALISER_VERSION}\0{len(workspace)}\0{workspace}\0{len(kind)}\0{kind}\0", normalised
    digest = blake2b((head + tail).encode(), key=secret, digest_size=LEAF_BYTES - 1).digest()
    return Leaf(bytes((rank_of(kind),)) + digest)


def _clean(value: str, path: str) -> str:
    """What all kinds share; refuses what is empty, too long, a template or a text without letter or digit."""
    if len(value) > VALUE_BYTES_MAX:
        raise _too_long(path)
    visible = "".join(_visible(char) for char in value)
    composed = unicodedata.normalize("NFKC", visible)
    # NFKC can bring forth spaces (U+FDFA) but no digits of other scripts go away: they are read one by one.
    text = " ".join("".join(_ascii_digit(char) for char in composed).split())
    try:
        length = len(text.encode())
    except UnicodeEncodeError:
        raise InvalidField(path, "holds half of a surrogate pair: send valid UTF-8") from None
    if length > VALUE_BYTES_MAX:
        raise _too_long(path)
    if _TEMPLATE.fullmatch(text) or not any(map(str.isalnum, text)):
        raise _placeholder(text, path)
    return text


def _visible(char: str) -> str:
    category = unicodedata.category(char)
    if category == "Cf" or (category == "Cc" and not char.isspace()):
        return ""
    return char


def _ascii_digit(char: str) -> str:
    return str(unicodedata.decimal(char)) if not char.isascii() and char.isdecimal() else char


def _email(text: str, path: str) -> str:
    """`local@domain`, lower case. Letters are not folded: two mailboxes that look alike are two mailboxes."""
    lowered = unicodedata.normalize("NFKC", text.lower())
    local, at, domain = lowered.rpartition("@")
    local, domain = local.strip(), domain.strip().replace("\u3002", ".").removesuffix(".")
    labels = [_ascii_label(label) for label in domain.split(".")]
    if not at or not _LOCAL_PART.fullmatch(local) or not _is_domain(labels):
        raise InvalidField(path, "is not an email address like name@example.com")
    address = f"{local}@{'.'.join(labels)}"
    if len(address.encode()) > VALUE_BYTES_MAX:
        raise _too_long(path)
    return address


def _ascii_label(label: str) -> str:
    """Punycode (RFC 3492) alone: the tables of IDNA change with their edition, this never does."""
    return label if label.isascii() else "xn--" + label.encode("punycode").decode()


def _is_domain(labels: list[str]) -> bool:
    fits = len(labels) > 1 and sum(map(len, labels)) + len(labels) <= 254
    return fits and all(map(_LABEL.fullmatch, labels)) and not labels[-1].isdigit()


def _phone(text: str, region: str, path: str) -> str:
    """E.164. Possible is enough: which numbers are *given out* changes every month, and a leaf must not."""
    try:
        number = phonenumbers.parse(text, region.upper() or None)
    except phonenumbers.NumberParseException as error:
        if error.error_type == phonenumbers.NumberParseException.INVALID_COUNTRY_CODE and not region:
            raise InvalidField(path, "is a local number and the workspace has no region: send it as +98912…") from None
        raise InvalidField(path, "is not a phone number: send it in international form, like +989121234567") from None
    written = phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.E164)
    if not _is_whole(number, written):
        raise InvalidField(path, "has too few or too many digits for a whole phone number of its country")
    if len(set(str(number.national_number))) == 1:
        raise _placeholder(written, path)
    return f"{written};ext={number.extension}" if number.extension else written


def _is_whole(number: phonenumbers.PhoneNumber, written: str) -> bool:
    """Whether its area code is there (without it, two towns share a number), and it is read again as it is written."""
    length = phonenumbers.is_possible_number_with_reason(number)
    if length != phonenumbers.ValidationResult.IS_POSSIBLE:
        return False
    try:
        again = phonenumbers.parse(written)
    except phonenumbers.NumberParseException:
        return False
    return phonenumbers.format_number(again, phonenumbers.PhoneNumberFormat.E164) == written


def _too_long(path: str) -> InvalidField:
    return InvalidField(path, f"is longer than {VALUE_BYTES_MAX} bytes")


def _placeholder(value: str, path: str) -> InvalidField:
    if not value:
        return InvalidField(path, "is empty")
    return InvalidField(path, f"{value[:40]!r} is a placeholder, not an identifier: it would tie strangers together")
