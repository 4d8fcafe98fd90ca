// The chat page: a conversation kept in this browser, answers streamed from /v1/chat/completions.

import { applyChunk, LANES, newAnswer, partsOf } from "./answer.js";
import { CodeView } from "./code_view.js";
import { $, say } from "./dom.js";
import { Frame } from "./frame.js";
import { requestFields, withSystem } from "./options.js";
import { Panel } from "./panel.js";
import { Status } from "./status.js";
import { Store } from "./store.js";
import { chunks } from "./stream.js";
import { addTurn, emptyTalk, messagesFor, rewrite } from "./talk.js";
import { TurnView } from "./turn_view.js";
import { explain } from "./words.js";

const LABELS = { a: "A", b: "B" };
const STARTING = new Set(["starting", "engine_restarted"]); // errors that end by themselves

// Where fingers point, the focus would bring up a keyboard that nobody asked for.
function focusPrompt() {
  if (!matchMedia("(pointer: coarse)").matches) $("prompt").focus();
}

class Chat {
  constructor() {
    this.store = new Store();
    this.talk = this.store.talk;
    this.view = this.store.view;
    this.turns = [];
    this.running = new Map(); // AbortController by lane
    this.frame = new Frame();
    this.code = new CodeView();
    this.status = new Status((state) => this.showStatus(state), () => this.store.key);
    this.panel = new Panel(this.store, {
      keyed: () => this.status.check(),
    });
    this.compare(this.view.compare);
    this.rebuild();
    this.frame.toEnd();
    this.status.check();
  }

  get lanes() { return this.view.compare ? LANES : ["a"]; }

  // Asking

  ask(text) { this.begin(addTurn(this.talk, { text }), this.lanes); }

  begin(index, lanes) {
    this.addView(index);
    this.showTurn(index - 1);
    this.answer(index, lanes);
  }

  rewrite(index, text) {
    this.stop();
    rewrite(this.talk, index, { text });
    this.rebuild();
    this.answer(index, this.lanes);
  }

  async answer(index, lanes) {
    const { talk } = this, turn = talk.turns[index];
    for (const lane of lanes) turn.answers[lane] = newAnswer();
    this.showTurn(index);
    this.frame.toEnd();
    focusPrompt();
    this.store.keepTalk(talk);
    await Promise.all(lanes.map((lane) => this.stream(talk, index, lane)));
  }

  // One answer, from the request to its end, whatever that is.
  async stream(talk, index, lane) {
    const answer = talk.turns[index].answers[lane], aborter = new AbortController();
    const isShown = () => this.talk === talk && talk.turns[index]?.answers[lane] === answer;
    const update = () => isShown() && this.turns[index].views[lane]?.update();
    this.running.get(lane)?.abort();
    this.running.set(lane, aborter);
    this.showBusy();
    try {
      await this.receive(talk, index, lane, answer, aborter.signal, () => this.frame.soon(answer, update));
      answer.state = "done";
    } catch (error) {
      answer.state = aborter.signal.aborted ? "stopped" : "failed";
      if (!aborter.signal.aborted) this.failed(answer, error);
    } finally {
      if (this.running.get(lane) === aborter) this.running.delete(lane);
      this.showBusy();
      this.frame.now(answer, update);
      if (isShown()) this.ended(answer, lane);
    }
  }

  async receive(talk, index, lane, answer, signal, changed) {
    const settings = { ...this.panel.of(lane) };
    answer.settings = this.panel.summary(lane);
    answer.system = settings.system;
    if (!this.status.isReady && !this.status.isLocked) await this.wait(answer, signal, changed);
    const broken = (isBroken) => {
      answer.note = isBroken ? "The connection broke. Coming back for the rest…" : "";
      changed();
    };
    for (let left = 2; ; left -= 1) {
      answer.request = requestFields(settings, this.status.model);
      const messages = withSystem(settings, messagesFor(talk, index, lane));
      const body = { ...answer.request, messages, stream: true, stream_options: { include_usage: true } };
      try {
        for await (const chunk of chunks(body, { key: this.store.key, signal, broken })) {
          applyChunk(answer, chunk);
          changed();
        }
        return;
      } catch (error) {
        if (!left || answer.state !== "waiting" || !STARTING.has(error.code)) throw error;
        await this.wait(answer, signal, changed);
      }
    }
  }

