// A request as something to paste: curl, or Python with the openai package.

const quoted = (text) => `'${text.replaceAll("'", "'\\''")}'`;

export function curl(body, base, isKeyed) {
  return [
    `curl -N ${base}/v1/chat/completions`,
    ...(isKeyed ? ['-H "Authorization: Bearer $PRELUDE_API_KEY"'] : []),
    "-H 'Content-Type: application/json'",
    `-d ${quoted(JSON.stringify({ ...body, stream: true }, null, 2))}`,
  ].join(" \\\n  ");
}

// The client's own parameters; what is not among them goes into extra_body.
const KNOWN = new Set(
  ("model messages temperature top_p max_tokens seed stop presence_penalty frequency_penalty logprobs " +
    "top_logprobs reasoning_effort response_format tools tool_choice n logit_bias user metadata").split(" "),
);

export function python(body, base, isKeyed) {
  const known = Object.entries(body).filter(([name]) => KNOWN.has(name));
  const extra = Object.fromEntries(Object.entries(body).filter(([name]) => !KNOWN.has(name)));
  const lines = known.map(([name, value]) => `    ${name}=${literal(value, 4)},`);
  if (Object.keys(extra).length) lines.push(`    extra_body=${literal(extra, 4)},`);
  return [
    ...(isKeyed ? ["import os", ""] : []),
    "from openai import OpenAI",
    "",
    `client = OpenAI(base_url="${base}/v1", api_key=${isKeyed ? 'os.environ["PRELUDE_API_KEY"]' : '"none"'})`,
    "stream = client.chat.completions.create(",
    ...lines,
    "    stream=True,",
    ")",
    "for chunk in stream:",
    "    if chunk.choices and chunk.choices[0].delta.content:",
    '        print(chunk.choices[0].delta.content, end="", flush=True)',
    "print()",
  ].join("\n");
}

function literal(value, indent) {
  if (value === null || value === undefined) return "None";
  if (typeof value === "boolean") return value ? "True" : "False";
  if (typeof value === "number") return String(value);
  // JSON's escapes mean the same in Python, but for half a pair of surrogates, which has no text
  if (typeof value === "string") return JSON.stringify(value.replace(/\p{Surrogate}/gu, "\ufffd"));
  const pad = " ".repeat(indent + 4), end = " ".repeat(indent);
  const items = Array.isArray(value)
    ? value.map((one) => literal(one, indent + 4))
    : Object.entries(value).map(([name, one]) => `${JSON.stringify(name)}: ${literal(one, indent + 4)}`);
  const [open, close] = Array.isArray(value) ? "[]" : "{}";
  const short = `${open}${items.join(", ")}${close}`;
  if (short.length < 80 && !short.includes("\n")) return short;
  return `${open}\n${items.map((item) => `${pad}${item},\n`).join("")}${end}${close}`;
}
