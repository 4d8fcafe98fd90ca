// The live view: /live/events into charts, a table and a few numbers.

import { Chart, Cursor, nice } from "/page/charts.js";

const $ = (id) => document.getElementById(id);
const CLASSES = ["fast", "deep", "doc", "batch"];
const KEPT_S = 190;
const SILENCE_MS = 6000;

let points = []; // {time, p50, max, budget, output, prompt, kv, running, waiting}
let snapshot = null;
let paused = false;
let held = []; // what the charts show while paused

function pointOf([time, p50, max, budget, output, prompt, kv, running, waiting]) {
  return { time, p50, max, budget, output, prompt, kv, running, waiting };
}

// Numbers

const sum = (values) => values.reduce((a, b) => a + b, 0);
const count = (value) => Math.round(value).toLocaleString("en").replaceAll(",", "\u202f");
const percent = (share) => `${(100 * share).toFixed(share > 0 && share < 0.1 ? 1 : 0)} %`;

function short(ms) {
  if (ms === null) return "–";
  if (ms >= 9995) return `${(ms / 1e3).toFixed(1)} s`;
  if (ms >= 999.5) return `${(ms / 1e3).toFixed(2)} s`;
  return `${ms.toFixed(ms < 9.95 ? 1 : 0)} ms`;
}

function age(seconds) {
  if (seconds < 90) return `${Math.round(seconds)} s`;
  if (seconds < 5400) return `${Math.round(seconds / 60)} min`;
  return seconds < 129600 ? `${(seconds / 3600).toFixed(1)} h` : `${(seconds / 86400).toFixed(1)} days`;
}

// Elements, made of nodes

function element(tag, className, text) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
}

// Text is only touched where it changed, so that a selection survives.
function say(target, text) {
  if (target.textContent !== text) target.textContent = text;
}

// entries: [key class or "", name, value]
function legend(target, entries) {
  target.replaceChildren(...entries.map(([key, name, value]) => {
    const item = element("span", key ? `key ${key}` : "", `${name} `);
    item.append(element("b", "", value));
    return item;
  }));
}

// Charts

const high = (value, least) => nice(Math.max(value, least));

function paintSteps(chart, points) {
  const all = points.flatMap((p) => [p.max, p.p50, p.budget]).filter((v) => v !== null && v > 0);
  const top = nice(Math.max(...all, 10) * 1.2), floor = Math.min(...all, 1);
  const low = 10 ** Math.floor(Math.log10(Math.max(floor, 0.1)));
  chart.log(low, top);
  for (let at = low; at <= top; at *= 10) chart.line(chart.y(at), at < 1e3 ? `${at} ms` : `${at / 1e3} s`);
  chart.fill(points, (p) => p.p50, (p) => p.max, "fast", 0.16);
  chart.stroke(points, (p) => p.max, "fast", { width: 0.75 });
  chart.stroke(points, (p) => p.p50, "fast", { width: 2 });
  chart.stroke(points, (p) => p.budget, "ink", { dash: [5, 4], width: 1 });
  chart.drawLabels();
}

function paintLoad(chart, points) {
  const most = (of) => Math.max(...points.map((p) => sum(of(p))));
  const up = Math.max(most((p) => p.running) * 1.1, 4), down = most((p) => p.waiting) * 1.1;
  chart.linear(-Math.max(down, up * 0.2), Math.max(up, down * 0.2));
  const step = Math.max(nice(26 / (chart.y(0) - chart.y(1))), 1);
  for (let at = step; at <= up; at += step) chart.line(chart.y(at), count(at));
  for (let at = step; at <= down; at += step) chart.line(chart.y(-at), count(at));
  CLASSES.forEach((name, n) => {
    const below = (of) => (p) => sum(of(p).slice(0, n)), upTo = (of) => (p) => sum(of(p).slice(0, n + 1));
    const running = (p) => p.running, waiting = (p) => p.waiting;
    chart.fill(points, below(running), upTo(running), name, 0.9);
    chart.fill(points, (p) => -below(waiting)(p), (p) => -upTo(waiting)(p), name, 0.45);
  });
  chart.stroke(points, () => 0, "ink", { width: 1 });
  chart.drawLabels();
}

