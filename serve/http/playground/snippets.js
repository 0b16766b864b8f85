/* The request at hand as commands and code. */
function snippets(body) {
  const url = location.origin;
  const quoted = (text) => "'" + text.replaceAll("'", "'\\''") + "'";
  const header = $("key").value ? " \\\n    --header \"Authorization: Bearer $KEY\"" : "";
  const curl = "curl " + url + "/predict" + header + " \\\n    --json " + quoted(JSON.stringify(body));
  const key = $("key").value ? ", api_key=\"KEY\"" : "";
  const {stream, ...parameters} = body.parameters;
  const given = toPython(body.inputs) + (Object.keys(parameters).length ? ", " + toPython(parameters) : "");
  const batch = "[" + toPython(body.inputs) + "]" + given.slice(toPython(body.inputs).length);
  const lines = stream
    ? "    for piece in client.stream(" + given + "):\n        print(piece, end=\"\", flush=True)\n"
    : "    print(client.predict(" + batch + ")[0])\n";
  const python = "import tuneport\n\nwith tuneport.Client(" + JSON.stringify(url) + key + ") as client:\n" + lines;
  return [snippet("curl", curl), snippet("Python", python)];
}

function snippet(title, text) {
  const copy = createElement("button", {type: "button", className: "copy", textContent: "Copy"}, createElement("span", {className: "hidden", textContent: " the " + title + " snippet"}));
  copy.onclick = async () => {
    await navigator.clipboard.writeText(text);
    announce(title + " snippet copied");
  };
  const place = createElement("div", {className: "snippet"}, createElement("h3", {textContent: title}), createElement("pre", {textContent: text, tabIndex: 0}));
  if (navigator.clipboard) place.append(copy);  // browsers have it on local and encrypted pages alone
  return place;
}

/* JSON as a literal of Python: a string of JSON is one, but for the names of constants. */
function toPython(value) {
  if (value === null) return "None";
  if (typeof value === "boolean") return value ? "True" : "False";
  if (Array.isArray(value)) return "[" + value.map(toPython).join(", ") + "]";
  if (typeof value !== "object") return JSON.stringify(value);
  return "{" + Object.entries(value).map(([name, each]) => JSON.stringify(name) + ": " + toPython(each)).join(", ") + "}";
}
