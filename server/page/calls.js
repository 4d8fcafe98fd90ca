// A call of a tool: its name, its arguments, and a place for what it gave.

import { h } from "./dom.js";

export function callElement({ name, arguments: text }, n, isOpen) {
  return h("figure", { class: "code call" },
    h("figcaption", {}, h("span", {}, `Calls ${name || "a tool"}`)),
    h("pre", { tabindex: "0" }, h("code", {}, pretty(text))),
    isOpen && h("textarea", { rows: "2", "aria-label": `Result of call ${n + 1}, ${name}`, placeholder: "What the tool gave" }));
}

export function resultElement({ text }) {
  return h("figure", { class: "code" }, h("figcaption", {}, h("span", {}, "Result")), h("pre", {}, h("code", {}, text)));
}

function pretty(text) {
  try {
    return JSON.stringify(JSON.parse(text), null, 2);
  } catch {
    return text; // not complete, or not JSON: as the model wrote it
  }
}
