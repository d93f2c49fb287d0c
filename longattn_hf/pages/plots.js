"use strict";
// small SVG plots; every text is set as text, never as markup
const LongAttn = {
  make(name, attributes = {}, ...children) {
    const svg = ["svg", "g", "rect", "line", "path", "text", "circle", "title"].includes(name);
    const node = svg ? document.createElementNS("http://www.w3.org/2000/svg", name) : document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) {
      if (value !== null && value !== undefined) node.setAttribute(key, value);
    }
    node.append(...children.filter((child) => child !== null));
    return node;
  },

  count(value) {
    return Math.round(value).toLocaleString("en-US");
  },

  short(value) {
    if (value === null || value === undefined) return "-";
    if (Number.isInteger(value)) return LongAttn.count(value);
    const size = Math.abs(value);
    if (size >= 1e-3 && size < 1e6) return String(Number(value.toPrecision(4)));
    const [digits, power] = value.toExponential(2).split("e"), raised = "\u207b\u2070\u00b9\u00b2\u00b3\u2074\u2075\u2076\u2077\u2078\u2079";
    return `${Number(digits)} \u00d7 10${[...power.replace("+", "")].map((sign) => raised["-0123456789".indexOf(sign)]).join("")}`;
  },

  // rounded numbers from low to high, about `most` of them, whole ones where things are counted
  ticks(low, high, most, whole = false) {
    const rough = (high - low || 1) / most, power = 10 ** Math.floor(Math.log10(rough));
    let step = [1, 2, 2.5, 5, 10].map((factor) => factor * power).find((size) => size >= rough * (1 - 1e-9));
    if (whole) step = Math.max(1, Math.ceil(step));
    const found = [];
    for (let at = Math.ceil(low / step - 1e-9); at * step <= high + 1e-9 * step; at += 1) found.push(Number((at * step).toPrecision(12)));
    return found;
  },

  table({ head, rows, numbers = [], label }) {
    const cell = (tag, value, at) =>
      LongAttn.make(tag, { class: numbers.includes(at) ? "la-number" : null, scope: tag === "th" ? "col" : null },
        value instanceof Node ? value : typeof value === "number" ? LongAttn.short(value) : String(value ?? "-"));
    return LongAttn.make("div", { class: "la-scroll", tabindex: 0, role: "region", "aria-label": label },
      LongAttn.make("table", { "aria-label": label },
        LongAttn.make("thead", {}, LongAttn.make("tr", {}, ...head.map((name, at) => cell("th", name, at)))),
        LongAttn.make("tbody", {}, ...rows.map((row) =>
          LongAttn.make("tr", {}, ...row.map((value, at) => cell("td", value, at)))))));
  },

  // bars of kept windows under those of dropped ones; with `onCut` the cut is a handle to drag, or to move by keys, among
  // `steps` if they are given; `onMove` follows it; `peak` is the highest bar of the plots that it is compared with; with
  // `onBin` a bin is a button, which arrow keys lead to
  histogram({ label, unit, edges, kept, dropped, cut = null, peak = 0, steps = null, onCut = null, onMove = null, onBin = null }) {
    const { make, count, short, ticks } = LongAttn;
    const width = 330, height = 160, left = 44, bottom = 30, top = 12;
    const low = edges[0], high = edges[edges.length - 1];
    const most = Math.max(1, peak, ...kept.map((value, at) => value + dropped[at]));
    const x = (value) => left + ((value - low) / (high - low || 1)) * (width - left - 6);
    const y = (value) => height - bottom - (value / most) * (height - bottom - top);
    const svg = make("svg", { viewBox: `0 0 ${width} ${height}`, role: onCut || onBin ? "group" : "img" });
    const tip = make("div", { class: "la-tip", "aria-hidden": "true" }, "\u00a0");
    for (const value of ticks(0, most, 3, true)) {
      svg.append(make("line", { class: "la-axis", x1: left, x2: width - 6, y1: y(value), y2: y(value) }),
        make("text", { x: left - 4, y: y(value) + 4, "text-anchor": "end" }, count(value)));
    }
    const middle = (height - bottom + top) / 2;
    const bars = make("g");
    svg.append(bars);
    let shown;
    const draw = (kept, dropped) => {
      shown = [kept, dropped];
      const all = kept.reduce((sum, value) => sum + value, 0), none = dropped.reduce((sum, value) => sum + value, 0);
      svg.setAttribute("aria-label", `${label}: ${count(all)} of ${count(all + none)} windows kept, from ${short(low)} to ${short(high)}` +
        (cut === null ? "" : `, cut at ${short(cut)}`));
      bars.replaceChildren(...kept.flatMap((value, at) => {
        const x0 = x(edges[at]), step = x(edges[at + 1]) - x0, gap = step > 4 ? 0.5 : 0;
        return [["kept", 0, value], ["dropped", value, value + dropped[at]]].filter(([, from, to]) => to > from)
          .map(([kind, from, to]) => make("rect", { class: `la-fill-${kind}`, x: x0 + gap, width: Math.max(step - 2 * gap, 0.5),
            y: y(to), height: y(from) - y(to) }));
      }));
    };
    draw(kept, dropped);
    kept.forEach((value, at) => {
      const x0 = x(edges[at]), step = x(edges[at + 1]) - x0;
      const hit = make("rect", { class: "la-hit", x: x0, width: Math.max(step, 0.5), y: top, height: height - bottom - top });
      const says = () => `${short(edges[at])} to ${short(edges[at + 1])}: ${count(shown[0][at])} kept, ${count(shown[1][at])} dropped`;
      hit.addEventListener("pointerenter", () => {
        tip.textContent = says();
      });
      if (onBin && value + dropped[at]) {
        hit.addEventListener("focus", () => {
          tip.textContent = says();
        });
        LongAttn.addBin(svg, hit, `${label}, ${says()}`, () => onBin(edges[at], edges[at + 1], at === kept.length - 1));
      }
      svg.append(hit);
    });
    for (const value of ticks(low, high, 4)) {
      svg.append(make("text", { x: x(value), y: height - 15, "text-anchor": "middle" }, short(value)));
    }
    svg.append(make("text", { x: (left + width) / 2, y: height - 2, "text-anchor": "middle" }, unit),
      make("text", { x: 8, y: middle, "text-anchor": "middle", transform: `rotate(-90 8 ${middle})` }, "windows"));
    const node = make("div", { class: "la-histogram" }, svg, tip);
    node.draw = draw;
    if (cut !== null) {
      node.moveTo = LongAttn.addCut(svg, { cut, low, high, x, top, bottom: y(0), label, onCut, left, right: width - 6, tip, steps,
        onMove: (value) => { cut = value; onMove?.(value); } });
    }
    return node;
  },

  // one of a plot's bins is a stop of the tab key, the others are reached from it
  addBin(svg, hit, name, act) {
    const bins = () => [...svg.querySelectorAll(".la-bin")];
    for (const [key, value] of [["class", "la-hit la-bin"], ["role", "button"], ["aria-label", name], ["tabindex", bins().length ? -1 : 0]]) {
      hit.setAttribute(key, value);
    }
    hit.addEventListener("click", act);
    hit.addEventListener("keydown", (event) => {
      const all = bins(), at = all.indexOf(hit);
      const moves = { ArrowLeft: at - 1, ArrowRight: at + 1, Home: 0, End: all.length - 1 };
      const acts = event.key === "Enter" || event.key === " ";
      if (!acts && !(event.key in moves)) return;
      event.preventDefault();
      if (acts) return act();
      const next = all[Math.min(Math.max(moves[event.key], 0), all.length - 1)];
      hit.setAttribute("tabindex", -1);
      next.setAttribute("tabindex", 0);
      next.focus();
    });
  },

  addCut(svg, { cut, low, high, x, top, bottom, label, onCut, left, right, tip, steps, onMove }) {
    const { make, short } = LongAttn;
    const clamp = (value) => Math.min(Math.max(value, low), high);
    const nearest = (value) => steps.reduce((best, step, at) => Math.abs(step - value) < Math.abs(steps[best] - value) ? at : best, 0);
    const allowed = (value) => (steps ? steps[nearest(value)] : clamp(value));
    const line = make("line", { class: "la-line-cut", y1: top - 8, y2: bottom });
    svg.append(line);
    const handle = onCut && make("circle", {
      class: "la-handle", cy: top - 6, r: 6, tabindex: 0, role: "slider", "aria-orientation": "horizontal",
      "aria-label": `Cut of ${label}`, "aria-valuemin": steps ? steps[0] : low, "aria-valuemax": steps ? steps[steps.length - 1] : high,
    });
    let at = cut;
    const place = (value) => {
      at = value;
      const where = x(clamp(value));
      line.setAttribute("x1", where);
      line.setAttribute("x2", where);
      if (!handle) return;
      handle.setAttribute("cx", where);
      handle.setAttribute("aria-valuenow", value);
      handle.setAttribute("aria-valuetext", short(value));
    };
    place(cut);
    if (!handle) return null;
    const move = (value) => {
      place(value);
      onMove(value);
    };
    svg.append(handle);
    handle.addEventListener("pointerdown", (event) => {
      event.preventDefault();
      handle.setPointerCapture(event.pointerId);
      handle.focus();
      const box = svg.getBoundingClientRect(), scale = svg.viewBox.baseVal.width / box.width;
      const drag = (moved) => {
        const share = ((moved.clientX - box.left) * scale - left) / (right - left);
        move(allowed(low + share * (high - low)));
        tip.textContent = `keep above ${short(at)}`;
      };
      handle.addEventListener("pointermove", drag);
      handle.addEventListener("pointerup", () => {
        handle.removeEventListener("pointermove", drag);
        onCut(at);
      }, { once: true });
    });
    handle.addEventListener("keydown", (event) => {
      const by = { ArrowLeft: -1, ArrowDown: -1, ArrowRight: 1, ArrowUp: 1, PageUp: 10, PageDown: -10, Home: -1e9, End: 1e9 }[event.key];
      if (by === undefined) return;
      event.preventDefault();
      const last = steps && steps.length - 1;
      move(steps ? steps[Math.min(Math.max(nearest(at) + by, 0), last)] : clamp(at + (by * (high - low)) / 100));
      onCut(at);
    });
    return move;
  },

  // attention mass by distance, bars of equal width for the bins of a logarithmic scale, and uniform attention as steps
  profile({ edges, attention, uniform, minDistance }) {
    const { make, count, short } = LongAttn;
    const width = 420, height = 190, left = 44, bottom = 36, top = 10;
    const bins = attention.length, step = (width - left - 6) / bins;
    const most = Math.max(...attention, ...uniform);
    const y = (value) => height - bottom - (value / most) * (height - bottom - top);
    const far = edges.findIndex((edge) => edge >= minDistance);
    const svg = make("svg", { viewBox: `0 0 ${width} ${height}`, role: "img",
      "aria-label": "Share of the attention by distance in tokens, beside that of uniform attention" });
    const tip = make("div", { class: "la-tip", "aria-hidden": "true" }, "\u00a0");
    svg.append(make("line", { class: "la-axis", x1: left, x2: width - 6, y1: y(0), y2: y(0) }));
    let path = "";
    attention.forEach((value, at) => {
      const x = left + at * step;
      svg.append(make("rect", { class: at >= far && far >= 0 ? "la-fill-kept" : "la-fill-dropped",
        x: x + 0.5, width: Math.max(step - 1, 0.5), y: y(value), height: y(0) - y(value) }));
      path += `${at ? "L" : "M"}${x},${y(uniform[at])}H${x + step}`;
    });
    svg.append(make("path", { class: "la-line-second", d: path }));
    attention.forEach((value, at) => {
      const hit = make("rect", { class: "la-hit", x: left + at * step, width: step, y: top, height: height - bottom - top });
      hit.addEventListener("pointerenter", () => {
        const span = edges[at + 1] - edges[at] === 1 ? count(edges[at]) : `${count(edges[at])} to ${count(edges[at + 1] - 1)}`;
        tip.textContent = `${span} tokens back: ${(100 * value).toFixed(2)} %, uniform ${(100 * uniform[at]).toFixed(2)} %`;
      });
      svg.append(hit);
    });
    const every = Math.ceil(bins / 7);
    for (let at = 0; at < bins; at += every) {
      svg.append(make("text", { x: left + at * step, y: height - 20, "text-anchor": "middle" }, count(edges[at])));
    }
    svg.append(make("text", { x: left - 4, y: y(most) + 8, "text-anchor": "end" }, `${short(Number((100 * most).toPrecision(3)))} %`),
      make("text", { x: left - 4, y: y(0), "text-anchor": "end" }, "0"),
      make("text", { x: (left + width) / 2, y: height - 3, "text-anchor": "middle" }, "distance in tokens"));
    return make("div", {}, svg, tip);
  },

  legend(...keys) {
    return LongAttn.make("div", { class: "la-legend" },
      ...keys.map(([kind, text]) => LongAttn.make("span", { class: `la-key la-key-${kind}` }, text)));
  },

  // standalone pages follow the system's light or dark setting; inside another page that page decides
  followSystemTheme() {
    const dark = matchMedia("(prefers-color-scheme: dark)");
    const follow = () => document.documentElement.classList.toggle("dark", dark.matches);
    dark.addEventListener("change", follow);
    follow();
  },
};
