// Answers put together from chunks, and the conversation that is made of them.

import assert from "node:assert/strict";
import { test } from "node:test";

import { applyChunk, messageOf, newAnswer, partsOf } from "./page/answer.js";
import { Store } from "./page/store.js";
import { addTurn, emptyTalk, messagesFor, rewrite } from "./page/talk.js";

const delta = (fields, rest = {}) => ({ id: "x", choices: [{ index: 0, delta: fields, finish_reason: null, ...rest }] });

function answered(...parts) {
  const answer = newAnswer();
  for (const part of parts) applyChunk(answer, part);
  answer.state = "done";
  return answer;
}
const said = (content) => answered(delta({ content }));

test("text, thoughts, the end and the numbers", () => {
  const answer = newAnswer();
  applyChunk(answer, delta({ role: "assistant", content: "" }));
  assert.equal(answer.state, "waiting");
  applyChunk(answer, delta({ reasoning_content: "hm" }));
  assert.deepEqual(partsOf(answer), { thought: "hm", text: "", thinking: true });
  applyChunk(answer, delta({ content: "Hel" }));
  applyChunk(answer, delta({ content: "lo" }, { finish_reason: "stop" }));
  applyChunk(answer, { choices: [], usage: { completion_tokens: 3 }, timings: { ttft_ms: 1 } });
  assert.deepEqual(partsOf(answer), { thought: "hm", text: "Hello", thinking: false });
  assert.deepEqual([answer.finish, answer.usage.completion_tokens, answer.timings.ttft_ms], ["stop", 3, 1]);
  assert.deepEqual(messageOf(answer), { role: "assistant", content: "Hello" });
});

test("thoughts between marks, for models whose thoughts the server does not know", () => {
  const answer = answered(delta({ content: "<think>why" }));
  answer.state = "streaming";
  assert.deepEqual(partsOf(answer), { thought: "why", text: "", thinking: true });
  applyChunk(answer, delta({ content: "</think>\n\nso" }));
  assert.deepEqual(partsOf(answer), { thought: "why", text: "so", thinking: false });
  assert.equal(messageOf(answer).content, "so");
});

test("calls of tools come in pieces, several at once", () => {
  const call = (index, rest) => delta({ tool_calls: [{ index, ...rest }] });
  const answer = answered(
    call(0, { id: "c1", type: "function", function: { name: "now", arguments: "" } }),
    call(1, { id: "c2", type: "function", function: { name: "sum", arguments: '{"a"' } }),
    call(0, { function: { arguments: "{}" } }),
    call(1, { function: { arguments: ":1}" } }),
  );
  assert.deepEqual(answer.tools, [
    { id: "c1", name: "now", arguments: "{}" },
    { id: "c2", name: "sum", arguments: '{"a":1}' },
  ]);
  const { content, tool_calls: calls } = messageOf(answer);
  assert.equal(content, null);
  assert.deepEqual(calls[1], { id: "c2", type: "function", function: { name: "sum", arguments: '{"a":1}' } });
});

test("tokens with their alternatives; bytes where a token is no text", () => {
  const half = { token: "\ufffd", logprob: -1, bytes: [0xf0, 0x9f], top_logprobs: [] };
  const entry = { token: "a", logprob: -0.5, bytes: [97], top_logprobs: [{ token: "b", logprob: -2, bytes: [98] }] };
  const answer = answered(delta({ content: "a" }, { logprobs: { content: [entry, half] } }));
  assert.deepEqual(answer.tokens, [["a", -0.5, [["b", -2]]], ["\\xf0\\x9f", -1, []]]);
});

test("each lane goes on from its own answers, and from the other's where it has none", () => {
  const talk = emptyTalk();
  addTurn(talk, { text: "one" });
  talk.turns[0].answers = { a: said("A1") };
  addTurn(talk, { text: "two" });
  talk.turns[1].answers = { a: said("A2"), b: said("B2") };
  addTurn(talk, { text: "three" });
  const texts = (lane) => messagesFor(talk, 2, lane).map((message) => message.content);
  assert.deepEqual(texts("a"), ["one", "A1", "two", "A2", "three"]);
  assert.deepEqual(texts("b"), ["one", "A1", "two", "B2", "three"]);
});

