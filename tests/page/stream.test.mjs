// Events out of pieces, and what becomes of a request that goes wrong.

import assert from "node:assert/strict";
import { test } from "node:test";

import { EventParser } from "./page/sse.js";
import { chunks, Refusal } from "./page/stream.js";

const STREAM = ': ping\n\nid: 1\ndata: {"a":1}\n\nevent: x\r\ndata: one\r\ndata:two\r\n\r\ndata: [DONE]\r\r';
const EVENTS = [
  { event: "message", id: "1", data: '{"a":1}' },
  { event: "x", id: null, data: "one\ntwo" },
  { event: "message", id: null, data: "[DONE]" },
];

test("events are the same however the text is cut", () => {
  for (let one = 0; one <= STREAM.length; one += 1) {
    for (let two = one; two <= STREAM.length; two += 1) {
      const parser = new EventParser();
      const pieces = [STREAM.slice(0, one), STREAM.slice(one, two), STREAM.slice(two)];
      // the carriage return at the very end may begin a line's end; one more character tells
      const found = [...pieces, ":"].flatMap((piece) => parser.push(piece));
      assert.deepEqual(found, EVENTS);
    }
  }
});

test("an unfinished event is not an event", () => {
  assert.deepEqual(new EventParser().push("data: half"), []);
  assert.deepEqual(new EventParser().push("data: half\n"), []);
  assert.deepEqual(new EventParser().push("data: whole\n\n").map((event) => event.data), ["whole"]);
});

const answering = (text, init) => async () => new Response(text, init);

async function collect(fetcher, options = {}) {
  const found = [];
  for await (const chunk of chunks({}, { key: "", fetcher, ...options })) found.push(chunk);
  return found;
}

test("chunks come until the end mark", async () => {
  assert.deepEqual(await collect(answering('data: {"n":1}\n\ndata: {"n":2}\n\ndata: [DONE]\n\n')), [{ n: 1 }, { n: 2 }]);
});

test("characters may be cut in the middle of their bytes", async () => {
  const bytes = new TextEncoder().encode('data: {"n":"ä🙂"}\n\ndata: [DONE]\n\n');
  const body = new ReadableStream({
    start(controller) {
      for (const byte of bytes) controller.enqueue(Uint8Array.of(byte));
      controller.close();
    },
  });
  assert.deepEqual(await collect(answering(body)), [{ n: "ä🙂" }]);
});

test("what the server refuses is told with its reason and its wait", async () => {
  const body = JSON.stringify({ error: { message: "full", code: "rate_limit_exceeded", param: "n" } });
  const headers = { "retry-after": "3", "retry-after-ms": "2500" };
  await assert.rejects(collect(answering(body, { status: 429, headers })), (error) => {
    assert.ok(error instanceof Refusal);
    assert.deepEqual(
      [error.message, error.status, error.code, error.param, error.retryS],
      ["full", 429, "rate_limit_exceeded", "n", 2.5],
    );
    return true;
  });
});

test("an answer that is no JSON is an error all the same", async () => {
  const error = await collect(answering("<html>", { status: 502 })).catch((found) => found);
  assert.deepEqual([error.status, error.retryS], [502, null]);
  assert.match(error.message, /502/);
});

test("an error in the stream, and a stream without its end", async () => {
  const late = 'data: {"n":1}\n\ndata: {"error":{"message":"gone","code":"engine_dead"}}\n\ndata: [DONE]\n\n';
  await assert.rejects(collect(answering(late)), { code: "engine_dead", status: 200 });
  await assert.rejects(collect(answering('data: {"n":1}\n\n')), { code: "cut" });
});

test("a server that is not there, and a reader who stopped", async () => {
  const fails = async () => { throw new TypeError("failed to fetch"); };
  await assert.rejects(collect(fails), { code: "unreachable", status: 0 });
  const aborter = new AbortController();
  aborter.abort();
  await assert.rejects(collect(async () => { throw aborter.signal.reason; }, { signal: aborter.signal }), { name: "AbortError" });
});

