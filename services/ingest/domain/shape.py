"""What any JSON must keep to before its meaning is looked at: depth, keys, text that a database can hold, numbers."""

from math import isfinite
from typing import Any

from services.ingest.domain.terms import ROOT_PATH, Limits
from shared.errors import InvalidField

_INTEGER_MIN, _INTEGER_MAX = -(2**63), 2**64 - 1


def check_shape(value: Any, limits: Limits) -> None:
    """Raises InvalidField, with the path, for nesting over `limits.depth`, more than `limits.object_keys` keys in one
    object, NUL characters, halves of surrogate pairs, numbers that are not finite or do not fit into 64 bits, and
    values that are no JSON. An item costs about a microsecond per twenty values."""
    if not _is_fine(value, limits.depth, limits.object_keys):
        _say_why(value, limits.depth, limits, "")


def _is_fine(value: Any, depth: int, keys: int) -> bool:
    """The judgement alone, fast; `_say_why` finds place and reason afterwards."""
    kind = type(value)
    if kind is dict:
        if depth == 0 or len(value) > keys:
            return False
        for name, inner in value.items():
            if type(inner) is str:
                if not (inner.isascii() or _is_unicode(inner)) or "\0" in inner:
                    return False
            elif inner is not None and not _is_fine(inner, depth - 1, keys):
                return False
            if not (name.isascii() or _is_unicode(name)) or "\0" in name:
                return False
        return True
    if kind is list:
        return depth > 0 and all(_is_fine(inner, depth - 1, keys) for inner in value)
    return _is_fine_scalar(value)


def _is_fine_scalar(value: Any) -> bool:
    kind = type(value)
    if kind is str:
        return _is_text(value)
    if kind is int:
        return bool(_INTEGER_MIN <= value <= _INTEGER_MAX)
    if kind is float:
        return isfinite(value)
    return value is None or kind is bool


def _is_text(value: Any) -> bool:
    return type(value) is str and (value.isascii() or _is_unicode(value)) and "\0" not in value


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _say_why(value: Any, depth: int, limits: Limits, path: str) -> None:
    if type(value) is dict or type(value) is list:
        _check_container(value, depth, limits, path)
        pairs = value.items() if type(value) is dict else enumerate(value)
        for name, inner in pairs:
            _say_why(inner, depth - 1, limits, _below(path, name))
    elif not _is_fine_scalar(value):
        what = "holds a NUL character or half a surrogate pair" if type(value) is str else "is not a 64-bit JSON number"
        raise InvalidField(path or ROOT_PATH, what, "invalid_json")


def _check_container(value: Any, depth: int, limits: Limits, path: str) -> None:
    if depth == 0:
        raise InvalidField(path or ROOT_PATH, f"nests deeper than {limits.depth}", "too_deep")
    if type(value) is dict and len(value) > limits.object_keys:
        raise InvalidField(path or ROOT_PATH, f"has more than {limits.object_keys} keys", "too_many_keys")
    if type(value) is dict and not all(map(_is_text, value)):
        raise InvalidField(path or ROOT_PATH, "has a key with a NUL character or half a surrogate pair", "invalid_json")


def _below(path: str, name: str | int) -> str:
    if isinstance(name, int):
        return f"{path}[{name}]"
    return f"{path}.{name}" if path else name
