"""instructor: a typed answer by JSON schema, and by a tool."""

import sys
from typing import Literal

import instructor
from openai import OpenAI
from pydantic import BaseModel, ConfigDict


class City(BaseModel):
    model_config = ConfigDict(extra="forbid")
    name: Literal["Paris", "London"]


for mode in (instructor.Mode.JSON_SCHEMA, instructor.Mode.TOOLS):
    client = instructor.from_openai(OpenAI(base_url=f"{sys.argv[1]}/v1", api_key="none"), mode=mode)
    found = client.chat.completions.create(
        model="demo",
        response_model=City,
        messages=[{"role": "user", "content": "Paris"}],
        temperature=0,
        max_tokens=100,
        max_retries=0,
    )
    assert isinstance(found, City)
