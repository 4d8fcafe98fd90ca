"""anthropic: messages, streams, a forced tool and its result, counting, structured output."""

import sys

from anthropic import Anthropic, BadRequestError

client = Anthropic(base_url=sys.argv[1], api_key="none", max_retries=0)
HI = [{"role": "user", "content": "What is the capital of France?"}]
GREEDY = {"temperature": 0}
TOOL = {
    "name": "look_up",
    "input_schema": {
        "type": "object",
        "properties": {"n": {"enum": [1, 2]}},
        "required": ["n"],
        "additionalProperties": False,
    },
}

made = client.messages.create(model="demo", messages=HI, max_tokens=20, extra_body=GREEDY)
assert made.content[0].text and made.stop_reason in ("end_turn", "max_tokens")
with client.messages.stream(model="demo", messages=HI, max_tokens=20, extra_body=GREEDY) as stream:
    assert "".join(stream.text_stream) == made.content[0].text
    assert stream.get_final_message().usage.output_tokens == made.usage.output_tokens
counted = client.messages.count_tokens(model="demo", messages=HI)
usage = made.usage
assert counted.input_tokens == usage.input_tokens + usage.cache_read_input_tokens
called = client.messages.create(
    model="demo",
    messages=HI,
    max_tokens=200,
    tools=[TOOL],
    tool_choice={"type": "any", "disable_parallel_tool_use": True},
)
(call,) = (block for block in called.content if block.type == "tool_use")
assert isinstance(call.input["n"], int) and called.stop_reason == "tool_use"
result = {"type": "tool_result", "tool_use_id": call.id, "content": "Paris"}
client.messages.create(
    model="demo",
    messages=[
        *HI,
        {"role": "assistant", "content": called.content},
        {"role": "user", "content": [result]},
    ],
    tools=[TOOL],
    max_tokens=20,
)
try:
    client.messages.create(model="demo", messages=[], max_tokens=1)
except BadRequestError as error:
    assert "messages" in str(error)
else:
    raise AssertionError("no messages were answered")