function paintTokens(chart, points) {
  const top = high(Math.max(...points.flatMap((p) => [p.output, p.prompt])) * 1.05, 10);
  chart.linear(0, top);
  for (const share of [0.5, 1]) chart.line(chart.y(top * share), count(top * share));
  chart.fill(points, () => 0, (p) => p.output, "fast", 0.16);
  chart.stroke(points, (p) => p.prompt, "deep", { width: 1 });
  chart.stroke(points, (p) => p.output, "fast", { width: 2 });
  chart.drawLabels();
}

const charts = [
  new Chart($("steps"), paintSteps),
  new Chart($("load"), paintLoad),
  new Chart($("tokens"), paintTokens),
];
const cursor = new Cursor(charts, () => shown(), () => redraw());
const shown = () => (paused ? held : points);

function legends(point, at) {
  const load = CLASSES.map((name, n) => [name, name, `${point.running[n]}/${point.waiting[n]}`]);
  legend($("steps-legend"), [
    ...at, ["fast", "median", short(point.p50)], ["", "longest", short(point.max)],
    ["dash ink", "budget", short(point.budget)],
  ]);
  legend($("load-legend"), [...at, ...load]);
  legend($("tokens-legend"), [
    ...at, ["fast", "out", count(point.output)], ["deep", "in", count(point.prompt)],
  ]);
}

let drawing = 0;
function redraw() {
  drawing ||= requestAnimationFrame(() => {
    drawing = 0;
    const all = shown();
    if (!all.length) return;
    const chosen = cursor.find(all);
    for (const chart of charts) chart.draw(all, chosen);
    const ago = chosen && all.at(-1).time - chosen.time;
    legends(chosen ?? all.at(-1), chosen ? [["", "", `${age(ago)} ago`]] : []);
  });
}
for (const chart of charts) chart.onResize = redraw;
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);

// Table, bars, numbers

const pair = (quantiles) => [short(quantiles[1]), short(quantiles[2])];
const ROWS = [
  ["Waiting", (c) => count(c.waiting)],
  ["Running", (c) => count(c.running)],
  ["Parked", (c) => count(c.parked)],
  ["KV blocks", (c) => count(c.blocks), "rule"],
  ["First token, p50", (c) => pair(c.ttft)[0]],
  ["First token, p99", (c) => pair(c.ttft)[1], "rule"],
  ["Inter-token, p50", (c) => pair(c.itl)[0]],
  ["Inter-token, p99", (c) => pair(c.itl)[1], "rule"],
  ["Whole request, p50", (c) => pair(c.e2e)[0]],
  ["Whole request, p99", (c) => pair(c.e2e)[1]],
  ["Requests ended", (c) => count(c.e2e[0])],
];

const cells = ROWS.map(([name, , rule]) => {
  const row = element("tr", rule), head = element("th", "", name);
  head.scope = "row";
  const found = CLASSES.map(() => element("td"));
  row.append(head, ...found);
  $("rows").append(row);
  return found;
});
for (const name of CLASSES) {
  const head = element("th", `key ${name}`, name);
  head.scope = "col";
  $("names").append(head);
}

function showClasses(classes) {
  ROWS.forEach(([, value], row) => {
    classes.forEach((one, column) => {
      const text = value(one), cell = cells[row][column];
      say(cell, text);
      cell.classList.toggle("none", text === "–" || text === "0");
    });
  });
}

const widen = (id, share) => { $(id).style.width = `${(100 * share).toFixed(2)}%`; };

function showKv({ used, cached, total, block_size }) {
  const share = (part) => (total ? part / total : 0);
  say($("kv-total"), total ? `${count(total)} blocks of ${block_size} tokens` : "");
  widen("kv-used", share(used));
  widen("kv-cached", share(cached));
  legend($("kv-legend"), [
    ["fast", "in use", percent(share(used))],
    ["cached", "cached prefixes", percent(share(cached))],
    ["pale", "free", percent(share(total - used - cached))],
  ]);
}

function showPrograms({ ready, total, missed }, { steps }) {
  say($("programs-total"), total ? `${count(ready)} of ${count(total)} compiled` : "none wanted");
  widen("programs-ready", total ? ready / total : 0);
  legend($("programs-legend"), [
    ["", "steps that found theirs", steps ? percent(Math.max(1 - missed / steps, 0)) : "–"],
    ["", "launches that did not", count(missed)],
  ]);
}

