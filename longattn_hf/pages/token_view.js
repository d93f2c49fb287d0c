"use strict";
// a window's tokens, shaded by the share of their attention that goes far back; `ask(position)` may look up far tokens
LongAttn.tokenView = (root, data, ask = null) => {
  const { make, count, short } = LongAttn;
  const most = Math.max(1, ...data.share);
  const text = make("div", { class: "la-text", tabindex: 0, role: "listbox",
    "aria-label": "Tokens of the window: arrow keys move, N goes to the next token with listed far tokens" });
  const spans = data.tokens.map((token, at) => {
    const span = make("span", { role: "option", id: `${data.key}-${at}`, "aria-selected": "false",
      "aria-label": token.trim() ? null : token ? "white space" : "part of a character" }, token);
    const share = data.share[at] / most;
    if (share > 0.02) span.style.backgroundColor = `rgba(var(--la-shade), ${(0.6 * share).toFixed(3)})`;
    return span;
  });
  text.append(...spans);
  const details = make("div", { "aria-live": "polite", class: "la-details" });
  let here = null, marked = [];

  const context = (at) => {
    const around = (from, to) => data.tokens.slice(Math.max(from, 0), Math.max(to, 0)).join("").replaceAll("\n", " ");
    return make("code", {}, `${around(at - 6, at)}\u2003`, make("strong", {}, data.tokens[at] || "\u00b7"), `\u2003${around(at + 1, at + 5)}`);
  };
  const seen = (at) => (data.seen.causal ? Math.min(at + 1, data.seen.keys) : data.seen.keys);
  // a share of attention, beside what attention spread evenly would give
  const lift = (share, even) => (even > 0 ? `${(share / even).toPrecision(2)}\u00d7` : "-");
  const show = (far) => {
    marked.forEach((span) => span.classList.remove("la-far"));
    marked = far.map(([at]) => spans[at]);
    marked.forEach((span) => span.classList.add("la-far"));
    details.replaceChildren(make("h3", {}, `Token ${count(here)}: `, make("code", {}, JSON.stringify(data.tokens[here]))),
      make("p", {}, `${(data.share[here] / 10).toFixed(1)} % of its attention goes at least ${count(data.minDistance)} tokens back; ` +
        `spread evenly, ${(100 * Math.min(Math.max(here + 1 - data.minDistance, 0), seen(here)) / seen(here)).toFixed(1)} % would.`));
    if (!far.length) {
      const why = here < data.minDistance ? "Nothing stands that far back of it." : "Its far tokens are not listed here; view.top_far(position) computes them.";
      details.append(make("p", { class: "la-note" }, why));
      return;
    }
    details.append(make("p", {}, "The far tokens that it attends to most:"), LongAttn.table({
      label: "Far tokens", head: ["attention", "of even", "token", "in its place"], numbers: [0, 1],
      rows: far.map(([at, weight]) => {
        const jump = make("button", { type: "button", class: "la-link" }, count(at));
        jump.addEventListener("click", () => select(at, true));
        return [`${(100 * weight).toPrecision(2)} %`, lift(weight, 1 / seen(here)), jump, context(at)];
      }),
    }));
  };
  const select = async (at, reveal) => {
    if (here !== null) {
      spans[here].classList.remove("la-here");
      spans[here].setAttribute("aria-selected", "false");
    }
    here = at;
    spans[at].classList.add("la-here");
    spans[at].setAttribute("aria-selected", "true");
    text.setAttribute("aria-activedescendant", spans[at].id);
    if (reveal) {
      const [box, place] = [text.getBoundingClientRect(), spans[at].getBoundingClientRect()];
      if (place.top < box.top || place.bottom > box.bottom) text.scrollTop += place.top - box.top - box.height / 3;
    }
    show(data.far[at] || []);
    if (!data.far[at] && ask && at >= data.minDistance) {
      const far = await ask(at);
      data.far[at] = far;
      if (here === at) show(far);
    }
  };
  text.addEventListener("click", (event) => {
    const at = spans.indexOf(event.target);
    if (at >= 0) select(at, false);
  });
  text.addEventListener("keydown", (event) => {
    const now = here ?? -1, last = spans.length - 1;
    const listed = Object.keys(data.far).map(Number).sort((a, b) => a - b);
    const moves = { ArrowRight: now + 1, ArrowLeft: now - 1, ArrowDown: now + 10, ArrowUp: now - 10, Home: 0, End: last,
      n: listed.find((at) => at > now) ?? listed[0], N: listed.find((at) => at > now) ?? listed[0] };
    if (moves[event.key] === undefined || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    select(Math.min(Math.max(moves[event.key], 0), last), true);
  });

  const heads = Math.max(...data.heads, 1e-9);
  root.replaceChildren(
    make("h2", {}, data.title),
    make("ul", { class: "la-why", "aria-label": "Why this score" }, ...data.why.map((sentence) => make("li", {}, sentence))),
    make("p", { class: "la-note" }, data.facts.map(([name, value]) => `${name} ${typeof value === "number" ? short(value) : value}`).join(" · ")),
    make("div", { class: "la-view" },
      make("div", {},
        make("p", { class: "la-note" }, `Share of attention at least ${count(data.minDistance)} tokens back: 0 `,
          make("span", { class: "la-ramp", role: "presentation" }), ` ${(most / 10).toFixed(1)} %. Click a token.`),
        text),
      make("div", {}, details,
        make("h3", {}, "Attention by distance"),
        LongAttn.legend(["kept", "far"], ["dropped", "near"], ["second", "uniform attention"]),
        LongAttn.profile({ ...data.profile, minDistance: data.minDistance }),
        make("p", { class: "la-note" }, `Mean over heads and ${count(data.profileRows)} of ${count(spans.length)} tokens.`),
        make("h3", {}, "What receives the far attention"),
        LongAttn.table({ label: "What receives the far attention", head: ["token", "times", "share", "of even"], numbers: [1, 2, 3],
          rows: data.byText.map(([name, places, share, even]) =>
            [make("code", {}, name), places, `${(100 * share).toPrecision(2)} %`, lift(share, even)]) }),
        make("h3", {}, "Dependency strength by head"),
        LongAttn.table({ label: "Dependency strength by head", head: ["head", "strength", "of the strongest"], numbers: [0, 1],
          rows: data.heads.map((value, at) => [at, value,
            make("span", { class: "la-weight", style: `width: ${((8 * value) / heads).toFixed(2)}em`, role: "presentation" })]) }))),
  );
  const strongest = Object.keys(data.far).map(Number).sort((a, b) => data.share[b] - data.share[a])[0];
  if (strongest !== undefined) select(strongest, true);
};
