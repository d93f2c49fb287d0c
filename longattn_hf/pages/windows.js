"use strict";
// the explorer's list of windows, page by page, and the link that leads back to what is shown
Object.assign(LongAttn.explorer, {
  windows(root, data, send, server) {
    const { make, count } = LongAttn;
    const button = (label, act, disabled = false) => {
      const node = make("button", { type: "button", "aria-label": label, disabled: disabled ? "" : null }, label);
      node.addEventListener("click", act);
      return node;
    };
    const cells = (data.names || []).map(() => make("span", { class: "la-excerpt" }, "\u2026"));
    const rows = data.rows.map((row, at) => {
      const open = make("button", { type: "button", class: "la-link", "aria-label": `Open window ${row[0]}`, "data-name": data.names[at] }, row[0].slice(0, 12));
      open.addEventListener("click", () => send("open", { name: data.names[at] }));
      return [open, ...row.slice(1, -2), cells[at], ...row.slice(-2)];
    });
    const tools = make("div", { class: "la-tools" });
    if (data.pages > 1) {
      const field = make("input", { type: "number", min: 1, max: data.pages, value: data.page, "aria-label": "Page" });
      field.addEventListener("change", () => send("turn", { page: Number(field.value) || data.page }));
      const turn = (page) => () => send("turn", { page });
      tools.append(button("Previous page", turn(data.page - 1), data.page === 1), make("label", {}, "Page ", field, ` of ${count(data.pages)}`),
        button("Next page", turn(data.page + 1), data.page === data.pages));
    }
    if (data.filtered) tools.append(button("Take the filter off", () => send("unfilter", {})));
    if (rows.length) tools.append("Take along: ", ...["csv", "parquet"].map((form) =>
      make("a", { href: `export/windows.${form}${data.query ? `?${data.query}` : ""}`, download: `windows.${form}` }, form === "csv" ? "CSV" : "Parquet")));
    this.redraw(root, make("h2", {}, data.label), this.searching(root, data, send, button),
      LongAttn.table({ ...data, head: [...data.head.slice(0, -2), "text", ...data.head.slice(-2)], rows }), tools,
      make("p", { class: "la-note", role: "status" }, data.note || ""));
    this.mark(data.opened || this.opened);
    this.fill(cells, data, server);
  },

  async fill(cells, data, server) {
    if (!cells.length) return;
    const excerpts = await server.excerpts([data.names, data.search?.words || ""]).catch(() => []);
    excerpts.forEach(([before, words, behind], at) =>
      cells[at].replaceChildren(before, words ? LongAttn.make("mark", {}, words) : "", behind));
  },

  // a search goes on by itself for ten steps of a second, or until it has found plenty; then a button takes it up again
  searching(root, { search, everywhere }, send, button) {
    const { make, count } = LongAttn;
    if (!search) return "";
    const name = search.words, one = JSON.stringify([name, search.category]);
    if (root.searched !== one) Object.assign(root, { searched: one, steps: 10 });
    const going = !search.ended && root.steps > 0 && search.found < 1000;
    if (going) {
      root.steps -= 1;
      setTimeout(() => send("more", {}), 0);
    }
    const lacking = search.ended && search.searched < search.windows
      ? ` The texts of ${count(search.windows - search.searched)} are not here or cannot be read.` : "";
    return make("div", { class: "la-progress" },
      make("p", { role: going ? null : "status" }, `\u201c${name}\u201d: ${count(search.found)} found in ${count(search.searched)} of ${count(search.windows)} texts.${lacking}`),
      going ? make("progress", { value: search.searched, max: search.windows, "aria-label": "Searching the texts" }) : "",
      going || search.ended ? "" : button("Search on", () => {
        root.steps = 10;
        send("more", {});
      }),
      everywhere ? button(`Search ${everywhere}`, () => send("everywhere", {})) : "");
  },

  link(root, data) {
    const { make } = LongAttn;
    // what the framework or an embedding page has put into the address stays there
    const theirs = [...new URLSearchParams(location.search)].filter(([name]) => name.startsWith("__"));
    const query = [new URLSearchParams(theirs).toString(), data.query].filter((part) => part).join("&");
    history.replaceState(history.state, "", location.pathname + (query ? `?${query}` : ""));
    if (root.firstChild) return;
    const done = make("span", { role: "status", class: "la-note" });
    const copy = make("button", { type: "button" }, "Copy a link to this view");
    copy.addEventListener("click", async () => {
      try {
        await navigator.clipboard.writeText(location.href);
        done.textContent = " Copied.";
      } catch {
        done.textContent = " Not copied: take it from the address bar.";
      }
    });
    root.replaceChildren(copy, done);
  },
});
