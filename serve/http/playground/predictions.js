const RENDERERS = {
  "text-classification": showLabels, "token-classification": showEntities, "question-answering": showAnswer,
  "regression": showNumbers,
};

function show(input, response, body, latency) {
  const card = predictionCard(input, response, latency);
  const shown = info.fields.length ? body : {...body, inputs: {audio: "\u2026"}};
  card.append(details("Use this request", ...snippets(shown)));
  const raw = "POST /predict\n" + JSON.stringify(shown, null, 1) + "\n\n" + JSON.stringify(response, null, 1);
  card.append(details("Request and response", createElement("pre", {textContent: raw, tabIndex: 0})));
  $("output").replaceChildren(card);
  announce(summaryOf(response.predictions[0]) + ", " + milliseconds(latency));
}

/* Show what another variant answered beside what is shown already. */
function showBeside(input, response, latency) {
  const card = predictionCard(input, response, latency);
  for (const each of card.querySelectorAll("[id]")) each.removeAttribute("id");
  $("output").append(card);
  announce(response.model.variant + ": " + summaryOf(response.predictions[0]) + ", " + milliseconds(latency));
}

function predictionCard(input, response, latency) {
  const prediction = response.predictions[0];
  const card = createElement("section", {className: "card", attributes: {"aria-label": "Prediction of " + response.model.variant}});
  const render = RENDERERS[info.task] || (info.streams ? showText : showJson);
  render(card, prediction, input);
  const first = Array.isArray(prediction) ? prediction[0] : prediction;
  const note = first && first.truncated ? " \u00b7 the input was longer than the model's maximum and was truncated" : "";
  const figures = [milliseconds(latency) + " round trip", "answered by " + response.model.variant];
  card.append(createElement("p", {className: "figures", id: "latency", textContent: figures.join(" \u00b7 ") + note}));
  return card;
}

const milliseconds = (latency) => latency.toFixed(latency < 100 ? 1 : 0) + " ms";
const details = (title, ...content) => createElement("details", {}, createElement("summary", {textContent: title}), ...content);

/* The prediction in a few words, for screen readers. */
function summaryOf(prediction) {
  const items = [].concat(prediction);
  if (info.task === "token-classification") return items.length === 1 ? "1 entity" : items.length + " entities";
  const best = items[0] || {};
  if (typeof best.label === "string") return best.label + ", " + percent(best.score);
  if (typeof best.answer === "string") return (best.answer || "No answer") + ", " + percent(best.score);
  return typeof best.text === "string" ? best.text : "Done";
}

function showJson(card, prediction) {
  card.append(createElement("h2", {textContent: "Prediction"}), createElement("pre", {textContent: JSON.stringify(prediction, null, 1), tabIndex: 0}));
}

function bar(title, share, text) {
  const fill = createElement("div", {className: "fill"});
  fill.style.width = (100 * Math.max(0, Math.min(1, share))).toFixed(1) + "%";
  return [
    createElement("div", {className: "line"}, createElement("span", {textContent: title}), createElement("span", {textContent: text})),
    createElement("div", {className: "track", attributes: {"aria-hidden": "true"}}, fill),
  ];
}

function showLabels(card, labels, input) {
  const list = createElement("ol", {className: "bars"});
  const words = createElement("div", {className: "section"});
  const explained = labels.filter((each) => each.explanation);
  labels.forEach((each, index) => {
    const item = createElement("li", {className: index ? "" : "best"});
    const shown = bar(each.label, each.score, percent(each.score));
    item.append(...(each.explanation ? [createElement("button", {type: "button"}, ...shown)] : shown));
    list.append(item);
  });
  card.append(createElement("h2", {textContent: "Probabilities"}), list);
  choose([...list.querySelectorAll("button")], explained, (each) => showWords(words, input, each, each.label));
  if (explained.length) card.append(words);
}

/* Let each button show the item of the same number, the first one at once. */
function choose(buttons, items, display) {
  const press = (index) => {
    buttons.forEach((each, at) => each.setAttribute("aria-pressed", String(at === index)));
    display(items[index]);
  };
  buttons.forEach((button, index) => { button.onclick = () => press(index); });
  if (items.length) press(0);
}

/* Show the explanations that a prediction of any task has: one, or one for each of its parts. */
function showExplanations(card, prediction, input, nameOf) {
  const explained = [].concat(prediction).filter((each) => each && each.explanation);
  if (!explained.length) return;
  const words = createElement("div", {className: "section"});
  const buttons = explained.length > 1 ? explained.map((each) => createElement("button", {type: "button", textContent: nameOf(each)})) : [];
  if (buttons.length) card.append(createElement("div", {className: "section choices", attributes: {role: "group", "aria-label": "Explain"}}, ...buttons));
  card.append(words);
  choose(buttons, explained, (each) => showWords(words, input, each, nameOf(each)));
}

