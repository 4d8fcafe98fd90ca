"""langchain-openai: invoke, stream, tools, structured output; chat completions and responses."""

import sys
from typing import Literal

from langchain_openai import ChatOpenAI
from pydantic import BaseModel, ConfigDict


class City(BaseModel):
    """A city."""

    model_config = ConfigDict(extra="forbid")
    name: Literal["Paris", "London"]


for use_responses_api in (False, True):
    model = ChatOpenAI(
        base_url=f"{sys.argv[1]}/v1",
        api_key="none",
        model="demo",
        max_tokens=100,
        temperature=0,
        use_responses_api=use_responses_api,
    )
    whole = model.invoke("What is the capital of France?")
    assert whole.text and whole.usage_metadata["output_tokens"] > 0
    assert "".join(chunk.text for chunk in model.stream("What is the capital of France?")) == (
        whole.text
    )
    called = model.bind_tools([City], tool_choice="required").invoke("Paris")
    assert called.tool_calls[0]["name"] == "City"
    found = model.with_structured_output(City, method="json_schema").invoke("Paris")
    assert isinstance(found, City)
