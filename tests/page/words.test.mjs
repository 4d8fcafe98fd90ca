// Settings to requests, requests to code, errors and numbers to words, tokens to colours.

import assert from "node:assert/strict";
import { test } from "node:test";

import { curl, python } from "./page/code.js";
import { FIELDS, FieldError, requestFields, settingOf, summary, withSystem } from "./page/options.js";
import { readinessOf } from "./page/status.js";
import { choicesOf, levelOf, named, percent } from "./page/tokens.js";
import { duration, explain, factsOf } from "./page/words.js";

test("what is not set is not sent", () => {
  assert.deepEqual(requestFields({}, "m"), { model: "m" });
  assert.deepEqual(requestFields({ temperature: "", stop: "", extra: " ", logprobs: false }, ""), {});
});

test("every setting becomes its field", () => {
  const numbers = FIELDS.filter((field) => field.kind === "number").map((field) => field.name);
  const settings = {
    ...Object.fromEntries(numbers.map((name) => [name, "1"])),
    stop: "END\n\\n\\nHuman:", reasoning_effort: "low", service_class: "batch", logprobs: true,
    format: "json_schema", schema: '{"type":"object"}', tools: '[{"type":"function"}]', extra: '{"min_tokens":4}',
  };
  const fields = requestFields(settings, "m");
  for (const name of numbers) assert.equal(fields[name], 1);
  assert.deepEqual(fields.stop, ["END", "\n\nHuman:"]);
  assert.deepEqual(fields.response_format.json_schema.schema, { type: "object" });
  assert.deepEqual([fields.tools.length, fields.min_tokens, fields.top_logprobs], [1, 4, 5]);
  assert.deepEqual([fields.reasoning_effort, fields.service_class, fields.logprobs], ["low", "batch", true]);
});

test("other fields come last, but the page streams its own messages", () => {
  const extra = '{"temperature": 0.5, "messages": [], "stream": false, "stream_options": null}';
  assert.deepEqual(requestFields({ temperature: "1", extra }, ""), { temperature: 0.5 });
});

for (const [settings, field, words] of [
  [{ tools: "{" }, "tools", /not valid JSON/],
  [{ tools: "{}" }, "tools", /a JSON list/],
  [{ extra: "[]" }, "extra", /a JSON object/],
  [{ format: "json_schema" }, "schema", /empty/],
  [{ temperature: "warm" }, "temperature", /a number/],
]) {
  test(`a bad ${field} is named before it is sent: ${JSON.stringify(settings)}`, () => {
    assert.throws(() => requestFields(settings, ""), (error) => {
      assert.ok(error instanceof FieldError && words.test(error.message));
      assert.deepEqual([explain(error).action, explain(error).field], ["field", field]);
      return true;
    });
  });
}

test("the system prompt comes first, and blanks are none", () => {
  assert.equal(withSystem({ system: " Be brief. " }, [{ role: "user" }])[0].content, "Be brief.");
  assert.equal(withSystem({ system: "  " }, [{ role: "user" }]).length, 1);
});

test("settings in a few words", () => {
  assert.equal(summary({}), "");
  assert.equal(summary({ temperature: "0.2", seed: "7", system: "x" }), "system prompt, temperature 0.2, seed 7");
});

test("fields of the API are found among the settings", () => {
  assert.equal(settingOf("temperature"), "temperature");
  assert.equal(settingOf("response_format.json_schema"), "schema");
  assert.equal(settingOf("messages"), null);
  assert.equal(settingOf(undefined), null);
});

const refusal = (fields) => Object.assign(new Error(fields.message ?? "x"), { status: 0, ...fields });

for (const [fields, title, action] of [
  [{ code: "unreachable" }, /does not answer/, "retry"],
  [{ code: "cut" }, /broke/, "retry"],
  [{ status: 401 }, /API key/, "key"],
  [{ status: 403 }, /may not/, "key"],
  [{ status: 429, retryS: 3 }, /too much|limit/, "retry"],
  [{ status: 503, code: "engine_dead" }, /engine/, "retry"],
  [{ status: 200, code: "engine_restarted" }, /broke off/, "retry"],
  [{ status: 200, code: "deadline_expired" }, /deadline/, "retry"],
  [{ status: 503, code: "shutdown" }, /shutting down/, "retry"],
  [{ status: 400, code: "context_length_exceeded", param: "messages" }, /too long/, null],
  [{ status: 400, param: "top_p" }, /setting/, "field"],
  [{ status: 400, param: "messages" }, /refused/, null],
  [{ status: 500 }, /server/, "retry"],
  [{}, /page/, "retry"],
]) {
  test(`an error in words: ${JSON.stringify(fields)}`, () => {
    const found = explain(refusal(fields));
    assert.match(found.title, title);
    assert.equal(found.action, action);
    assert.equal(found.retryS ?? null, fields.retryS ?? null);
  });
}

