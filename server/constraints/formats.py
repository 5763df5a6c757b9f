"""JSON Schema's formats that are written, as regular expressions; each is a part of its format."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Format:
    """A format.

    Attributes:
        source: the regular expression that its whole texts match.
        shortest, longest: characters of its texts.
    """

    source: str
    shortest: int
    longest: int


_MONTH_DAY = (
    "(?:(?:0[13578]|1[02])-(?:0[1-9]|[12][0-9]|3[01])|(?:0[469]|11)-(?:0[1-9]|[12][0-9]|30)|"
    "02-(?:0[1-9]|1[0-9]|2[0-8]))"
)
_DATE = f"[12][0-9]{{3}}-{_MONTH_DAY}"
_CLOCK = "(?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](?:\\.[0-9]{1,6})?"
_ZONE = "(?:Z|[+-](?:0[0-9]|1[0-3]):[0-5][0-9])"
_BYTE = "(?:25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])"
_LABEL = "[a-z0-9](?:[a-z0-9-]{0,14}[a-z0-9])?"
_HOST = f"(?:{_LABEL}\\.){{1,3}}[a-z]{{2,12}}"
_LONGEST_HOST = 3 * 17 + 12
_TIME = "(?:[0-9]{1,2}H(?:[0-9]{1,2}M(?:[0-9]{1,2}S)?)?|[0-9]{1,2}M(?:[0-9]{1,2}S)?|[0-9]{1,2}S)"

FORMATS: dict[str, Format] = {
    "date": Format(_DATE, 10, 10),
    "time": Format(_CLOCK + _ZONE, 9, 21),
    "date-time": Format(f"{_DATE}T{_CLOCK}{_ZONE}", 20, 32),
    "duration": Format(f"P(?:[0-9]{{1,4}}D(?:T{_TIME})?|T{_TIME})", 3, 16),
    "uuid": Format(
        "[0-9a-f]{8}-[0-9a-f]{4}-[1-5][0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}", 36, 36
    ),
    "ipv4": Format(f"(?:{_BYTE}\\.){{3}}{_BYTE}", 7, 15),
    "ipv6": Format("(?:[0-9a-f]{1,4}:){7}[0-9a-f]{1,4}", 15, 39),
    "hostname": Format(_HOST, 4, _LONGEST_HOST),
    "email": Format(f"[a-z0-9](?:[a-z0-9_+-]{{0,30}}[a-z0-9])?@{_HOST}", 6, 33 + _LONGEST_HOST),
    "uri": Format(
        f"https?://{_HOST}(?:/[A-Za-z0-9_~.-]{{0,20}}){{0,4}}", 11, 8 + _LONGEST_HOST + 84
    ),
}
