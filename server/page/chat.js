// The chat page: a conversation kept here, answers streamed from /v1/chat/completions.

const $ = (id) => document.getElementById(id);
const log = $("log");
let conversation = []; // {role, content}, as the API takes them
let running = null; // AbortController of the answer being written

// Settings live in this browser only; what was never set is left to the server.
const SETTINGS = { system: "", temperature: "", limit: "" };

function showSettings() {
  for (const id in SETTINGS) $(id).value = localStorage.getItem(id) ?? SETTINGS[id];
  showTemperature();
}

function showTemperature() {
  const value = localStorage.getItem("temperature");
  $("temperature-value").textContent = value === null ? "the model's own" : Number(value).toFixed(1);
}

for (const id in SETTINGS) {
  $(id).addEventListener("input", () => {
    localStorage.setItem(id, $(id).value);
    showTemperature();
  });
}

$("reset").addEventListener("click", () => {
  for (const id in SETTINGS) localStorage.removeItem(id);
  showSettings();
});

function requestBody() {
  const system = $("system").value.trim();
  const body = {
    messages: [...(system ? [{ role: "system", content: system }] : []), ...conversation],
    stream: true,
    stream_options: { include_usage: true },
  };
  const temperature = localStorage.getItem("temperature");
  if (temperature !== null) body.temperature = Number(temperature);
  if ($("limit").value) body.max_tokens = Number($("limit").value);
  return body;
}

// Yields the parsed events of a response; comments and the closing mark are skipped.
async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let buffer = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    buffer += value;
    const blocks = buffer.split("\n\n");
    buffer = blocks.pop();
    for (const block of blocks) {
      if (!block.startsWith("data: ")) continue;
      const data = block.slice(6);
      if (data !== "[DONE]") yield JSON.parse(data);
    }
  }
}

// "<think>why</think>what" as [why or null, what, whether the thought is still open]
function splitThought(text) {
  const opened = text.match(/^\s*<think>/);
  if (!opened) return [null, text, false];
  const rest = text.slice(opened[0].length);
  const end = rest.indexOf("</think>");
  return end < 0 ? [rest, "", true] : [rest.slice(0, end), rest.slice(end + 8), false];
}

function element(tag, className, parent) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  parent?.append(made);
  return made;
}

