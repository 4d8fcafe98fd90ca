// Elements, made of nodes: no text ever becomes markup.

export const $ = (id) => document.getElementById(id);

// h("a", { class: "plain", href: "/" }, "text", node, ...): what is null or false is left out.
export function h(tag, props = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(props)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (name === "value") made.value = value;
    else made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children.flat().filter((child) => child || child === ""));
  return made;
}

export const button = (text, onclick, props = {}) =>
  h("button", { type: "button", class: "plain", onclick, ...props }, text);

// Text is only touched where it changed, so that a selection survives.
export function say(target, text) {
  if (target.textContent !== text) target.textContent = text;
}

// The clipboard needs a secure context; a page on plain HTTP copies through a selection.
export async function copyText(text) {
  if (navigator.clipboard) return navigator.clipboard.writeText(text);
  const held = h("textarea", { class: "unseen", value: text, readonly: true });
  const before = document.activeElement;
  (document.querySelector("dialog[open]") ?? document.body).append(held);
  held.select();
  const done = document.execCommand("copy");
  held.remove();
  before?.focus();
  if (!done) throw new Error("the browser does not let pages copy");
}

export function copyButton(text, label = "Copy", props = {}) {
  const made = button(label, async () => {
    try {
      await copyText(text());
      made.textContent = "Copied";
    } catch {
      made.textContent = "Not allowed";
    }
    setTimeout(() => { made.textContent = label; }, 1500);
  }, props);
  return made;
}
