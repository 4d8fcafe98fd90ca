// The settings beside the conversation: one set, or two while they are compared.

import { LANES } from "./answer.js";
import { $, button, h } from "./dom.js";
import { makeField } from "./fields.js";
import { FIELDS, GROUPS, summary } from "./options.js";

export class Panel {
  // `keyed` is called when there is a new API key.
  constructor(store, { keyed }) {
    this.store = store;
    this.settings = store.settings;
    this.lane = "a";
    this.fields = new Map(FIELDS.map((field) => (
      [field.name, makeField(field, (value) => this.set(field, value))]
    )));
    this.groups = GROUPS.map((group) => h("details", { class: "group", open: !group.closed },
      h("summary", {}, group.title), h("div", { class: "fields" },
        group.fields.map(({ name }) => this.fields.get(name).root))));
    this.tabs = LANES.map((lane) => h("button", {
      type: "button", role: "tab", id: `tab-${lane}`, "aria-controls": "fields", onclick: () => this.choose(lane),
      onkeydown: (event) => this.turn(event),
    }, `Setting ${lane.toUpperCase()}`));
    this.bar = h("div", { class: "tabs", role: "tablist", "aria-label": "Which setting", hidden: true }, this.tabs);
    this.form = h("div", { id: "fields" }, this.groups);
    this.end = h("div", { class: "ends" },
      button("Reset", () => this.reset(), { title: "Leave everything to the server again" }));
    this.same = button("Same as A", () => this.copyA(), { hidden: true });
    this.end.append(this.same);
    $("panel-body").append(this.bar, this.form, this.end, keyField(store, keyed), themeField());
    this.show();
  }

  of(lane) { return this.settings[lane] ?? this.settings.a; }

  get current() { return this.settings[this.lane]; }

  compare(isOn) {
    if (isOn) this.settings.b ??= { ...this.settings.a };
    this.bar.hidden = !isOn;
    this.isComparing = isOn;
    this.choose(isOn ? "b" : "a");
  }

  choose(lane) {
    this.lane = lane;
    this.show();
  }

  turn(event) {
    if (event.key !== "ArrowLeft" && event.key !== "ArrowRight") return;
    this.choose(this.lane === "a" ? "b" : "a");
    this.tabs[LANES.indexOf(this.lane)].focus();
  }

  show() {
    LANES.forEach((lane, n) => {
      this.tabs[n].setAttribute("aria-selected", String(lane === this.lane));
      this.tabs[n].tabIndex = lane === this.lane ? 0 : -1;
    });
    const panel = { role: "tabpanel", "aria-labelledby": `tab-${this.lane}` };
    for (const [name, value] of Object.entries(panel)) {
      this.isComparing ? this.form.setAttribute(name, value) : this.form.removeAttribute(name);
    }
    this.same.hidden = this.lane === "a";
    for (const { name } of FIELDS) this.fields.get(name).show(this.current[name]);
    this.showWhen();
    this.store.settings = this.settings;
  }

  // Some only make sense beside the value of another.
  showWhen() {
    for (const { name, when } of FIELDS) {
      if (when) this.fields.get(name).root.hidden = this.current[when[0]] !== when[1];
    }
  }

  set({ name }, value) {
    if (value === "" || value === false) delete this.current[name];
    else this.current[name] = value;
    this.showWhen();
    this.store.settings = this.settings;
  }

  reset() {
    this.settings[this.lane] = {};
    this.show();
  }

  copyA() {
    this.settings.b = { ...this.settings.a };
    this.show();
  }

  summary(lane) { return summary(this.of(lane)) || "all left to the server"; }

  focus(name, lane = "a") {
    if (this.settings[lane]) this.choose(lane);
    const { root, focus } = this.fields.get(name);
    root.closest("details").open = true;
    focus();
  }
}

function keyField(store, keyed) {
  const box = h("input", {
    id: "key", type: "password", autocomplete: "off", spellcheck: "false", placeholder: "None",
    value: store.key, "aria-describedby": "key-hint",
    onchange: () => { store.key = box.value.trim(); keyed(); },
  });
  return h("div", { class: "field wide apart" }, h("label", { for: "key" }, "API key"), box,
    h("p", { class: "hint", id: "key-hint" }, "Kept until this tab is closed, and sent to this server only"));
}

function themeField() {
  const name = "prelude.theme", options = [["", "As the system"], ["light", "Light"], ["dark", "Dark"]];
  const box = h("select", {
    id: "theme",
    onchange: () => {
      box.value ? localStorage.setItem(name, box.value) : localStorage.removeItem(name);
      dispatchEvent(new Event("themechosen"));
    },
  }, options.map(([value, text]) => h("option", { value }, text)));
  box.value = localStorage.getItem(name) ?? "";
  return h("div", { class: "field wide" }, h("label", { for: "theme" }, "Appearance"), box);
}
