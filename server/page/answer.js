// One answer as it grows: what chunks bring, put together. Plain records, so that they can be kept.

export const LANES = ["a", "b"];

export function newAnswer() {
  return {
    state: "waiting", // then streaming; then done, stopped or failed
    content: "",
    reasoning: "",
    tools: [], // {id, name, arguments}
    tokens: [], // [text, logprob, [[text, logprob], ...]]
    usage: null,
    timings: null,
    finish: null,
    error: null, // of words.js
    request: null, // what it was asked with, without the messages
    id: null,
  };
}

export function applyChunk(answer, chunk) {
  answer.id = chunk.id ?? answer.id;
  answer.usage = chunk.usage ?? answer.usage;
  answer.timings = chunk.timings ?? answer.timings;
  const choice = chunk.choices?.[0];
  if (!choice) return;
  const delta = choice.delta ?? {};
  answer.content += delta.content ?? "";
  answer.reasoning += delta.reasoning_content ?? delta.reasoning ?? "";
  for (const call of delta.tool_calls ?? []) applyCall(answer.tools, call);
  for (const entry of choice.logprobs?.content ?? []) answer.tokens.push(tokenOf(entry));
  answer.finish = choice.finish_reason ?? answer.finish;
  if (isBegun(answer)) answer.state = "streaming";
}

const isBegun = ({ content, reasoning, tools }) => Boolean(content || reasoning || tools.length);

function applyCall(tools, { index = 0, id, function: called }) {
  const tool = (tools[index] ??= { id: "", name: "", arguments: "" });
  tool.id = id ?? tool.id;
  tool.name = called?.name ?? tool.name;
  tool.arguments += called?.arguments ?? "";
}

function tokenOf({ token, logprob, bytes, top_logprobs: top }) {
  const others = (top ?? []).map((one) => [visible(one.token, one.bytes), one.logprob]);
  return [visible(token, bytes), logprob, others];
}

// Half a character has no text of its own; its bytes are shown instead.
function visible(token, bytes) {
  if (!bytes?.length || !token.includes("\ufffd")) return token;
  try {
    return new TextDecoder("utf-8", { fatal: true }).decode(Uint8Array.from(bytes));
  } catch {
    return bytes.map((byte) => `\\x${byte.toString(16).padStart(2, "0")}`).join("");
  }
}

// {thought, text, thinking}: thoughts that came apart, or between <think> marks in the text.
export function partsOf({ content, reasoning, state }) {
  const isOpen = state === "streaming";
  if (reasoning) return { thought: reasoning, text: content, thinking: isOpen && !content };
  const opened = content.match(/^\s*<think>/);
  if (!opened) return { thought: "", text: content, thinking: false };
  const rest = content.slice(opened[0].length), end = rest.indexOf("</think>");
  if (end < 0) return { thought: rest, text: "", thinking: isOpen };
  return { thought: rest.slice(0, end), text: rest.slice(end + 8).trimStart(), thinking: false };
}

// The message that stands for it in the requests after it, or null where it said nothing.
export function messageOf(answer) {
  const content = partsOf(answer).text.trim();
  if (!content && !answer.tools.length) return null;
  const message = { role: "assistant", content: content || null };
  if (answer.tools.length) {
    message.tool_calls = answer.tools.map(({ id, name, arguments: text }) => (
      { id, type: "function", function: { name, arguments: text } }
    ));
  }
  return message;
}
