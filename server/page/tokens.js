// The tokens of an answer, coloured by how likely each was; what else it could have been stands
// beside the one under the pointer or the focus.

import { h } from "./dom.js";

const LEVELS = [[0.9, "sure"], [0.6, "likely"], [0.3, "open"], [0.1, "doubtful"], [0, "unlikely"]];

export const levelOf = (probability) => LEVELS.find(([least]) => probability >= least)[1];

// What the colours mean.
export function legend() {
  const bounds = LEVELS.map(([least, name], n) => (
    h("span", { class: `token ${name}` }, least ? `${least * 100} % and more` : `less than ${LEVELS[n - 1][0] * 100} %`)
  ));
  return h("p", { class: "scale", hidden: true }, "Probability: ", bounds);
}

export function percent(probability) {
  const value = probability * 100;
  if (value > 0 && value < 0.01) return "< 0.01 %";
  return `${value >= 99.95 || value === 0 ? value.toFixed(0) : value.toFixed(value < 1 ? 2 : 1)} %`;
}

// A token as it can be read by itself.
export function named(text) {
  if (text === "") return "(empty)";
  return text.replaceAll("\n", "↵").replaceAll("\t", "⇥").replaceAll(" ", "␣");
}

// The alternatives, the likeliest first, with the chosen one among them: {text, probability, chosen}.
export function choicesOf([text, logprob, others]) {
  const found = others.map(([other, score]) => ({ text: other, probability: Math.exp(score), chosen: false }));
  const mine = found.find((one, n) => one.text === text && others[n][1] === logprob);
  if (mine) mine.chosen = true;
  else found.push({ text, probability: Math.exp(logprob), chosen: true });
  return found.sort((one, other) => other.probability - one.probability);
}

export class TokenView {
  // `target` is filled as tokens come; `label` names it to screen readers.
  constructor(target, label) {
    this.target = target;
    this.tokens = [];
    target.setAttribute("role", "listbox");
    target.setAttribute("aria-orientation", "horizontal");
    target.setAttribute("aria-label", `${label}, token by token. Arrow keys read the probabilities.`);
    target.addEventListener("pointerover", ({ target: over }) => this.open(over));
    target.addEventListener("pointerleave", () => this.close());
    target.addEventListener("focusin", ({ target: over }) => this.open(over));
    target.addEventListener("focusout", () => this.close());
    target.addEventListener("keydown", (event) => this.move(event));
  }

  show(tokens) {
    this.tokens = tokens; // the same list, longer
    for (let n = this.target.children.length; n < tokens.length; n += 1) this.target.append(this.element(n));
  }

  element(n) {
    const [text, logprob] = this.tokens[n], probability = Math.exp(logprob);
    // a token that is nothing but a new line needs something to point at
    const shown = /^\n+$/.test(text) ? `↵${text}` : text;
    const made = h("span", {
      class: `token ${levelOf(probability)}`, role: "option", "aria-selected": "false", tabindex: n ? "-1" : "0", "data-n": n,
    }, shown);
    made.setAttribute("aria-label", `${named(text)}, ${percent(probability)}`);
    return made;
  }

  move(event) {
    const to = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: 10, ArrowUp: -10 }[event.key];
    const here = Number(event.target.dataset.n);
    if (to === undefined || Number.isNaN(here)) return;
    event.preventDefault();
    const all = this.target.children, next = all[Math.max(0, Math.min(here + to, all.length - 1))];
    event.target.tabIndex = -1;
    next.tabIndex = 0;
    next.focus();
  }

  open(over) {
    const n = Number(over.dataset?.n ?? NaN);
    if (Number.isNaN(n)) return;
    this.close();
    const rows = choicesOf(this.tokens[n]).map(choiceRow);
    const place = `Token ${n + 1} of ${this.tokens.length}`;
    tip().replaceChildren(h("p", {}, place), h("table", {}, h("tbody", {}, rows)));
    tip().hidden = false;
    over.setAttribute("aria-describedby", "tip");
    this.described = over;
    beside(tip(), over.getClientRects()[0] ?? over.getBoundingClientRect());
  }

  close() {
    tip().hidden = true;
    this.described?.removeAttribute("aria-describedby");
  }
}

const tip = () => document.getElementById("tip");

function choiceRow({ text, probability, chosen }) {
  const bar = h("i");
  bar.style.width = `${Math.max(probability * 100, 1)}%`;
  return h("tr", { class: chosen ? "chosen" : null },
    h("th", { scope: "row" }, named(text)), h("td", {}, percent(probability)), h("td", { class: "bar" }, bar));
}

function beside(box, { left, top, bottom }) {
  const width = box.offsetWidth, height = box.offsetHeight;
  box.style.left = `${Math.max(8, Math.min(left, innerWidth - width - 8))}px`;
  box.style.top = `${bottom + height + 12 < innerHeight ? bottom + 6 : Math.max(8, top - height - 6)}px`;
}
