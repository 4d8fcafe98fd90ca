// Numbers and errors, in words.

import { settingOf, FieldError } from "./options.js";

export function duration(ms) {
  if (ms >= 59500) return `${Math.floor(Math.round(ms / 1e3) / 60)} min ${Math.round(ms / 1e3) % 60} s`;
  if (ms >= 9950) return `${(ms / 1e3).toFixed(0)} s`;
  if (ms >= 999.5) return `${(ms / 1e3).toFixed(1)} s`;
  return `${ms.toFixed(ms < 9.95 ? 1 : 0)} ms`;
}

const count = (value, unit) => `${Math.round(value)} ${unit}${Math.round(value) === 1 ? "" : "s"}`;
const rate = (value) => value.toFixed(value < 9.95 ? 1 : 0);

const PACED = 8; // tokens; fewer come together, and have no pace worth telling

const ENDS = {
  length: ["cut off at the limit", "The longest answer allowed, or the context, is full"],
  content_filter: ["filtered", "The server held the answer back"],
};

// What there is to say below an answer: {name, text, title, key}, the class first.
export function factsOf({ usage, timings, finish, state }) {
  const t = timings ?? {}, facts = [];
  const add = (name, text, title) => facts.push({ name, text, title });
  if (t.service_class) add("class", t.service_class, "Service class: how the server scheduled it");
  if (t.ttft_ms !== undefined) add("ttft", `first token ${duration(t.ttft_ms)}`, "From the request's arrival to its first token, at the server");
  if (t.tokens_per_second && !(usage?.completion_tokens < PACED)) add("rate", `${rate(t.tokens_per_second)} tokens/s`, "After the first token");
  if (usage) add("tokens", count(usage.completion_tokens, "token"), promptTitle(usage));
  if (t.queue_ms !== undefined) add("queue", `queued ${duration(t.queue_ms)}`, "Before the engine took it up; part of the time to the first token");
  if (t.predicted_tokens) add("predicted", `foreseen ${Math.round(t.predicted_tokens)}`, "Tokens of output that the scheduler expected");
  if (t.total_ms !== undefined) add("total", `in all ${duration(t.total_ms)}`, "From the request's arrival to the end of the answer");
  if (state === "stopped") add("end", "stopped", "You stopped it, or left the page");
  else if (ENDS[finish]) add("end", ...ENDS[finish]);
  return facts;
}

function promptTitle({ prompt_tokens: prompt, prompt_tokens_details: asked, completion_tokens_details: made }) {
  const thoughts = made?.reasoning_tokens ? `, ${made.reasoning_tokens} of them thoughts` : "";
  const cached = asked?.cached_tokens ? `, ${asked.cached_tokens} of them from the cache` : "";
  return `Of output${thoughts}. The prompt had ${prompt}${cached}.`;
}

// An error as {title, text, action, retryS, field}. The action is what can be done about it: key,
// field, retry, or nothing.
export function explain(error) {
  if (error instanceof FieldError) {
    return { title: "A setting is not right.", text: error.message, action: "field", field: error.field };
  }
  const { status, code, message, retryS = null } = error;
  const text = sentence(message), base = { text, retryS, action: "retry" };
  if (code === "unreachable") {
    return { ...base, title: "The server does not answer.", text: "Is it still running, and is the network?" };
  }
  if (code === "cut") {
    return { ...base, title: "The connection broke.", text: "What had come until then is above." };
  }
  if (code === "stream_not_found") {
    const gone = "What had come until then is above; the rest is not kept any more.";
    return { ...base, title: "The connection broke.", text: gone };
  }
  if (status === 401) return { ...base, action: "key", title: "The server wants an API key." };
  if (status === 403) return { ...base, action: "key", title: "This key may not do that." };
  if (status === 429) return { ...base, title: "The server has too much to do, or you reached a limit." };
  if (code === "engine_dead" || code === "engine_error") return { ...base, title: "The engine failed." };
  if (code === "engine_restarted") return { ...base, title: "The answer broke off." };
  if (code === "deadline_expired") return { ...base, title: "It took longer than its deadline." };
  if (code === "shutdown") return { ...base, title: "The server is shutting down." };
  if (status === 503) return { ...base, title: "The server cannot answer now." };
  if (code === "context_length_exceeded") {
    return { ...base, action: null, title: "The conversation is too long for the model." };
  }
  const field = settingOf(error.param);
  if (status === 400 && field) return { ...base, action: "field", field, title: "A setting is not right." };
  if (status >= 400 && status < 500) return { ...base, action: null, title: "The server refused it." };
  if (status) return { ...base, title: "Something went wrong at the server." };
  return { ...base, title: "Something went wrong on this page." };
}

function sentence(message) {
  const text = String(message ?? "").trim();
  return text && text[0].toUpperCase() + text.slice(1) + (/[.!?]$/.test(text) ? "" : ".");
}