// Text with ``` fences as blocks of code. Built of nodes, never of markup from the model.
function showText(target, text) {
  target.replaceChildren();
  text.split(/^```[^\n]*\n?/m).forEach((piece, n) => {
    if (n % 2) element("code", "", element("pre", "", target)).textContent = piece.replace(/\n$/, "");
    else target.append(piece.replace(n ? /^\n+/ : /^$/, "").replace(/\n+$/, "\n"));
  });
}

class AnswerView {
  constructor() {
    this.root = element("article", "assistant busy", log);
    this.waiting = element("span", "waiting", this.root);
    this.text = element("div", "text", this.root);
    this.numbers = element("div", "numbers", this.root);
  }

  show(content) {
    this.waiting.remove();
    const [thought, answer, thinking] = splitThought(content);
    if (thought !== null && thought.trim()) this.showThought(thought.trim(), thinking);
    showText(this.text, answer.trimStart());
  }

  showThought(thought, thinking) {
    if (!this.details) {
      this.details = element("details");
      this.root.insertBefore(this.details, this.text);
      this.summary = element("summary", "", this.details);
      this.thought = element("div", "thought", this.details);
    }
    this.summary.textContent = thinking ? "Thinking…" : "Thoughts";
    this.thought.textContent = thought;
  }

  finish(usage, timings, note) {
    this.waiting.remove();
    this.root.classList.remove("busy");
    if (this.summary) this.summary.textContent = "Thoughts";
    const parts = [];
    if (usage) parts.push(`${usage.completion_tokens} tokens`);
    if (timings?.tokens_per_second) parts.push(`${timings.tokens_per_second.toFixed(1)} tokens/s`);
    if (timings?.ttft_ms) parts.push(`first token after ${timings.ttft_ms.toFixed(0)} ms`);
    if (note) parts.push(note);
    this.numbers.textContent = parts.join(" · ");
  }

  fail(message) {
    this.finish();
    this.numbers.textContent = message;
    this.numbers.classList.add("wrong");
  }
}

// Follow the answer only while the reader is at the end of it.
function following(change) {
  const atEnd = log.scrollHeight - log.scrollTop - log.clientHeight < 60;
  change();
  if (atEnd) log.scrollTop = log.scrollHeight;
}

async function answer() {
  const view = new AnswerView();
  const mine = conversation; // a new conversation may begin before this answer ends
  log.scrollTop = log.scrollHeight;
  let content = "", usage, timings, reason, painting = 0;
  const paint = () => { painting = 0; following(() => view.show(content)); };
  running = new AbortController();
  setBusy(true);
  try {
    const response = await fetch("/v1/chat/completions", {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: JSON.stringify(requestBody()),
      signal: running.signal,
    });
    if (!response.ok) throw new Error((await response.json()).error.message);
    for await (const event of events(response)) {
      if (event.error) throw new Error(event.error.message);
      const choice = event.choices[0];
      content += choice?.delta.content ?? "";
      reason = choice?.finish_reason ?? reason;
      usage = event.usage ?? usage;
      timings = event.timings ?? timings;
      if (choice?.delta.content) painting ||= requestAnimationFrame(paint);
    }
    following(() => { view.show(content); view.finish(usage, timings, reason === "length" && "cut off at the limit"); });
  } catch (error) {
    const aborted = error.name === "AbortError";
    following(() => { view.show(content); aborted ? view.finish(usage, timings, "stopped") : view.fail(error.message); });
  } finally {
    cancelAnimationFrame(painting);
    running = null;
    setBusy(false);
    const said = splitThought(content)[1].trim();
    if (said) mine.push({ role: "assistant", content: said });
    else mine.pop(); // an unanswered question would break the order of roles
  }
}

function setBusy(busy) {
  $("send").textContent = busy ? "Stop" : "Send";
  $("send").classList.toggle("stop", busy);
}

function grow() {
  $("prompt").style.height = "auto";
  $("prompt").style.height = `${$("prompt").scrollHeight + 2}px`;
}

$("form").addEventListener("submit", (event) => {
  event.preventDefault();
  if (running) return running.abort();
  const text = $("prompt").value.trim();
  if (!text) return;
  $("empty").hidden = true;
  element("div", "text", element("article", "user", log)).textContent = text;
  conversation.push({ role: "user", content: text });
  $("prompt").value = "";
  grow();
  answer();
});

$("prompt").addEventListener("input", grow);
$("prompt").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing && !running) {
    event.preventDefault();
    $("form").requestSubmit();
  }
});

$("settings").addEventListener("click", () => {
  const open = $("drawer").hidden;
  $("drawer").hidden = !open;
  $("settings").setAttribute("aria-expanded", String(open));
});

$("fresh").addEventListener("click", () => {
  running?.abort();
  conversation = [];
  log.querySelectorAll("article").forEach((article) => article.remove());
  $("empty").hidden = false;
  $("prompt").focus();
});

async function showState() {
  const response = await fetch("/health/ready").catch(() => null);
  const state = await response?.json();
  $("state").textContent =
    !state ? "The server does not answer."
    : state.status === "ready" ? ""
    : state.status === "starting" ? `Starting: ${state.phase}, ${Math.round(state.fraction * 100)} %`
    : `The engine is ${state.status}.`;
  if (state?.status === "starting") setTimeout(showState, 500);
}

async function showModel() {
  const response = await fetch("/v1/models");
  $("model").textContent = (await response.json()).data[0].id;
}

showSettings();
showState();
showModel();
$("prompt").focus();