function showTotals({ totals, steps }) {
  const found = totals.prompt_tokens ? totals.cached_prompt_tokens / totals.prompt_tokens : 0;
  const entries = [
    ["Steps", count(totals.steps)],
    ["Over budget", steps.count ? percent(steps.over / steps.count) : "–"],
    ["Prompt tokens", count(totals.prompt_tokens)],
    ["from the cache", percent(found)],
    ["Output tokens", count(totals.output_tokens)],
    ["wasted", count(totals.wasted_tokens)],
    ["Refused", count(totals.refused)],
    ["Expired", count(totals.expired)],
    ["Preemptions", count(totals.preemptions)],
    ["Parked", count(totals.parks)],
    ["Host time", short(steps.overhead_ms)],
    ["Price error", percent(steps.price_error)],
  ];
  $("totals").replaceChildren(...entries.map(([name, value]) => {
    const item = element("div");
    item.append(element("dt", "", name), element("dd", "", value));
    return item;
  }));
}

function figure(id, value, unit = "") {
  const target = $(id);
  if (target.dataset.shown === value + unit) return;
  target.dataset.shown = value + unit;
  target.replaceChildren(value);
  if (unit) target.append(" ", element("small", "", unit));
}

function showFigures({ point, max_seqs, classes, steps }) {
  const { output, running, waiting, budget } = pointOf(point);
  const parked = sum(classes.map((one) => one.parked));
  figure("rate", count(output));
  figure("running", count(sum(running)), max_seqs ? `of ${max_seqs}` : "");
  figure("waiting", count(sum(waiting)), parked ? `and ${parked} parked` : "");
  figure("ttft", short(classes[0].ttft[2]));
  figure("itl", short(classes[0].itl[2]));
  figure("step", short(steps.p99_ms), budget ? `of ${short(budget)}` : "");
  $("step").classList.toggle("over", budget !== null && steps.p99_ms > budget);
}

const STATES = {
  ready: "Ready",
  starting: "Starting",
  restarting: "Starting again",
  draining: "Ending",
  dead: "The engine is gone",
};

function showState(state, text) {
  $("state").dataset.state = state;
  $("view").classList.toggle("stale", state === "lost" || state === "dead");
  say($("said"), text);
}

function show() {
  const { state, note, model, point, open_requests } = snapshot;
  const what = note || `${count(open_requests)} requests open, up ${age(point[0])}`;
  showState(state, `${STATES[state]}: ${what}`);
  say($("model"), model);
  if (paused) return;
  showFigures(snapshot);
  showClasses(snapshot.classes);
  showKv(snapshot.kv);
  showPrograms(snapshot.programs, snapshot.totals);
  showTotals(snapshot);
  redraw();
}

// The stream: closed while nobody looks, opened again until it works.

let source = null, silence = 0, retry = 0, wait_ms = 500;

function connect() {
  clearTimeout(retry);
  source?.close();
  source = new EventSource("/live/events");
  listen();
  source.addEventListener("history", (event) => { points = JSON.parse(event.data).map(pointOf); });
  source.addEventListener("snapshot", (event) => {
    wait_ms = 500;
    listen();
    snapshot = JSON.parse(event.data);
    points.push(pointOf(snapshot.point));
    while (points.length && points[0].time < points.at(-1).time - KEPT_S) points.shift();
    show();
  });
  source.addEventListener("error", lost);
}

function listen() {
  clearTimeout(silence);
  silence = setTimeout(lost, SILENCE_MS);
}

async function lost() {
  disconnect();
  retry = setTimeout(connect, wait_ms);
  wait_ms = Math.min(wait_ms * 2, 5000);
  const answer = await fetch("/health/live").catch(() => null);
  if (source) return;
  showState("lost", answer ? "The server ends, or too many watch it. Trying again." : "The server does not answer. Trying again.");
}

function disconnect() {
  clearTimeout(silence);
  clearTimeout(retry);
  source?.close();
  source = null;
}

document.addEventListener("visibilitychange", () => (document.hidden ? disconnect() : connect()));

function pause() {
  paused = !paused;
  held = points.slice();
  $("pause").setAttribute("aria-pressed", String(paused));
  say($("pause"), paused ? "Go on" : "Pause");
  if (snapshot) show();
}

$("pause").addEventListener("click", pause);
document.addEventListener("keydown", (event) => {
  if (event.key === "p" && !event.ctrlKey && !event.metaKey && !event.altKey) pause();
});

connect();