// Answers one connection after the other: texts, errors, or responses.
function connections(...answers) {
  const seen = [];
  const fetcher = async (url, init) => {
    seen.push(init.headers);
    const answer = answers.shift();
    if (answer instanceof Error) throw answer;
    return answer instanceof Response ? answer : new Response(answer);
  };
  return { fetcher, seen };
}

const noPause = { pause: async () => {} };

test("a connection that breaks is taken up where it was", async () => {
  const { fetcher, seen } = connections(
    'id: s-1\ndata: {"n":1}\n\nid: s-2\ndata: {"n":2}\n\nid: s-3\ndata: {"n":',
    new TypeError("failed to fetch"),
    new Response("bad gateway", { status: 502 }),
    'id: s-3\ndata: {"n":3}\n\n',
    'id: s-4\ndata: [DONE]\n\n',
  );
  const told = [], waits = [];
  const found = await collect(fetcher, { broken: (is) => told.push(is), pause: async (ms) => waits.push(ms) });
  assert.deepEqual(found, [{ n: 1 }, { n: 2 }, { n: 3 }]);
  assert.deepEqual(seen.map((one) => one["last-event-id"]), [undefined, "s-2", "s-2", "s-2", "s-3"]);
  assert.deepEqual(seen.map((one) => one["x-prelude-resume"]), ["1", undefined, undefined, undefined, undefined]);
  assert.deepEqual(told, [true, true, true, false, true, false]);
  assert.deepEqual(waits, [0, 500, 1000, 0]);
});

test("what cannot be taken up ends with the reason", async () => {
  const once = 'id: s-1\ndata: {"n":1}\n\n';
  const lost = new Response(JSON.stringify({ error: { message: "gone", code: "stream_not_found" } }), { status: 404 });
  await assert.rejects(collect(connections(once, lost).fetcher, noPause), { code: "stream_not_found", status: 404 });
  const never = connections(once, ...Array.from({ length: 9 }, () => new TypeError("failed")));
  await assert.rejects(collect(never.fetcher, noPause), { code: "unreachable" });
  assert.equal(never.seen.length, 8);
  const plain = connections('data: {"n":1}\n\n', once);
  await assert.rejects(collect(plain.fetcher, noPause), { code: "cut" });
  assert.equal(plain.seen.length, 1, "without ids there is nothing to come back to");
});

test("who stops ends the answer at the server, once", async () => {
  for (const [text, isTold] of [['id: s-1\ndata: {"n":1}\n\n', true], ['data: {"n":1}\n\n', false]]) {
    const aborter = new AbortController();
    const body = new ReadableStream({
      start(controller) {
        controller.enqueue(new TextEncoder().encode(text));
        aborter.signal.addEventListener("abort", () => controller.error(aborter.signal.reason));
      },
    });
    const { fetcher, seen } = connections(new Response(body), new Response(null, { status: 204 }));
    const reading = chunks({}, { key: "k", fetcher, signal: aborter.signal });
    await reading.next();
    aborter.abort();
    await assert.rejects(reading.next(), { name: "AbortError" });
    const told = { "last-event-id": "s-1", "x-prelude-resume": "0", authorization: "Bearer k" };
    assert.deepEqual(seen.slice(1), isTold ? [told] : []);
  }
});

test("who stops while it waits to come back is not kept waiting", async () => {
  const aborter = new AbortController();
  const { fetcher, seen } = connections('id: s-1\ndata: {"n":1}\n\n', new TypeError("failed"), new Response(null));
  const all = collect(fetcher, { signal: aborter.signal, broken: () => seen.length === 2 && queueMicrotask(() => aborter.abort()) });
  await assert.rejects(all, { name: "AbortError" });
  assert.equal(seen.at(-1)["x-prelude-resume"], "0");
});

test("the key is sent, and nothing without one", async () => {
  const seen = [];
  const fetcher = async (url, { headers }) => { seen.push(headers.authorization); return new Response("data: [DONE]\n\n"); };
  await collect(fetcher, { key: "sk-1" });
  await collect(fetcher);
  assert.deepEqual(seen, ["Bearer sk-1", undefined]);
});