  // A question that comes before the engine is ready goes out when it is.
  async wait(answer, signal, changed) {
    answer.note = "Goes out as soon as the server is ready.";
    changed();
    await this.status.untilReady(signal);
    answer.note = "";
    changed();
  }

  failed(answer, error) {
    answer.error = explain(error);
    if ([0, 401, 503].includes(error.status) || STARTING.has(error.code)) this.status.check();
    if (!("status" in error || "field" in error)) console.error(error);
  }

  // Kept, and read out once: while it grows nobody could listen to it.
  ended(answer, lane) {
    this.store.keepTalk(this.talk);
    if (answer.state === "failed") return;
    const whose = this.view.compare ? `Answer ${LABELS[lane]}` : "Answer";
    say($("said"), `${whose}${answer.state === "stopped" ? ", stopped" : ""}: ${partsOf(answer).text}`);
  }

  stop() {
    for (const aborter of this.running.values()) aborter.abort();
  }

  sendResults(lane, results) {
    this.begin(addTurn(this.talk, { results, lane }), [lane]);
  }

  showCode(index, lane) {
    const { request, system } = this.talk.turns[index].answers[lane];
    const messages = withSystem({ system }, messagesFor(this.talk, index, lane));
    const { model, ...rest } = request;
    this.code.open({ model, messages, ...rest }, Boolean(this.store.key));
  }

  // Showing

  addView(index) {
    this.turns[index] = new TurnView(this.talk.turns[index], {
      again: (lane) => this.answer(index, [lane]),
      code: (lane) => this.showCode(index, lane),
      sendResults: (lane, results) => this.sendResults(lane, results),
      rewrite: (text) => this.rewrite(index, text),
      openKey: () => this.openKey(),
      openField: (lane, field) => { this.showPanel(true); this.panel.focus(field, lane); },
    });
    $("turns").append(this.turns[index].root);
    $("empty").hidden = true;
  }

  showTurn(index) {
    this.turns[index]?.showLanes(this.lanes, {
      isLast: index === this.talk.turns.length - 1,
      labels: this.view.compare ? LABELS : { a: "" },
    });
  }

  rebuild() {
    this.turns = [];
    $("turns").replaceChildren();
    this.talk.turns.forEach((_, index) => this.addView(index));
    this.talk.turns.forEach((_, index) => this.showTurn(index));
    $("empty").hidden = this.talk.turns.length > 0;
    $("back").hidden = !this.store.hasLast;
  }

  compare(isOn) {
    this.view.compare = isOn;
    document.body.classList.toggle("comparing", isOn);
    $("compare").setAttribute("aria-pressed", String(isOn));
    this.panel.compare(isOn);
    this.store.view = this.view;
    this.talk.turns.forEach((_, index) => this.showTurn(index));
  }

  fresh() {
    this.stop();
    this.store.keepTalk(this.talk);
    this.store.shelve();
    this.talk = emptyTalk();
    this.rebuild();
    focusPrompt();
  }

  back() {
    this.talk = this.store.unshelve();
    this.rebuild();
    this.frame.toEnd();
    focusPrompt();
  }

  showBusy() {
    const isBusy = this.running.size > 0;
    $("send").textContent = isBusy ? "Stop" : "Send";
    $("send").classList.toggle("stop", isBusy);
  }

  showPanel(isOpen) {
    $("panel").hidden = !isOpen;
    $("settings").setAttribute("aria-expanded", String(isOpen));
    this.view.panel = isOpen;
    this.store.view = this.view;
  }

  openKey() {
    this.showPanel(true);
    $("key").focus();
  }

  showStatus({ kind, text, share }) {
    $("state").hidden = kind === "ready";
    $("state").dataset.kind = kind;
    say($("state-text"), text);
    $("progress").hidden = share === null;
    $("progress").value = share ?? 0;
    $("unlock").hidden = kind !== "locked";
    if (this.status.model) say($("model"), this.status.model);
  }
}

export const chat = new Chat();
