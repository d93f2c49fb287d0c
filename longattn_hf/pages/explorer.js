"use strict";
// the explorer's own components; `send(event, data)` tells the server
LongAttn.explorer = {
  histograms(root, data, send) {
    const { make, short } = LongAttn;
    const names = data.names;
    const focused = root.contains(document.activeElement) ? document.activeElement.getAttribute("aria-label") : null;
    root.replaceChildren(
      LongAttn.legend(["kept", "kept"], ["dropped", "dropped"], ["cut", "cut: drag it, or focus it and use the arrow keys"]),
      ...data.categories.map((category) => make("section", { "aria-label": category.shown },
        make("h3", {}, `${category.shown}: kept above ${short(category.cut)}`),
        make("div", { class: "la-grid" }, ...Object.entries(category.plots).map(([score, bins]) => {
          const own = score === data.rankedBy;
          return LongAttn.histogram({ label: `${category.shown}, ${names[score]}`, unit: names[score], ...bins,
            cut: own ? category.cut : null,
            onCut: own ? (value) => send("cut", { category: category.name, value }) : null });
        })))));
    if (focused) [...root.querySelectorAll("[role=slider]")].find((node) => node.getAttribute("aria-label") === focused)?.focus();
  },

  table(root, data, send) {
    const { make } = LongAttn;
    const rows = data.rows.map((row, at) => {
      if (!data.ids) return row;
      const open = make("button", { type: "button", class: "la-link", "aria-label": `Open window ${row[0]}` }, row[0].slice(0, 12));
      open.addEventListener("click", () => send("open", { id: data.ids[at] }));
      return [open, ...row.slice(1)];
    });
    root.replaceChildren(make("h3", {}, data.label), LongAttn.table({ ...data, rows }),
      make("p", { class: "la-note", role: "status" }, data.note || ""));
  },

  recipe(root, data) {
    const { make } = LongAttn;
    const copy = make("button", { type: "button" }, "Copy the recipe");
    copy.addEventListener("click", () => navigator.clipboard.writeText(data.text));
    root.replaceChildren(make("p", { role: "status" }, data.note),
      make("pre", { tabindex: 0, role: "region", "aria-label": "Recipe" }, data.text), copy);
  },

  window(root, data, ask, send) {
    const { make } = LongAttn;
    if (!data) return root.replaceChildren();
    if (data.tokens) LongAttn.tokenView(root, data, (position) => ask([data.id, position]));
    else root.replaceChildren(make("h2", {}, data.title),
      make("ul", { class: "la-why", "aria-label": "Why this score" }, ...(data.why || []).map((sentence) => make("li", {}, sentence))),
      make("p", { class: "la-note" }, data.note), make("pre", { tabindex: 0, "aria-label": "Text of the window" }, data.text));
    const walk = (label, id) => {
      const button = make("button", { type: "button", disabled: id ? null : "" }, label);
      button.addEventListener("click", () => send("open", { id }));
      return button;
    };
    root.prepend(make("nav", { class: "la-walk", "aria-label": "Windows by rank" },
      walk("\u2190 Previous rank", data.previous), walk("Next rank \u2192", data.next)));
    root.scrollIntoView({ block: "nearest" });
  },
};
