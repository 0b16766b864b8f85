const $ = (id) => document.getElementById(id);

function createElement(tag, properties = {}, ...children) {
  const {attributes = {}, ...rest} = properties;
  const element = Object.assign(document.createElement(tag), rest);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

/* The service counts characters (code points), JavaScript counts UTF-16 units. */
const characters = (text) => Array.from(text);
const percent = (score) => (100 * score).toFixed(1) + " %";
const signed = (score) => (score < 0 ? "\u2212" : "+") + Math.abs(score).toFixed(3);
const hue = (index) => Math.round(205 + index * 137.5) % 360;

/* Input field: its label and the rows of its text area. */
const FIELDS = {
  text: ["Text", 5], text_pair: ["Second text", 3], question: ["Question", 1], context: ["Context", 7],
};
const MAX_ITEMS = 10;
/* The answer of GET /info. */
let info = null;

function buildForm() {
  for (const name of info.fields) {
    const [title, rows] = FIELDS[name] || [name, 5];
    const box = createElement("textarea", {id: name, name, rows, required: name === "question"});
    $("fields").append(createElement("label", {htmlFor: name, textContent: title}), box);
  }
  if (!info.fields.length) {
    const file = createElement("input", {id: "audio", type: "file", accept: ".wav,.flac,audio/wav,audio/flac", required: true});
    $("fields").append(createElement("label", {htmlFor: "audio", textContent: "Recording (WAV or FLAC)"}), file);
  }
  if (info.parameters.includes("explain")) {
    const box = createElement("input", {id: "explain", type: "checkbox"});
    $("options").append(createElement("label", {className: "check"}, box, "Explain: the effect of each word"));
  }
  if (info.has_chat_template) {
    const box = createElement("input", {id: "chat", type: "checkbox", checked: true});
    $("options").append(createElement("label", {className: "check"}, box, "Send as a message of a chat"));
  }
  if (info.is_chat) {
    number("max_new_tokens", "Maximum of new tokens", {min: 1, step: 1, value: Math.min(64, info.max_new_tokens || 64)});
    if (info.parameters.includes("stream")) {
      const box = createElement("input", {id: "stream", type: "checkbox", checked: true});
      $("options").append(createElement("label", {className: "check"}, box, "Stream the text"));
    }
    number("temperature", "Temperature (0: the likeliest token)", {min: 0, max: 10, step: "any", value: 0});
  }
  if (info.variants.length) {
    const choices = ["", ...info.variants].map((name) => createElement("option", {value: name, textContent: name || "no other variant"}));
    const box = createElement("select", {id: "variant"}, ...choices);
    $("options").append(createElement("div", {}, createElement("label", {htmlFor: "variant", textContent: "Compare with"}), box));
  }
  for (const [index, example] of info.examples.entries()) {
    const fill = createElement("button", {type: "button", textContent: titleOf(example, index)});
    fill.onclick = async () => {
      fillIn(example);
      await run();
      $("output").scrollIntoView({block: "nearest"});
    };
    $("examples").lastElementChild.append(createElement("li", {}, fill));
  }
  $("examples").hidden = !info.examples.length;
}

/* An example is an input of POST /predict: texts by field, a chat of one message, or a recording. */
const textsOf = (example) => example.messages ? {text: example.messages[0].content} : example;
const shorten = (text) => text.length > 60 ? text.slice(0, 59) + "\u2026" : text;
const titleOf = (example, index) => example.audio ? "Recording " + (index + 1) : Object.values(textsOf(example)).map(shorten).join(" \u00b7 ");

/* Put an example into the form; fields that it lacks become empty. */
function fillIn(example) {
  if (example.audio) return chooseFile(Uint8Array.from(atob(example.audio), (character) => character.charCodeAt(0)));
  if ($("chat")) $("chat").checked = Boolean(example.messages);
  for (const name of info.fields) $(name).value = textsOf(example)[name] || "";
}

/* A script may set the files of an input to those of a transfer that it made. */
function chooseFile(bytes) {
  const transfer = new DataTransfer();
  transfer.items.add(new File([bytes], "recording"));
  $("audio").files = transfer.files;
}

function number(id, title, limits) {
  const input = createElement("input", {id, type: "number", ...limits});
  $("options").append(createElement("div", {}, createElement("label", {htmlFor: id, textContent: title}), input));
}

function readInput() {
  const values = Object.fromEntries(info.fields.map((name) => [name, $(name).value]));
  if ($("chat") && $("chat").checked) return {messages: [{role: "user", content: values.text}]};
  return info.fields.length === 1 && "text" in values ? values.text : values;
}

function readParameters() {
  const parameters = {};
  if (info.task === "text-classification") parameters.top_k = Math.min(MAX_ITEMS, info.labels.length);
  if (info.task === "question-answering") parameters.top_k = 3;
  if ($("explain") && $("explain").checked) parameters.explain = true;
  if (info.is_chat) {
    if ($("stream") && $("stream").checked) parameters.stream = true;
    if ($("max_new_tokens").value) parameters.max_new_tokens = Number($("max_new_tokens").value);
    if (Number($("temperature").value)) parameters.temperature = Number($("temperature").value);
  }
  return parameters;
}

async function readFile(file) {
  const bytes = new Uint8Array(await file.arrayBuffer());
  let binary = "";
  for (let at = 0; at < bytes.length; at += 32768) binary += String.fromCharCode(...bytes.subarray(at, at + 32768));
  return {audio: btoa(binary)};
}

async function send(path, body) {
  const headers = body ? {"Content-Type": "application/json"} : {};
  if ($("key").value) headers.Authorization = "Bearer " + $("key").value;
  const response = await fetch(path, {method: body ? "POST" : "GET", headers, body: body && JSON.stringify(body)});
  if (response.ok) return response;
  if (response.status === 401) $("key-field").hidden = false;
  let content = null;
  try { content = await response.json(); } catch { /* no JSON: the status is shown */ }
  throw toError(content, response.status);
}

function toError(content, status) {
  const error = content && content.error;
  return new Error(error ? error.message + ": " + error.remedy : "The service answered with status " + status);
}

const requestJson = async (path, body) => (await send(path, body)).json();

/* Read server-sent events, call `onText` with each piece of text, and return the content that a response without
   stream would have. */
async function readStream(body, onText) {
  const reader = (await send("predict", body)).body.pipeThrough(new TextDecoderStream()).getReader();
  let buffer = "";
  for (;;) {
    const {done, value} = await reader.read();
    if (done) throw new Error("The connection closed before the end of the text");
    buffer += value;
    for (let end; (end = buffer.indexOf("\n\n")) >= 0; buffer = buffer.slice(end + 2)) {
      const event = JSON.parse(buffer.slice("data: ".length, end));
      if (event.error) throw toError(event, 200);
      if (event.prediction) return {predictions: [event.prediction], model: event.model};
      onText(event.delta);
    }
  }
}

async function streamText(body) {
  const prose = createElement("p", {className: "prose plain"});
  $("output").replaceChildren(createElement("section", {className: "card"}, createElement("h2", {textContent: "Text"}), prose));
  return readStream(body, (delta) => prose.append(delta));
}

function announce(text) {
  $("status").textContent = text;
}

function showError(error) {
  announce("");
  $("output").replaceChildren(createElement("div", {className: "card error", textContent: error.message, attributes: {role: "alert"}}));
}

async function run() {
  $("run").disabled = true;
  announce("Running \u2026");
  try {
    if (!info) await loadInfo();
    const input = info.fields.length ? readInput() : await readFile($("audio").files[0]);
    const body = {inputs: input, parameters: readParameters()};
    const started = performance.now();
    const response = await (body.parameters.stream ? streamText(body) : requestJson("predict", body));
    show(input, response, body, performance.now() - started);
    if ($("variant") && $("variant").value) await compare($("variant").value, input, body);
  } catch (error) {
    showError(error);
  }
  $("run").disabled = false;
}

const openVariants = new Set();

/* Let another variant answer, too. Its first request opens it, which is not what is to be timed. */
async function compare(variant, input, body) {
  const {stream, ...parameters} = body.parameters;
  const ask = () => requestJson("variants/" + encodeURIComponent(variant) + "/predict", {...body, parameters});
  if (!openVariants.has(variant)) {
    announce("Opening " + variant + " \u2026");
    await ask();
    openVariants.add(variant);
  }
  const started = performance.now();
  const response = await ask();
  showBeside(input, response, performance.now() - started);
}

async function loadInfo() {
  info = await requestJson("info");
  document.title = info.name + " \u00b7 playground";
  $("name").textContent = info.name;
  $("facts").textContent = [info.task, "variant " + info.variant, "version " + info.version].join(" \u00b7 ");
  buildForm();
}

function setUpTheme() {
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const isDark = () => (document.documentElement.dataset.theme || (dark.matches ? "dark" : "light")) === "dark";
  const name = () => { $("theme").textContent = isDark() ? "Light" : "Dark"; };
  $("theme").onclick = () => { document.documentElement.dataset.theme = isDark() ? "light" : "dark"; name(); };
  dark.addEventListener("change", name);
  name();
}

/* /?text=…&explain=1&run=1 fills in the form and runs it; example=1 takes the first example, theme=dark sets the colours,
   examples=0 hides the examples, tab=card shows the model card. */
function fillFromQuery() {
  const query = new URLSearchParams(location.search);
  const example = info.examples[Number(query.get("example")) - 1];
  if (example) fillIn(example);
  if (query.get("examples") === "0") $("examples").hidden = true;
  for (const [name, value] of query) {
    const field = $("form").elements.namedItem(name) || $(name);
    if (!field || name === "key" || !$("form").contains(field)) continue;
    if (field.type === "checkbox") field.checked = value === "1";
    else if (field.type !== "file") field.value = value;
  }
  if (query.get("run") === "1") run();
}
