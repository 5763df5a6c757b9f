"""Settings of the chat template in the body of a request."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, StrictBool, StrictFloat, StrictInt, StrictStr

from server.api.schemas.tools import Name

MOST_SETTINGS, LONGEST_SETTING = 16, 256

Setting = (
    StrictBool | StrictInt | StrictFloat | Annotated[StrictStr, Field(max_length=LONGEST_SETTING)]
)
Settings = Annotated[
    dict[Name, Setting | None],
    Field(
        max_length=MOST_SETTINGS,
        description="variables that the checkpoint's chat template reads, such as enable_thinking",
    ),
]
