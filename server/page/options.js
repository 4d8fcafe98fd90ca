// The settings: what each is called, which values it takes, and the request that they make.
// What was never set is left to the server and its model.

const number = (name, label, rest) => ({ name, label, kind: "number", ...rest });

export const GROUPS = [
  {
    title: "Prompt",
    fields: [{ name: "system", label: "System prompt", kind: "text", rows: 3, placeholder: "None" }],
  },
  {
    title: "Sampling",
    fields: [
      number("temperature", "Temperature", { min: 0, max: 2, step: 0.05, slider: 1,
        hint: "0 takes the likeliest token; more is more surprising" }),
      number("top_p", "Top p", { min: 0, max: 1, step: 0.01, slider: 1,
        hint: "Only the likeliest tokens that add up to this probability" }),
      number("min_p", "Min p", { min: 0, max: 1, step: 0.01, slider: 0,
        hint: "Only tokens at least this likely, next to the likeliest" }),
      number("top_k", "Top k", { min: 0, step: 1, hint: "Only so many of the likeliest tokens" }),
      number("seed", "Seed", { step: 1, placeholder: "Random",
        hint: "The same seed and settings give the same answer" }),
    ],
  },
  {
    title: "Length",
    fields: [
      number("max_tokens", "Longest answer", { min: 1, step: 1, placeholder: "What fits", hint: "Tokens" }),
      { name: "stop", label: "Stop at", kind: "text", rows: 2, placeholder: "One per line",
        hint: "One text per line; \\n is a new line" },
    ],
  },
  {
    title: "Repetition",
    closed: true,
    fields: [
      number("presence_penalty", "Presence penalty", { min: -2, max: 2, step: 0.1, slider: 0 }),
      number("frequency_penalty", "Frequency penalty", { min: -2, max: 2, step: 0.1, slider: 0 }),
      number("repetition_penalty", "Repetition penalty", { min: 0.5, max: 2, step: 0.05, slider: 1 }),
    ],
  },
  {
    title: "Thinking and scheduling",
    closed: true,
    fields: [
      { name: "reasoning_effort", label: "Reasoning effort", kind: "choice",
        values: [["", "Default"], "none", "minimal", "low", "medium", "high"] },
      { name: "service_class", label: "Service class", kind: "choice",
        values: [["", "By its length"], "fast", "deep", "doc", "batch"],
        hint: "A wish; fast has to be earned" },
    ],
  },
  {
    title: "Form of the answer",
    closed: true,
    fields: [
      { name: "format", label: "Answer as", kind: "choice",
        values: [["", "Text"], ["json_object", "Any JSON object"], ["json_schema", "JSON of this schema"]] },
      { name: "schema", label: "JSON schema", kind: "text", rows: 6, code: true, when: ["format", "json_schema"],
        placeholder: '{"type": "object", "properties": {…}}' },
      { name: "tools", label: "Tools", kind: "text", rows: 4, code: true,
        placeholder: '[{"type": "function", "function": {…}}]', hint: "A JSON list, as the API takes it" },
      { name: "extra", label: "Other fields", kind: "text", rows: 2, code: true,
        placeholder: '{"min_tokens": 10}', hint: "A JSON object, added to the request" },
    ],
  },
  {
    title: "Insight",
    fields: [
      { name: "logprobs", label: "Token probabilities", kind: "switch",
        hint: "Colours every token by how likely it was, with what else it could have been" },
    ],
  },
];

export const FIELDS = GROUPS.flatMap((group) => group.fields);
export const TOP_LOGPROBS = 5;

// What is wrong with a setting before the server has seen it.
export class FieldError extends Error {
  constructor(field, message) {
    super(message);
    this.field = field;
  }
}

const labelOf = (name) => FIELDS.find((field) => field.name === name).label;

function parsed(settings, name, isRight, what) {
  const text = (settings[name] ?? "").trim();
  if (!text) return null;
  let value;
  try {
    value = JSON.parse(text);
  } catch (error) {
    throw new FieldError(name, `${labelOf(name)} is not valid JSON: ${error.message}`);
  }
  if (!isRight(value)) throw new FieldError(name, `${labelOf(name)} must be ${what}`);
  return value;
}

const isObject = (value) => value !== null && typeof value === "object" && !Array.isArray(value);

function numbers(settings) {
  const found = {};
  for (const { name, kind, label } of FIELDS) {
    const text = kind === "number" ? String(settings[name] ?? "").trim() : "";
    if (!text) continue;
    found[name] = Number(text);
    if (!Number.isFinite(found[name])) throw new FieldError(name, `${label} must be a number`);
  }
  return found;
}

function formatOf(settings) {
  if (settings.format === "json_object") return { type: "json_object" };
  if (settings.format !== "json_schema") return null;
  const schema = parsed(settings, "schema", isObject, "a JSON object");
  if (!schema) throw new FieldError("schema", "JSON schema is empty: write one, or answer as any JSON object");
  return { type: "json_schema", json_schema: { name: "answer", schema, strict: true } };
}

// The fields of a request beside its messages. Throws FieldError.
export function requestFields(settings, model) {
  const fields = { ...(model ? { model } : {}), ...numbers(settings) };
  const stops = (settings.stop ?? "").split("\n").filter(Boolean);
  if (stops.length) fields.stop = stops.map((one) => one.replaceAll("\\n", "\n").replaceAll("\\t", "\t"));
  for (const name of ["reasoning_effort", "service_class"]) {
    if (settings[name]) fields[name] = settings[name];
  }
  const format = formatOf(settings), tools = parsed(settings, "tools", Array.isArray, "a JSON list");
  if (format) fields.response_format = format;
  if (tools?.length) fields.tools = tools;
  if (settings.logprobs) Object.assign(fields, { logprobs: true, top_logprobs: TOP_LOGPROBS });
  const { messages, stream, stream_options, ...extra } = parsed(settings, "extra", isObject, "a JSON object") ?? {};
  return { ...fields, ...extra };
}

export function withSystem(settings, messages) {
  const system = (settings.system ?? "").trim();
  return system ? [{ role: "system", content: system }, ...messages] : messages;
}

// The setting that a field of the API, as an error names it, is set by; null where none is.
export function settingOf(param) {
  const name = (param ?? "").split(".")[0];
  const other = { response_format: "schema", top_logprobs: "logprobs", reasoning: "reasoning_effort" }[name];
  return other ?? (FIELDS.some((field) => field.name === name) ? name : null);
}

// "temperature 0.2, seed 7": what is set, in a few words.
export function summary(settings) {
  const words = FIELDS.filter(({ name }) => settings[name]).map(({ name, label, kind }) => {
    const value = kind === "number" || kind === "choice" ? ` ${settings[name]}` : "";
    return label.toLowerCase() + value;
  });
  return words.join(", ");
}
