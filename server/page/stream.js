// One answer over HTTP: the chunks of a streamed chat completion, or a Refusal.

import { EventParser } from "./sse.js";

const PATH = "/v1/chat/completions";

// What the server said instead of an answer, or in the middle of one. `status` is 0 where nothing
// came back at all; `retryS` is how long the server asks to wait.
export class Refusal extends Error {
  constructor(message, { status = 0, code = null, param = null, retryS = null } = {}) {
    super(message);
    Object.assign(this, { status, code, param, retryS });
  }
}

export const authorization = (key) => (key ? { authorization: `Bearer ${key}` } : {});

const WAITS_MS = [0, 500, 1000, 2000, 4000, 8000, 8000]; // the server waits for half a minute
const SILENCE_MS = 45_000; // three of its pings

// `broken` is called with true when the connection breaks in the middle and the rest is asked for,
// and with false when it comes. Whoever stops reading by `signal` ends the answer at the server.
export async function* chunks(body, options) {
  const { signal, broken, pause = sleep } = options;
  const place = { id: null, tries: 0 };
  const stop = () => giveUp(place.id, options);
  signal?.addEventListener("abort", stop, { once: true });
  try {
    for (;;) {
      try {
        yield* follow(body, place, options);
        return;
      } catch (error) {
        if (signal?.aborted || !canComeBack(error, place)) throw error;
        broken?.(true);
        await pause(WAITS_MS[place.tries], signal);
        place.tries += 1;
      }
    }
  } finally {
    signal?.removeEventListener("abort", stop);
  }
}

// Chunks from `place` on, over one connection, to the end of the answer.
async function* follow(body, place, { key, signal, broken, fetcher = fetch }) {
  const response = await send(body, place.id, { key, signal, fetcher });
  if (!response.ok) throw await refusalOf(response);
  if (place.id) broken?.(false);
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  const parser = new EventParser();
  try {
    for (;;) {
      const { value, done } = await read(reader, place, signal);
      if (done) throw new Refusal("the connection ended before the answer did", { code: "cut" });
      for (const { data, id } of parser.push(value)) {
        Object.assign(place, { id: id ?? place.id, tries: 0 });
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

// What a proxy says of a server that it does not reach counts as a connection that broke.
const canComeBack = ({ code, status }, { id, tries }) => (
  id !== null && tries < WAITS_MS.length && (["cut", "unreachable"].includes(code) || [502, 504].includes(status))
);

function sleep(ms, signal) {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, ms);
    signal?.addEventListener("abort", () => { clearTimeout(timer); reject(signal.reason); }, { once: true });
  });
}

async function send(body, id, { key, signal, fetcher }) {
  const place = id ? { "last-event-id": id } : { "x-prelude-resume": "1" };
  try {
    return await fetcher(PATH, {
      method: "POST",
      headers: { "content-type": "application/json", ...place, ...authorization(key) },
      body: JSON.stringify(body),
      signal,
    });
  } catch (error) {
    if (signal?.aborted) throw error;
    throw new Refusal("the server does not answer", { code: "unreachable" });
  }
}

// Also while the page is being left. What has not begun ends with its connection.
function giveUp(id, { key, fetcher = fetch }) {
  if (!id) return;
  const headers = { "last-event-id": id, "x-prelude-resume": "0", ...authorization(key) };
  fetcher(PATH, { method: "POST", headers, keepalive: true }).catch(() => {});
}

async function read(reader, { id }, signal) {
  let timer;
  const silence = new Promise((resolve, reject) => {
    if (id) timer = setTimeout(() => reject(new Error("silence")), SILENCE_MS);
  });
  try {
    return await Promise.race([reader.read(), silence]);
  } catch (error) {
    if (signal?.aborted) throw error;
    throw new Refusal("the connection broke", { code: "cut" });
  } finally {
    clearTimeout(timer);
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
