"""openai-python: chat, completions, responses, structured output, tools, errors."""

import sys
from typing import Literal

from openai import NotFoundError, OpenAI
from pydantic import BaseModel

client = OpenAI(base_url=f"{sys.argv[1]}/v1", api_key="none", max_retries=0)
MODEL = client.models.list().data[0].id
HI = [{"role": "user", "content": "What is the capital of France?"}]


class City(BaseModel):
    name: Literal["Paris", "London"]  # the demo model does not end a text of its own
    is_capital: bool


made = client.chat.completions.create(model=MODEL, messages=HI, max_tokens=20, temperature=0)
assert made.choices[0].message.content and made.usage.completion_tokens > 0
stream = client.chat.completions.create(
    model=MODEL,
    messages=HI,
    max_tokens=20,
    temperature=0,
    stream=True,
    stream_options={"include_usage": True},
)
chunks = list(stream)
text = "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)
assert text == made.choices[0].message.content
assert chunks[-1].usage.completion_tokens == made.usage.completion_tokens
parsed = client.chat.completions.parse(model=MODEL, messages=HI, response_format=City)
assert isinstance(parsed.choices[0].message.parsed, City)
echoed = client.completions.create(model=MODEL, prompt="The", echo=True, logprobs=1, max_tokens=2)
assert echoed.choices[0].text.startswith("The")

response = client.responses.create(model=MODEL, input=HI, max_output_tokens=20, temperature=0)
assert response.output_text == made.choices[0].message.content
with client.responses.stream(model=MODEL, input=HI, temperature=0) as events:
    kinds = [event.type for event in events]
    assert kinds[0] == "response.created"
    assert events.get_final_response().output_text
answer = client.responses.parse(model=MODEL, input="Paris", text_format=City)
assert isinstance(answer.output_parsed, City)
tool = {
    "type": "function",
    "name": "look_up",
    "parameters": {
        "type": "object",
        "properties": {"n": {"enum": [1, 2]}},
        "required": ["n"],
        "additionalProperties": False,
    },
}
called = client.responses.create(
    model=MODEL, input="Hi", tools=[tool], tool_choice="required", parallel_tool_calls=False
)
assert [item.name for item in called.output if item.type == "function_call"] == ["look_up"]
try:
    client.responses.create(model="other", input="Hi")
except NotFoundError as error:
    assert (error.code, error.param) == ("model_not_found", "model")
else:
    raise AssertionError("a model that does not exist answered")