test("the server's words are kept as a sentence", () => {
  assert.equal(explain(refusal({ status: 429, message: "try later" })).text, "Try later.");
});

test("numbers below an answer", () => {
  const timings = { service_class: "fast", ttft_ms: 41.2, tokens_per_second: 52.14, queue_ms: 0.51, predicted_tokens: 120.4, total_ms: 2345 };
  const usage = { prompt_tokens: 9, completion_tokens: 8, prompt_tokens_details: { cached_tokens: 4 }, completion_tokens_details: { reasoning_tokens: 1 } };
  const facts = factsOf({ timings, usage, finish: "length", state: "done" });
  assert.deepEqual(facts.map((fact) => fact.text), [
    "fast", "first token 41 ms", "52 tokens/s", "8 tokens", "queued 0.5 ms", "foreseen 120", "in all 2.3 s", "cut off at the limit",
  ]);
  assert.equal(facts[3].title, "Of output, 1 of them thoughts. The prompt had 9, 4 of them from the cache.");
  const few = factsOf({ timings, usage: { ...usage, completion_tokens: 1 }, finish: "stop", state: "done" });
  assert.deepEqual(few.slice(1, 3).map((fact) => fact.text), ["first token 41 ms", "1 token"]);
  assert.deepEqual(factsOf({ timings: null, usage: null, finish: null, state: "stopped" }).map((fact) => fact.text), ["stopped"]);
});

test("durations", () => {
  assert.deepEqual([0.44, 9.96, 999.6, 9949, 9951, 59499, 59500, 125000].map(duration),
    ["0.4 ms", "10 ms", "1.0 s", "9.9 s", "10 s", "59 s", "1 min 0 s", "2 min 5 s"]);
});

test("what the server is doing", () => {
  assert.deepEqual(readinessOf({ status: "ready" }), { kind: "ready", text: "", share: null });
  assert.deepEqual(readinessOf({ status: "starting", phase: "loading weights", fraction: 0.256 }),
    { kind: "starting", text: "The engine is starting: loading weights, 26 %", share: 0.256 });
  const again = readinessOf({ status: "restarting", phase: "p", fraction: 0, last_death: { message: "signal 9" } });
  assert.match(again.text, /again \(signal 9\): p, 0 %/);
  assert.equal(readinessOf({ status: "draining", open: 2 }).kind, "draining");
  assert.match(readinessOf({ status: "dead", error: "boom" }).text, /boom/);
});

test("code carries the request, and never the key", () => {
  const body = { model: "m", messages: [{ role: "user", content: "it's \"so\"\n\u{1F642}" }], top_k: 4, temperature: 0.5, logprobs: true };
  const shell = curl(body, "http://h:1", true);
  assert.match(shell, /curl -N http:\/\/h:1\/v1\/chat\/completions/);
  assert.match(shell, /"Authorization: Bearer \$PRELUDE_API_KEY"/);
  assert.ok(shell.includes("it'\\''s"));
  const code = python(body, "http://h:1", false);
  assert.match(code, /temperature=0.5,\n/);
  assert.match(code, /logprobs=True,\n/);
  assert.match(code, /extra_body=\{"top_k": 4\},\n/);
  assert.match(code, /api_key="none"/);
  assert.match(python(body, "", true), /os\.environ\["PRELUDE_API_KEY"\]/);
});

test("tokens: levels, percents, names, and the chosen among its alternatives", () => {
  assert.deepEqual([1, 0.9, 0.89, 0.3, 0.1, 0.05].map(levelOf), ["sure", "sure", "likely", "open", "doubtful", "unlikely"]);
  assert.deepEqual([1, 0.5, 0.005, 0.00001, 0].map(percent), ["100 %", "50.0 %", "0.50 %", "< 0.01 %", "0 %"]);
  assert.deepEqual([" a\n", ""].map(named), ["␣a↵", "(empty)"]);
  const chosen = choicesOf(["b", Math.log(0.2), [["a", Math.log(0.7)], ["b", Math.log(0.2)]]]);
  assert.deepEqual(chosen.map((one) => [one.text, one.chosen]), [["a", false], ["b", true]]);
  const outside = choicesOf(["z", Math.log(0.01), [["a", Math.log(0.7)]]]);
  assert.deepEqual(outside.map((one) => [one.text, one.chosen]), [["a", false], ["z", true]]);
});
