/* The model card: tabs, and the part of Markdown that cards are written in. */
function setUpTabs() {
  const tabs = [$("try-tab"), $("card-tab")];
  const select = (tab) => {
    for (const each of tabs) {
      const isSelected = each === tab;
      each.setAttribute("aria-selected", String(isSelected));
      each.tabIndex = isSelected ? 0 : -1;
      $(each.getAttribute("aria-controls")).hidden = !isSelected;
    }
    if (tab === $("card-tab")) loadCard();
  };
  tabs.forEach((tab, index) => {
    tab.onclick = () => select(tab);
    tab.onkeydown = (event) => {
      const step = {ArrowRight: 1, ArrowLeft: -1}[event.key];
      const target = event.key === "Home" ? 0 : event.key === "End" ? tabs.length - 1 : step ? (index + step + tabs.length) % tabs.length : null;
      if (target === null) return;
      event.preventDefault();
      tabs[target].focus();
      select(tabs[target]);
    };
  });
  if (new URLSearchParams(location.search).get("tab") === "card") select($("card-tab"));
}

async function loadCard() {
  if ($("document").childElementCount) return;
  try {
    $("document").replaceChildren(...markdown(await (await send("card")).text()));
  } catch (error) {
    $("document").replaceChildren();
    showError(error);
    $("try-tab").click();
  }
}

function markdown(text) {
  const lines = text.split("\n"), elements = [];
  while (lines.length) {
    const line = lines.shift();
    const take = (pattern) => {
      const taken = [];
      while (lines.length && pattern.test(lines[0])) taken.push(lines.shift());
      return taken;
    };
    const heading = /^(#+) (.*)/.exec(line);
    if (heading) elements.push(createElement("h" + Math.min(6, heading[1].length + 1), {}, ...inline(heading[2])));
    else if (line.startsWith("```")) {
      elements.push(createElement("pre", {textContent: take(/^(?!```)/).join("\n"), tabIndex: 0}));
      lines.shift();
    } else if (line.startsWith("|")) elements.push(table([line, ...take(/^\|/)]));
    else if (line.startsWith("- ")) {
      const items = [line, ...take(/^- /)].map((each) => createElement("li", {}, ...inline(each.slice(2))));
      elements.push(createElement("ul", {}, ...items));
    } else if (line.trim() && !line.startsWith("![")) elements.push(createElement("p", {}, ...inline([line, ...take(/^[^#`|\s-]/)].join(" "))));
  }
  return elements;
}

function table([head, , ...rows]) {
  const cells = (line) => line.trim().slice(1, -1).split(/(?<!\\)\|/).map((each) => each.trim());
  const row = (tag, line) => createElement("tr", {}, ...cells(line).map((each) => createElement(tag, {}, ...inline(each))));
  const body = createElement("tbody", {}, ...rows.map((each) => row("td", each)));
  const whole = createElement("table", {}, createElement("thead", {}, row("th", head)), body);
  return createElement("div", {className: "wide", tabIndex: 0, attributes: {role: "region", "aria-label": "Table"}}, whole);
}

/* Code, bold text and the labels of links; everything else as it is. */
function inline(text) {
  return text.split(/(`[^`]+`|\*\*[^*]+\*\*|\[[^\]]+\]\([^)]*\))/).map((part) => {
    if (part.startsWith("`")) return createElement("code", {textContent: part.slice(1, -1)});
    if (part.startsWith("**")) return createElement("strong", {textContent: part.slice(2, -2)});
    if (/^\[[^\]]+\]\(/.test(part)) return part.slice(1, part.indexOf("]"));
    return part.replace(/\\([\\|*_`[\]<>#])/g, "$1");
  });
}
