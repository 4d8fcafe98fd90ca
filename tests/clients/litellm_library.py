"""litellm as a library: its providers for OpenAI, vLLM and Anthropic, streaming and not."""

import os
import sys

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"

import litellm

URL = sys.argv[1]
HI = [{"role": "user", "content": "What is the capital of France?"}]
for provider, base in (
    ("openai", f"{URL}/v1"),
    ("hosted_vllm", f"{URL}/v1"),
    ("anthropic", URL),
):
    asked = {
        "model": f"{provider}/demo",
        "api_base": base,
        "api_key": "none",
        "messages": HI,
        "max_tokens": 20,
        "temperature": 0,
    }
    whole = litellm.completion(**asked)
    assert whole.choices[0].message.content and whole.usage.completion_tokens > 0
    chunks = list(litellm.completion(**asked, stream=True))
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert text == whole.choices[0].message.content, provider
response = litellm.responses(
    model="openai/demo", api_base=f"{URL}/v1", api_key="none", input="Hi", max_output_tokens=20
)
assert response.output[0].content[0].text
