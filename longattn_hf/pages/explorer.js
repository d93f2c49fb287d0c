"use strict";
// the explorer's own components; `send(event, data)` tells the server, `server.NAME([argument, ...])` asks it
LongAttn.explorer = {
  // draws a part anew, with the focus where it was, by the control's name
  redraw(root, ...children) {
    const focused = root.contains(document.activeElement) ? document.activeElement.getAttribute("aria-label") : null;
    root.replaceChildren(...children);
    if (focused) [...root.querySelectorAll("[aria-label]")].find((node) => node.getAttribute("aria-label") === focused)?.focus({ preventScroll: true });
  },

  // the score that ranks, category beside category; all else is drawn when it is unfolded
  histograms(root, data, send) {
    const { make, short } = LongAttn;
    const names = data.names;
    const plot = (category, score) => {
      const own = score === data.rankedBy, column = own ? "score" : /^[\w.-]+$/.test(score) ? score : `"${score}"`;
      return LongAttn.histogram({ label: `${category.shown}, ${names[score]}`, unit: names[score], ...category.plots[score],
        cut: own ? category.cut : null,
        onCut: own ? (value) => send("cut", { category: category.name, value }) : null,
        // the last bin holds its upper edge too
        onBin: (from, to, last) => send("bin", { category: category.name,
          filter: `${column} >= ${from} and ${column} ${last ? "<=" : "<"} ${to}` }) });
    };
    const scores = (category, own) => Object.keys(category.plots).filter((score) => (score === data.rankedBy) === own);
    const small = (categories) => make("div", { class: "la-grid" }, ...categories.map((category) =>
      make("section", { "aria-label": category.shown }, make("h3", {}, `${category.shown}: kept above ${short(category.cut)}`),
        ...scores(category, true).map((score) => plot(category, score)))));
    const all = (categories) => make("div", {}, ...categories.map((category) =>
      make("section", { "aria-label": `${category.shown}, other scores` }, make("h3", {}, category.shown),
        make("div", { class: "la-grid" }, ...scores(category, false).map((score) => plot(category, score))))));
    root.unfolded ??= {};
    const fold = (summary, what, draw) => {
      const details = make("details", { open: root.unfolded[what] ? "" : null }, make("summary", {}, summary));
      const unfold = () => {
        root.unfolded[what] = details.open;
        if (details.open && details.children.length === 1) details.append(draw());
      };
      details.addEventListener("toggle", unfold);
      unfold();
      return details;
    };
    const first = data.categories.slice(0, 6), more = data.categories.slice(6);
    const others = Object.keys(names).filter((score) => score !== data.rankedBy).map((score) => names[score]);
    this.redraw(root,
      ...(first.length ? [LongAttn.legend(["kept", "kept"], ["dropped", "dropped"], ["cut", "cut: drag it, or focus it and use the arrow keys"]),
        make("p", { class: "la-note" }, "A bar lists its windows: click it, or focus it and press Enter.")] : []),
      small(first),
      more.length ? fold(`${more.length} more categories`, "more", () => small(more)) : "",
      first.length && others.length ? fold(`The same of ${others.join(", ")}`, "others", () => all(data.categories)) : "");
  },

  table(root, data) {
    const { make } = LongAttn;
    root.replaceChildren(make("h2", {}, data.label), LongAttn.table(data), make("p", { class: "la-note", role: "status" }, data.note || ""));
  },

  recipe(root, data) {
    const { make } = LongAttn;
    const copy = make("button", { type: "button" }, "Copy the recipe");
    copy.addEventListener("click", () => navigator.clipboard.writeText(data.text));
    root.replaceChildren(make("p", { role: "status" }, data.note),
      make("pre", { tabindex: 0, role: "region", "aria-label": "Recipe" }, data.text), copy);
  },

  // the text at once, and its shading when the attention is there
  window(root, data, send, server) {
    const { make, count } = LongAttn;
    this.mark(data.name);
    const walk = (label, name) => {
      const button = make("button", { type: "button", disabled: name ? null : "", "aria-label": label.replace(/[^\w ]/g, "").trim() }, label);
      button.addEventListener("click", () => send("open", { name }));
      return button;
    };
    const body = make("div", {});
    const progress = make("div", { class: "la-progress" });
    const why = make("ul", { class: "la-why", "aria-label": "Why this score" }, ...(data.why || []).map((sentence) => make("li", {}, sentence)));
    // as wide as it will be with its shading, so that nothing jumps
    body.append(make("h2", {}, data.title), why, make("div", { class: "la-view" }, make("div", {}, progress,
      data.text ? make("pre", { class: "la-text", tabindex: 0, role: "region", "aria-label": "Text of the window" }, data.text) : "")));
    this.redraw(root, make("nav", { class: "la-walk", "aria-label": "Windows by rank" },
      walk("\u2190 Previous rank", data.previous), walk("Next rank \u2192", data.next)), this.map(data, send), body);
    root.scrollIntoView({ block: "nearest" });
    const note = (text) => progress.replaceChildren(make("p", { class: "la-note", role: "status" }, text));
    root.opened = data;
    if (data.note || !data.text) return note(data.note || "");
    const seconds = make("span", { "aria-hidden": "true" });
    progress.append(make("p", { class: "la-note", role: "status" }, `Computing where the attention of ${count(data.tokenCount)} tokens goes \u2026 `, seconds),
      make("progress", { "aria-label": "Computing the attention" }));
    const since = Date.now();
    const clock = setInterval(() => {
      if (root.opened !== data) clearInterval(clock);
      seconds.textContent = `${Math.round((Date.now() - since) / 1000)} s`;
    }, 1000);
    data.draw = (view) => {
      clearInterval(clock);
      if (view.note) return note(view.note);
      const text = body.querySelector(".la-text"), reading = text === document.activeElement;
      const place = text.scrollTop / Math.max(text.scrollHeight, 1);
      LongAttn.tokenView(body, { ...view, title: data.title, why: [...data.why, ...view.why] },
        (position) => server.far_tokens([data.name, position]));
      const shaded = body.querySelector(".la-text");
      if (place > 0) shaded.scrollTop = place * shaded.scrollHeight;
      if (reading) shaded.focus({ preventScroll: true });
    };
    this.shade(root, server);
  },

  // one window at a time is looked at; who leafs through many waits for the one that is open in the end
  async shade(root, server) {
    if (root.looking) return;
    root.looking = true;
    while (root.opened?.draw) {
      const asked = root.opened;
      const view = await server.look([asked.name]).catch(() => ({ note: "Only the text can be shown: the explorer does not answer." }));
      asked.draw(view);
      if (root.opened === asked) break;
    }
    root.looking = false;
  },

  // marks the opened window's row in the list
  mark(name) {
    this.opened = name;
    for (const row of document.querySelectorAll("#windows tbody tr")) {
      const here = Boolean(name) && row.querySelector("button")?.dataset.name === name;
      row.classList.toggle("la-opened", here);
      here ? row.setAttribute("aria-current", "true") : row.removeAttribute("aria-current");
    }
  },

  // a document from its first token to its last, a bar for each window; windows that overlap lie in lanes
  map(data, send) {
    const { make, count, short } = LongAttn;
    const windows = data.document?.windows || [];
    if (windows.length < 2) return "";
    const from = windows[0].start, to = Math.max(...windows.map((one) => one.start + one.tokens));
    const ends = [], lanes = windows.map(({ start, tokens }) => {
      const free = ends.findIndex((end) => end <= start), lane = free < 0 ? ends.length : free;
      ends[lane] = start + tokens;
      return lane;
    });
    const width = 1000, lane = 22, height = lane * ends.length;
    const x = (token) => ((token - from) / (to - from)) * width;
    const svg = make("svg", { viewBox: `0 0 ${width} ${height}`, preserveAspectRatio: "none", role: "group", class: "la-map",
      style: `height: ${height}px`, "aria-label": `Windows of ${data.document.name}` });
    const tip = make("div", { class: "la-tip", "aria-hidden": "true" }, "\u00a0");
    windows.forEach((one, at) => {
      const label = `Tokens ${count(one.start)} to ${count(one.start + one.tokens - 1)}: score ${short(one.score)}` +
        `${one.below === null ? "" : `, above ${Math.round(100 * one.below)}% of its category`}, ${one.kept ? "kept" : "dropped"}`;
      const here = one.name === data.name;
      const bar = make("rect", { class: `la-map-window ${one.kept ? "la-map-kept" : ""} ${here ? "la-map-here" : ""}`, role: "button", tabindex: 0,
        "aria-label": label, "aria-current": here ? "true" : null, x: x(one.start), y: lanes[at] * lane + 3,
        width: Math.max(x(one.start + one.tokens) - x(one.start) - 1, 2), height: lane - 6,
        style: `fill: rgba(var(--la-shade), ${(0.12 + 0.75 * (one.below ?? 0)).toFixed(2)})` });
      const go = () => send("open", { name: one.name });
      bar.addEventListener("click", go);
      bar.addEventListener("keydown", (event) => {
        if (event.key !== "Enter" && event.key !== " ") return;
        event.preventDefault();
        go();
      });
      for (const event of ["pointerenter", "focus"]) bar.addEventListener(event, () => { tip.textContent = label; });
      svg.append(bar);
    });
    const all = data.document.all > windows.length ? `, ${count(windows.length)} of ${count(data.document.all)} windows` : "";
    return make("section", { "aria-label": "Document map" }, make("h3", {}, `In its document: ${data.document.name}${all}`), svg, tip,
      make("p", { class: "la-note" }, `Tokens ${count(from)} to ${count(to - 1)}; the fuller its colour, the higher a window's score stands in its category. A blue frame: kept; orange: this one.`));
  },
};
