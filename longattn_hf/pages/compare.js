"use strict";
// what two selections of a category agree on, and the two windows between which the cut lies
Object.assign(LongAttn.explorer, {
  compare(root, data, send, server) {
    const { make, count } = LongAttn;
    if (!data.lists) return root.replaceChildren();
    const list = (order) => {
      const open = make("button", { type: "button", class: "la-link", "aria-label": `List those ${order}: ${count(data.lists[order])}` }, count(data.lists[order]));
      open.addEventListener("click", () => send("order", { order }));
      return open;
    };
    const texts = make("div", { class: "la-pair" });
    const words = "Read the lowest kept beside the highest dropped";
    const read = make("button", { type: "button", "aria-label": words }, words);
    root.reading ??= false;
    const draw = async () => {
      root.reading = true;
      const read = await server.read_pair([data.pair.map((one) => one.name)]).catch(() => []);
      texts.replaceChildren(...data.pair.map((one, at) => this.beside(one, read[at] ?? "", send)));
    };
    read.addEventListener("click", draw);
    if (root.reading) draw();
    this.redraw(root, make("h2", {}, `Two selections of ${data.category}`),
      LongAttn.table({ label: "Two selections", head: ["", "other keeps", "other drops"].map((name) => name || "windows"), numbers: [1, 2], rows: [
        ["this one keeps", list("in both selections"), list("only in this selection")],
        ["this one drops", list("only in the other"), list("in neither selection")],
      ] }),
      data.pair.length === 2 ? make("p", {}, read) : "", texts);
  },

  beside(one, text, send) {
    const { make, short } = LongAttn;
    const open = make("button", { type: "button", class: "la-link", "aria-label": `Open the ${one.label.toLowerCase()}` }, one.name.slice(0, 12));
    open.addEventListener("click", () => send("open", { name: one.name }));
    return make("section", { "aria-label": one.label }, make("h3", {}, `${one.label}: ${short(one.score)} `, open),
      make("pre", { class: "la-text", tabindex: 0, role: "region", "aria-label": `Text of the ${one.label.toLowerCase()}` }, text));
  },
});
