// One setting's control. What is empty is left to the server.

import { h } from "./dom.js";

// {root, show(value), focus()}; `changed(value)` is called with what was entered.
export function makeField(field, changed) {
  return MAKERS[field.kind](field, changed);
}

const MAKERS = { number: numberField, text: textField, choice: choiceField, switch: switchField };
const idOf = ({ name }) => `set-${name}`;

const labelled = (field, controls, wide) => h("div", { class: wide ? "field wide" : "field" },
  h("label", { for: idOf(field) }, field.label), controls, hintOf(field));
const hintOf = (field) => field.hint && h("p", { class: "hint", id: `${idOf(field)}-hint` }, field.hint);
const attributes = (field) => ({ id: idOf(field), "aria-describedby": field.hint ? `${idOf(field)}-hint` : null });

function numberField(field, changed) {
  const box = h("input", {
    ...attributes(field), type: "number", step: "any", min: field.min, max: field.max,
    inputmode: "decimal", placeholder: field.placeholder ?? "Default",
    oninput: () => { changed(box.value); showSlider(); },
  });
  const slider = field.slider === undefined ? null : h("input", {
    type: "range", min: field.min, max: field.max, step: field.step, "aria-label": field.label, tabindex: "-1",
    oninput: () => { box.value = slider.value; changed(box.value); showSlider(); },
  });
  function showSlider() {
    if (!slider) return;
    slider.value = box.value === "" ? field.slider : box.value;
    slider.classList.toggle("unset", box.value === "");
  }
  const root = labelled(field, slider ? h("div", { class: "slid" }, slider, box) : box, Boolean(slider));
  return { root, focus: () => box.focus(), show: (value) => { box.value = value ?? ""; showSlider(); } };
}

function textField(field, changed) {
  const box = h("textarea", {
    ...attributes(field), rows: field.rows, placeholder: field.placeholder, class: field.code ? "mono" : null,
    spellcheck: field.code ? "false" : null, oninput: () => changed(box.value),
  });
  return { root: labelled(field, box, true), focus: () => box.focus(), show: (value) => { box.value = value ?? ""; } };
}

function choiceField(field, changed) {
  const options = field.values.map((one) => (Array.isArray(one) ? one : [one, one]))
    .map(([value, text]) => h("option", { value }, text));
  const box = h("select", { ...attributes(field), onchange: () => changed(box.value) }, options);
  return { root: labelled(field, box), focus: () => box.focus(), show: (value) => { box.value = value ?? ""; } };
}

function switchField(field, changed) {
  const box = h("input", { ...attributes(field), type: "checkbox", onchange: () => changed(box.checked) });
  const root = h("div", { class: "field wide switch" },
    h("label", { for: idOf(field) }, box, field.label), hintOf(field));
  return { root, focus: () => box.focus(), show: (value) => { box.checked = Boolean(value); } };
}