function showWords(place, input, explained, name) {
  const largest = Math.max(1e-9, ...explained.explanation.map((each) => Math.abs(each.score)));
  const texts = typeof input === "string" ? [["text", input]] : Object.entries(input);
  place.replaceChildren(createElement("h2", {textContent: "Effect of each word on \u201c" + name + "\u201d"}));
  for (const [field, text] of texts) {
    const parts = explained.explanation.filter((each) => !each.field || each.field === field);
    place.append(inPlace(text, parts, (each, word) => {
      const span = createElement("span", {className: "word", textContent: word, title: signed(each.score)});
      span.style.background = "rgba(var(--" + (each.score < 0 ? "against" : "for") + "), calc(var(--most) * " + (Math.abs(each.score) / largest).toFixed(3) + "))";
      return span;
    }));
  }
  place.append(legend());
  const body = [...explained.explanation].sort((a, b) => Math.abs(b.score) - Math.abs(a.score)).slice(0, MAX_ITEMS)
    .map((each) => createElement("tr", {}, createElement("td", {textContent: each.text}), createElement("td", {textContent: signed(each.score)})));
  const head = createElement("tr", {}, createElement("th", {textContent: "Word"}), createElement("th", {textContent: "Effect"}));
  place.append(createElement("details", {}, createElement("summary", {textContent: "As a table"}), createElement("table", {}, head, ...body)));
}

function legend() {
  const swatch = (name) => {
    const each = createElement("span", {className: "swatch"});
    each.style.background = "rgba(var(--" + name + "), var(--most))";
    return each;
  };
  return createElement("p", {className: "legend"}, swatch("for"), "speaks for it \u2002 ", swatch("against"), "speaks against it");
}

/* Show a text with some of its parts, which do not overlap, replaced by elements. */
function inPlace(text, parts, element) {
  const all = characters(text);
  const prose = createElement("p", {className: "prose"});
  let at = 0;
  for (const part of [...parts].sort((a, b) => a.start - b.start)) {
    if (part.start < at) continue;
    prose.append(all.slice(at, part.start).join(""), element(part, all.slice(part.start, part.end).join("")));
    at = part.end;
  }
  prose.append(all.slice(at).join(""));
  return prose;
}

function showEntities(card, entities, input) {
  const kinds = [...new Set(info.labels.filter((each) => each !== "O").map((each) => each.replace(/^[BIES]-/, "")))];
  card.append(createElement("h2", {textContent: entities.length === 1 ? "1 entity" : entities.length + " entities"}));
  card.append(inPlace(input, entities, (each, word) => {
    const mark = createElement("mark", {title: each.entity + ", " + percent(each.score)}, word, createElement("span", {className: "kind", textContent: each.entity}));
    mark.style.setProperty("--hue", hue(Math.max(0, kinds.indexOf(each.entity))));
    return mark;
  }));
  showExplanations(card, entities, input, (each) => each.entity + ": " + each.text);
}

function showAnswer(card, answers, input) {
  const best = answers[0];
  card.append(createElement("h2", {textContent: "Answer"}));
  card.append(createElement("p", {className: "found", id: "answer", textContent: best.answer || "No answer in this context"}));
  card.append(createElement("p", {className: "figures", textContent: percent(best.score)}));
  const section = createElement("div", {className: "section"}, createElement("h2", {textContent: "In its context"}));
  section.append(inPlace(input.context, best.answer ? [best] : [], (each, words) => createElement("mark", {textContent: words, title: percent(each.score)})));
  card.append(section);
  if (answers.length > 1) {
    const list = createElement("ol", {className: "bars"});
    for (const each of answers.slice(1)) list.append(createElement("li", {}, ...bar(each.answer || "No answer", each.score, percent(each.score))));
    card.append(createElement("div", {className: "section"}, createElement("h2", {textContent: "Also possible"}), list));
  }
  showExplanations(card, answers, input, (each) => each.answer || "no answer");
}

function showNumbers(card, prediction, input) {
  const scores = [].concat(prediction.score);
  card.append(createElement("h2", {textContent: "Score"}));
  scores.forEach((score, index) => {
    const name = scores.length > 1 ? (info.labels[index] || "target " + (index + 1)) + ": " : "";
    card.append(createElement("p", {className: "number", textContent: name + score.toFixed(3)}));
  });
  showExplanations(card, prediction, input, () => "the score");
}

function showText(card, prediction, input) {
  card.append(createElement("h2", {textContent: "Text"}), createElement("p", {className: "prose plain", id: "generated", textContent: prediction.text}));
  if (prediction.finish_reason === "length") card.append(createElement("p", {className: "legend", textContent: "The maximum of new tokens was reached."}));
  showExplanations(card, prediction, input, () => "the text");
}
