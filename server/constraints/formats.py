"""JSON Schema's formats that are written, as regular expressions; each is a part of its format."""

from __future__ import annotations

_MONTH_DAY = (
    "(?:(?:0[13578]|1[02])-(?:0[1-9]|[12][0-9]|3[01])|(?:0[469]|11)-(?:0[1-9]|[12][0-9]|30)|"
    "02-(?:0[1-9]|1[0-9]|2[0-8]))"
)
DATE = f"[12][0-9]{{3}}-{_MONTH_DAY}"
_CLOCK = "(?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](?:\\.[0-9]{1,6})?"
_ZONE = "(?:Z|[+-](?:0[0-9]|1[0-3]):[0-5][0-9])"
_BYTE = "(?:25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])"
_LABEL = "[a-z0-9](?:[a-z0-9-]{0,30}[a-z0-9])?"

FORMATS: dict[str, str] = {
    "date": DATE,
    "time": _CLOCK + _ZONE,
    "date-time": f"{DATE}T{_CLOCK}{_ZONE}",
    "uuid": "[0-9a-f]{8}-[0-9a-f]{4}-[1-5][0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}",
    "ipv4": f"(?:{_BYTE}\\.){{3}}{_BYTE}",
    "email": f"[a-z0-9](?:[a-z0-9_+-]{{0,30}}[a-z0-9])?@(?:{_LABEL}\\.)+[a-z]{{2,12}}",
}
