"use strict";
// the report's plots: score histograms with a cut to try, the plane of the two scores, and the sources
LongAttn.report = (root, data) => {
  const { make, count, short } = LongAttn;
  const plotted = [...new Set(data.categories.flatMap((category) => Object.keys(category.histograms || {})))];
  const names = Object.fromEntries(plotted.map((score) => [score, data.names[score]]));
  const unscored = (category) => make("div", {}, make("h3", {}, category.name), make("p", { class: "la-note" }, "No scored windows."));

  const histograms = make("div", { class: "la-grid" });
  const drawHistograms = (score) => histograms.replaceChildren(...data.categories.map((category) => {
    if (!category.windows) return unscored(category);
    const bins = category.histograms[score], trying = score === data.rankedBy;
    if (!bins) return unscored(category);
    const said = make("p", { class: "la-note", "aria-live": "polite" });
    // at an edge between two bins the counts are exact
    const tryCut = (cut) => {
      const nearest = bins.edges.reduce((best, edge, at) => Math.abs(edge - cut) < Math.abs(bins.edges[best] - cut) ? at : best, 0);
      const sum = (values) => values.slice(nearest).reduce((total, value) => total + value, 0);
      said.textContent = `From ${short(bins.edges[nearest])} up: ${count(sum(bins.kept) + sum(bins.dropped))} windows, ` +
        `${count(sum(category.tokens))} tokens.`;
    };
    const plot = LongAttn.histogram({ label: category.name, unit: names[score], ...bins,
      cut: trying ? category.cut : null, onCut: trying && category.cut !== null ? tryCut : null });
    if (trying && category.cut !== null) tryCut(category.cut);
    return make("div", {}, make("h3", {}, category.name), plot, said);
  }));
  const choice = make("select", { id: "score" }, ...Object.entries(names).map(([value, name]) => make("option", { value }, name)));
  choice.addEventListener("change", () => drawHistograms(choice.value));

  const plane = (category) => {
    if (!category.plane) return unscored(category);
    const { edges_x: xs, edges_y: ys, cells } = category.plane;
    const width = 330, height = 220, left = 52, bottom = 32, top = 8;
    const scale = (edges, from, to) => (value) => from + ((value - edges[0]) / (edges[edges.length - 1] - edges[0])) * (to - from);
    const x = scale(xs, left, width - 8), y = scale(ys, height - bottom, top);
    const svg = make("svg", { viewBox: `0 0 ${width} ${height}`, role: "img",
      "aria-label": `${category.name}: dependency strength against distribution uniformity, cells coloured by the share kept` });
    const tip = make("div", { class: "la-tip", "aria-hidden": "true" }, "\u00a0");
    for (const [column, row, kept, all] of cells) {
      const box = { x: x(xs[column]), y: y(ys[row + 1]), width: x(xs[column + 1]) - x(xs[column]), height: y(ys[row]) - y(ys[row + 1]) };
      const hit = make("rect", { class: "la-hit", ...box });
      hit.addEventListener("pointerenter", () => {
        tip.textContent = `strength ${short(xs[column])}, uniformity ${short(ys[row])}: ${count(kept)} of ${count(all)} kept`;
      });
      svg.append(make("rect", { class: "la-fill-dropped", ...box }),
        make("rect", { class: "la-fill-kept", ...box, "fill-opacity": (kept / all).toFixed(3) }), hit);
    }
    svg.append(make("line", { class: "la-axis", x1: left, x2: width - 8, y1: height - bottom, y2: height - bottom }),
      make("line", { class: "la-axis", x1: left, x2: left, y1: top, y2: height - bottom }));
    for (const [value, anchor] of [[xs[0], "start"], [xs[xs.length - 1], "end"]]) {
      svg.append(make("text", { x: x(value), y: height - 18, "text-anchor": anchor }, short(value)));
    }
    for (const value of [ys[0], ys[ys.length - 1]]) {
      svg.append(make("text", { x: left - 4, y: y(value) + 4, "text-anchor": "end" }, Number(value.toPrecision(2)).toExponential()));
    }
    svg.append(make("text", { x: (left + width) / 2, y: height - 4, "text-anchor": "middle" }, "dependency strength"),
      make("text", { x: 12, y: (height - bottom) / 2, "text-anchor": "middle", transform: `rotate(-90 12 ${(height - bottom) / 2})` },
        "uniformity"));
    return make("div", {}, make("h3", {}, category.name), svg, tip);
  };

  const sources = make("div", {});
  const filter = make("input", { type: "text", id: "filter", autocomplete: "off" });
  const order = make("select", { id: "order" }, ...["windows", "share kept", "name"].map((name) => make("option", {}, name)));
  const drawSources = () => {
    const wanted = filter.value.toLowerCase();
    const keys = { windows: (row) => -row[2], "share kept": (row) => -(row[3] / (row[2] || 1)), name: () => 0 };
    const key = keys[order.value];
    const rows = data.sources.filter((row) => `${row[0]} ${row[1]}`.toLowerCase().includes(wanted))
      .sort((a, b) => key(a) - key(b) || (a[0] < b[0] ? -1 : a[0] > b[0] ? 1 : 0));
    const bar = (row) => make("span", { class: "la-weight", role: "presentation", style: `width: ${(8 * row[3] / (row[2] || 1)).toFixed(2)}em` });
    sources.replaceChildren(
      make("p", { class: "la-note", "aria-live": "polite" }, `${count(rows.length)} of ${count(data.sources.length)} sources`),
      LongAttn.table({ label: "Sources", head: ["source", "category", "windows", "kept", "share kept", ""], numbers: [2, 3, 4],
        rows: rows.slice(0, 500).map((row) =>
          [...row, row[2] ? `${((100 * row[3]) / row[2]).toFixed(0)} %` : "-", bar(row)]) }));
  };
  filter.addEventListener("input", drawSources);
  order.addEventListener("change", drawSources);

  root.replaceChildren(
    make("h2", {}, "Scores to point at"),
    make("p", {}, make("label", { for: "score" }, "Score "), choice),
    LongAttn.legend(["kept", "kept"], ["dropped", "dropped"], ["cut", "cut: lowest score kept; drag it, or move it with the arrow keys"]),
    histograms,
    ...(data.categories.some((category) => category.plane) ? [
      make("h2", {}, "Strength against uniformity"),
      make("p", { class: "la-note" }, "The bluer a cell, the larger the share of its windows that was kept."),
      make("div", { class: "la-grid" }, ...data.categories.map(plane)),
    ] : []),
    make("h2", {}, "Sources"),
    make("p", {}, make("label", { for: "filter" }, "Find "), filter, " ", make("label", { for: "order" }, "sort by "), order),
    sources,
  );
  drawHistograms(data.rankedBy);
  drawSources();
};
