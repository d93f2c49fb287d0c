"use strict";
// the report's plots: score histograms with a cut to try, the plane of the two scores, and the sources
LongAttn.report = (root, sourcesRoot, data) => {
  const { make, count, short } = LongAttn;
  const plotted = [...new Set(data.categories.flatMap((category) => Object.keys(category.histograms || {})))];
  const names = Object.fromEntries(plotted.map((score) => [score, data.names[score]]));
  const unscored = (category) => make("div", {}, make("h3", {}, category.name), make("p", { class: "la-note" }, "No scored windows."));
  // each category's step: at step n, `cuts[n]` and all scores above it are kept
  const first = new Map(data.categories.map((category) => [category, category.steps ? category.steps.built : 0]));
  const now = new Map(first);
  const sum = (values) => values.reduce((total, value) => total + value, 0);

  // the largest categories, or those that are looked for
  const find = make("input", { type: "text", id: "category", autocomplete: "off" });
  const most = 9;
  const found = () => data.categories.filter((category) => category.name.toLowerCase().includes(find.value.toLowerCase()));
  const shown = () => {
    const largest = [...found()].sort((a, b) => b.windows - a.windows).slice(0, most);
    return found().filter((category) => largest.includes(category));
  };
  const many = make("p", { class: "la-note", role: "status" });

  const setting = make("code", {}), totals = make("p", { class: "la-note", role: "status" });
  const reset = make("button", { type: "button" }, "Reset the cuts"), copy = make("button", { type: "button" }, "Copy");
  copy.addEventListener("click", () => navigator.clipboard.writeText(setting.textContent));
  const counted = (category) => {
    const at = now.get(category);
    if (at === first.get(category)) return { windows: category.kept, tokens: category.keptTokens };
    return { windows: category.steps.windows[at], tokens: category.steps.tokens[at] };
  };
  const say = () => {
    const moved = data.categories.filter((category) => now.get(category) !== first.get(category));
    const kept = data.categories.map(counted);
    totals.textContent = `${moved.length ? "With these cuts" : "As built"}: ${count(sum(kept.map((one) => one.windows)))} of ` +
      `${count(sum(data.categories.map((category) => category.windows)))} windows ` +
      `${moved.length && data.refusedBy ? "from the cuts up" : "kept"}, ${count(sum(kept.map((one) => one.tokens)))} tokens.` +
      (data.refusedBy ? ` Whatever the cut, ${data.refusedBy} refuses windows too.` : "");
    // a built cut goes through equal scores, of which a threshold keeps all
    const tied = data.refusedBy ? 0 : sum(data.categories.map((category) => category.steps && now.get(category) === first.get(category)
      ? Math.max(0, category.steps.windows[first.get(category)] - category.kept) : 0));
    if (tied) totals.textContent += ` As a threshold the cut keeps ${count(tied)} more, of scores equal to it.`;
    reset.disabled = !moved.length;
    setting.textContent = `threshold: {${data.categories.map((category) =>
      `${JSON.stringify(category.key)}: ${category.steps ? category.steps.thresholds[now.get(category)] : 0}`).join(", ")}}`;
  };

  const histograms = make("div", { class: "la-grid" });
  const draw = () => {
    const score = choice.value, trying = score === data.rankedBy && data.canCut;
    const bars = (category) => category.histograms[score].kept.map((value, at) => value + category.histograms[score].dropped[at]);
    const peaks = shown().filter((category) => category.windows && category.histograms[score]).map((category) => Math.max(...bars(category)));
    // one scale, unless the lowest plot could not be read on it
    const peak = Math.max(...peaks) <= 10 * Math.min(...peaks) ? Math.max(...peaks) : 0;
    const few = shown().length < data.categories.length ? `${count(shown().length)} of ${count(data.categories.length)} categories. ` : "";
    many.textContent = few + (peak || peaks.length < 2 ? "" : "Each category is on a scale of its own.");
    histograms.replaceChildren(...shown().map((category) => {
      const bins = category.windows ? category.histograms[score] : null;
      if (!bins) return unscored(category);
      const legend = make("div", { "aria-live": "polite" });
      const show = (kept) => {
        const as = now.get(category) === first.get(category) ? ["kept", "dropped"]
          : data.refusedBy ? ["from the cut up", "below it"] : ["would be kept", "would be dropped"];
        const numbers = trying ? counted(category) : { windows: category.kept, tokens: category.keptTokens };
        const place = !trying ? [] : [["cut", `cut ${short(category.steps.cuts[now.get(category)])}`]];
        legend.replaceChildren(LongAttn.legend(["kept", `${count(numbers.windows)} ${as[0]} (${count(numbers.tokens)} tokens)`],
          ["dropped", `${count(category.windows - numbers.windows)} ${as[1]}`], ...place));
      };
      const cuts = category.steps.cuts;
      const move = (value) => {
        now.set(category, cuts.indexOf(value));
        const at = now.get(category);
        if (at === first.get(category)) plot.draw(bins.kept, bins.dropped);
        else {
          let left = category.steps.windows[at];
          // the windows from the cut up fill the bins from the right
          const kept = bars(category).reverse().map((all) => { const here = Math.min(all, left); left -= here; return here; }).reverse();
          plot.draw(kept, bars(category).map((all, bin) => all - kept[bin]));
        }
        show();
        say();
      };
      const cut = trying ? cuts[now.get(category)] : null;
      const plot = LongAttn.histogram({ label: category.name, unit: names[score], ...bins, cut, peak, steps: cuts,
        onCut: trying ? () => {} : null, onMove: move });
      if (trying && now.get(category) !== first.get(category)) move(cut);
      show();
      return make("div", {}, make("h3", {}, category.name), plot, legend);
    }));
    planes.replaceChildren(...shown().map(plane));
  };
  reset.addEventListener("click", () => {
    first.forEach((at, category) => now.set(category, at));
    draw();
    say();
  });
  const choice = make("select", { id: "score" }, ...Object.entries(names).map(([value, name]) => make("option", { value }, name)));
  choice.addEventListener("change", draw);
  find.addEventListener("input", draw);

  const planes = make("div", { class: "la-grid" });
  const plane = (category) => {
    if (!category.plane) return unscored(category);
    const { edges_x: xs, edges_y: ys, cells } = category.plane;
    const width = 330, height = 220, left = 86, bottom = 32, top = 8;
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
    for (const value of LongAttn.ticks(xs[0], xs[xs.length - 1], 4)) {
      svg.append(make("text", { x: x(value), y: height - 18, "text-anchor": "middle" }, short(value)));
    }
    for (const value of LongAttn.ticks(ys[0], ys[ys.length - 1], 4)) {
      svg.append(make("text", { x: left - 4, y: y(value) + 4, "text-anchor": "end" }, short(value)));
    }
    svg.append(make("text", { x: (left + width) / 2, y: height - 4, "text-anchor": "middle" }, "dependency strength"),
      make("text", { x: 8, y: (height - bottom) / 2, "text-anchor": "middle", transform: `rotate(-90 8 ${(height - bottom) / 2})` },
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
      LongAttn.table({ label: "Sources", head: ["source", "category", "windows", "kept", "share kept", "as a bar"], numbers: [2, 3, 4],
        rows: rows.slice(0, 500).map((row) =>
          [...row, row[2] ? `${((100 * row[3]) / row[2]).toFixed(0)} %` : "-", bar(row)]) }));
  };
  filter.addEventListener("input", drawSources);
  order.addEventListener("change", drawSources);

  const searching = data.categories.length > most ? [make("label", { for: "category" }, " Find a category "), find] : [];
  root.replaceChildren(
    make("h2", {}, "Scores to point at"),
    make("p", {}, make("label", { for: "score" }, "Score "), choice, ...searching),
    ...(data.canCut ? [make("p", { class: "la-note" }, "The cut is the lowest score kept: drag it, or move it with the arrow keys.")] : []),
    many,
    histograms,
    ...(data.canCut ? [totals, make("p", {}, "As a setting, in place of the limit that there is: ", copy, " ", reset),
      make("pre", { class: "la-setting", tabindex: 0, role: "region", "aria-label": "Setting" }, setting)] : []),
    ...(data.categories.some((category) => category.plane) ? [make("details", {},
      make("summary", {}, "Strength against uniformity"),
      make("p", { class: "la-note" }, "The bluer a cell, the larger the share of its windows that was kept."), planes)] : []),
  );
  sourcesRoot.replaceChildren(
    make("p", {}, make("label", { for: "filter" }, "Find "), filter, " ", make("label", { for: "order" }, "sort by "), order),
    sources);
  draw();
  say();
  drawSources();
};
