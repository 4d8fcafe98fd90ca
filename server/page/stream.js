// One answer over HTTP: the chunks of a streamed chat completion, or a Refusal.

import { EventParser } from "./sse.js";

// What the server said instead of an answer, or in the middle of one. `status` is 0 where nothing
// came back at all; `retryS` is how long the server asks to wait.
export class Refusal extends Error {
  constructor(message, { status = 0, code = null, param = null, retryS = null } = {}) {
    super(message);
    Object.assign(this, { status, code, param, retryS });
  }
}

export const authorization = (key) => (key ? { authorization: `Bearer ${key}` } : {});

// `opened` is called with the response once it has begun well.
export async function* chunks(body, { key, signal, opened, fetcher = fetch }) {
  const response = await send(body, { key, signal, fetcher });
  if (!response.ok) throw await refusalOf(response);
  opened?.(response);
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  const parser = new EventParser();
  try {
    for (;;) {
      const { value, done } = await read(reader, signal);
      if (done) throw new Refusal("the connection ended before the answer did", { code: "cut" });
      for (const { data } of parser.push(value)) {
        if (data === "[DONE]") return;
        const chunk = JSON.parse(data);
        if (chunk.error) throw new Refusal(chunk.error.message, { status: 200, ...chunk.error });
        yield chunk;
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

async function send(body, { key, signal, fetcher }) {
  try {
    return await fetcher("/v1/chat/completions", {
      method: "POST",
      headers: { "content-type": "application/json", ...authorization(key) },
      body: JSON.stringify(body),
      signal,
    });
  } catch (error) {
    if (signal?.aborted) throw error;
    throw new Refusal("the server does not answer", { code: "unreachable" });
  }
}

async function read(reader, signal) {
  try {
    return await reader.read();
  } catch (error) {
    if (signal?.aborted) throw error;
    throw new Refusal("the connection broke", { code: "cut" });
  }
}

export async function refusalOf(response) {
  const body = await response.json().catch(() => null);
  const error = body?.error ?? {};
  const found = { status: response.status, code: error.code, param: error.param };
  const message = error.message ?? `the server answered with HTTP ${response.status}`;
  return new Refusal(message, { ...found, retryS: retryOf(response.headers) });
}

function retryOf(headers) {
  const ms = Number(headers.get("retry-after-ms") ?? NaN);
  const s = Number.isFinite(ms) ? ms / 1e3 : Number(headers.get("retry-after") ?? NaN);
  return Number.isFinite(s) && s >= 0 ? s : null;
}