test("a question that was never answered is not asked again", () => {
  const talk = emptyTalk();
  addTurn(talk, { text: "one" });
  talk.turns[0].answers.a = newAnswer();
  addTurn(talk, { text: "two" });
  assert.deepEqual(messagesFor(talk, 1, "a"), [{ role: "user", content: "two" }]);
});

test("results of tools follow their calls, in the lane that called", () => {
  const talk = emptyTalk();
  addTurn(talk, { text: "time?" });
  talk.turns[0].answers.a = answered(delta({ tool_calls: [{ index: 0, id: "c", function: { name: "now", arguments: "{}" } }] }));
  addTurn(talk, { results: [{ id: "c", text: "noon" }], lane: "a" });
  assert.deepEqual(messagesFor(talk, 1, "a").map((message) => message.role), ["user", "assistant", "tool"]);
  assert.deepEqual(messagesFor(talk, 1, "a").at(-1), { role: "tool", tool_call_id: "c", content: "noon" });
  talk.turns[1].answers.a = said("It is noon.");
  addTurn(talk, { text: "thanks" });
  assert.equal(messagesFor(talk, 2, "b").filter((message) => message.role === "tool").length, 0);
});

test("rewriting forgets what followed", () => {
  const talk = emptyTalk();
  for (const text of ["one", "two", "three"]) addTurn(talk, { text });
  assert.equal(rewrite(talk, 1, { text: "TWO" }), 1);
  assert.deepEqual(talk.turns.map((turn) => turn.question.text), ["one", "TWO"]);
});

class Storage {
  constructor(room = Infinity) { Object.assign(this, { room, items: new Map() }); }
  getItem(name) { return this.items.get(name) ?? null; }
  removeItem(name) { this.items.delete(name); }
  setItem(name, value) {
    if (value.length > this.room) throw new Error("QuotaExceededError");
    this.items.set(name, value);
  }
}

test("a conversation is found again; what was being written counts as stopped", () => {
  const storage = new Storage(), talk = emptyTalk();
  addTurn(talk, { text: "one" });
  talk.turns[0].answers.a = { ...newAnswer(), state: "streaming", content: "half" };
  new Store(storage, new Storage()).keepTalk(talk);
  const found = new Store(storage, new Storage()).talk;
  assert.deepEqual([found.turns[0].answers.a.state, found.turns[0].answers.a.content], ["stopped", "half"]);
});

test("without room the tokens go first, and then nothing breaks", () => {
  const talk = emptyTalk();
  addTurn(talk, { text: "one" });
  talk.turns[0].answers.a = { ...said("x"), tokens: Array.from({ length: 100 }, () => ["x", -1, []]) };
  const storage = new Storage(600);
  new Store(storage, new Storage()).keepTalk(talk);
  assert.deepEqual(new Store(storage, new Storage()).talk.turns[0].answers.a.tokens, []);
  new Store(new Storage(5), new Storage()).keepTalk(talk);
});

test("the conversation before can be had back; broken storage is an empty one", () => {
  const storage = new Storage(), store = new Store(storage, new Storage()), talk = emptyTalk();
  addTurn(talk, { text: "one" });
  store.keepTalk(talk);
  store.shelve();
  assert.deepEqual([store.talk.turns.length, store.hasLast], [0, true]);
  assert.equal(store.unshelve().turns[0].question.text, "one");
  assert.equal(store.hasLast, false);
  for (const bad of ["{", "null", "[]", '{"turns":3}']) {
    storage.setItem("prelude.talk", bad);
    assert.deepEqual(store.talk, emptyTalk());
  }
});

test("the key is kept apart, for the tab only", () => {
  const local = new Storage(), session = new Storage(), store = new Store(local, session);
  store.key = "sk-1";
  assert.deepEqual([store.key, local.items.size, session.items.size], ["sk-1", 0, 1]);
  store.key = "";
  assert.equal(session.items.size, 0);
});
