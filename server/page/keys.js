// The page's buttons and keys. Enter sends, Shift and Enter begins a line, Escape stops, / writes.

import { chat } from "./chat.js";
import { $, h } from "./dom.js";

const prompt = $("prompt");
const NARROW = matchMedia("(max-width: 60rem)");

function grow() {
  prompt.style.height = "auto";
  prompt.style.height = `${prompt.scrollHeight + 2}px`;
}

$("form").addEventListener("submit", (event) => {
  event.preventDefault();
  if (chat.running.size) return chat.stop();
  const text = prompt.value.trim();
  if (!text) return;
  prompt.value = "";
  grow();
  chat.ask(text);
});

prompt.addEventListener("input", grow);
prompt.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    if (!chat.running.size) $("form").requestSubmit();
  }
  if (event.key === "ArrowUp" && !prompt.value && !chat.running.size) {
    const last = [...document.querySelectorAll("[data-edit]")].at(-1);
    if (last) { event.preventDefault(); last.click(); }
  }
});

document.addEventListener("keydown", (event) => {
  if ($("code").open || event.isComposing) return;
  const isWriting = event.target.closest("input, textarea, select");
  if (event.key === "/" && !isWriting && !event.ctrlKey && !event.metaKey && !event.altKey) {
    event.preventDefault();
    prompt.focus();
  }
  if (event.key !== "Escape") return;
  if (chat.running.size) chat.stop();
  else if (!$("panel").hidden && NARROW.matches) closePanel();
});

function closePanel() {
  chat.showPanel(false);
  $("settings").focus();
}

$("settings").addEventListener("click", () => {
  chat.showPanel($("panel").hidden);
  if (!$("panel").hidden && NARROW.matches) $("panel-close").focus();
});
$("panel-close").addEventListener("click", closePanel);
$("compare").addEventListener("click", () => {
  chat.compare(!chat.view.compare);
  if (chat.view.compare && !NARROW.matches) chat.showPanel(true);
});
$("fresh").addEventListener("click", () => chat.fresh());
$("back").addEventListener("click", () => chat.back());
$("unlock").addEventListener("click", () => chat.openKey());
addEventListener("pagehide", () => {
  chat.store.keepTalk(chat.talk);
  chat.stop();
});

const TRIES = ["What can you do?", "How many r are in strawberry?", "What is 47 + 38?"];
$("tries").append(...TRIES.map((text) => h("button", { type: "button", class: "try", onclick: () => chat.ask(text) }, text)));

chat.showPanel(chat.view.panel ?? matchMedia("(min-width: 72rem)").matches);
if (!matchMedia("(pointer: coarse)").matches) prompt.focus();
