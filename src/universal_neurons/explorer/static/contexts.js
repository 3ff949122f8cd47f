// The contexts of a chosen neuron: the same windows of text, side by side as several models see them.
"use strict";

const BAND_WORDS = {
  top: "Most active",
  "0.99-0.999": ".99–.999",
  "0.9-0.99": ".9–.99",
  "0.5-0.9": ".5–.9",
  "0-0.5": "0–.5",
  random: "At random",
};

const FIRST = 5; // contexts shown until all are asked for

class Contexts {
  constructor(run, neuron, seed, texts) {
    Object.assign(this, { run, neuron, seed, texts });
    this.band = 0;
    this.body = h("div", { class: "windows" });
  }

  view() {
    const held = new Set(this.neuron.contexts.map(([band]) => band));
    this.tabs = h(
      "div",
      { class: "tabs", role: "group", "aria-label": "Contexts by quantile of activation" },
      this.run.bands.map((band, i) =>
        held.has(i) ? h("button", { type: "button", "data-band": i, onclick: () => this.show(this.step, i) }, BAND_WORDS[band] ?? band) : null,
      ),
    );
    return h("div", {}, h("div", { class: "bar" }, this.tabs, legend()), this.body);
  }

  /** What the neuron at a step, and its partners at the last, make of a band of contexts. */
  show(step, band = this.band) {
    this.step = step;
    this.band = band;
    for (const tab of this.tabs.children) tab.setAttribute("aria-pressed", Number(tab.dataset.band) === band);
    const readings = this.#readings();
    const all = this.neuron.contexts.map((context, i) => [context, i]).filter(([context]) => context[0] === band);
    const rows = this.whole ? all : all.slice(0, FIRST);
    const heads = readings.map((reading, i) => h("div", { class: i ? "of" : "of own" }, this.#name(reading, i)));
    this.body.style.setProperty("--columns", readings.length);
    this.body.replaceChildren(
      h("div", { class: "heads" }, heads),
      ...rows.map(([context, i]) =>
        h(
          "article",
          { class: "context" },
          h("p", { class: "about" }, `sequence ${context[1]}, position ${context[2]}`),
          readings.map((reading, j) =>
            h("div", { class: j ? "of" : "of own" }, h("span", { class: "who" }, this.#name(reading, j)), this.#window(context, i, reading)),
          ),
        ),
      ),
      all.length > rows.length ? h("button", { type: "button", class: "rest", onclick: () => this.#open() }, `Show all ${all.length}`) : "",
    );
  }

  /** Shows all contexts of the band from now on; who came by keyboard goes on at the first new one. */
  #open() {
    this.whole = true;
    this.show(this.step);
    const next = this.body.querySelectorAll(".context")[FIRST];
    next.tabIndex = -1;
    next.focus({ preventScroll: true });
  }

  /** Of the neuron itself at the step, and of its partners. */
  #readings() {
    const { run, seed, step } = this;
    const all = this.neuron.readings;
    const own = all.find((reading) => reading.seed === seed && reading.step === run.steps[step]);
    const missing = { seed, row: this.neuron.row, step: run.steps[step], n: 0 };
    return [own ?? missing, ...all.filter((reading) => reading.seed !== seed).sort((a, b) => a.seed - b.seed)];
  }

  #name(reading, i) {
    const { run } = this;
    const label = run.label(reading.seed, reading.row);
    const seed = h("bdi", {}, words.visible(run.seeds[reading.seed]));
    if (!i) return [h("strong", {}, label), h("small", {}, ` this neuron, step ${reading.step}`)];
    const address = run.address(reading.seed, run.steps.indexOf(reading.step), reading.row);
    const partner = (this.neuron.partners?.[run.last] ?? []).find((match) => match[0] === reading.seed);
    const corr = partner ? `, ρ ${words.share(partner[2])}` : "";
    return [h("a", { href: address }, label), h("small", {}, " seed ", seed, `, step ${reading.step}${corr}`)];
  }

  /** A window of text, each token coloured by the activation there. */
  #window(context, i, reading) {
    const [, , position, activation, first, n] = context;
    const start = this.neuron.starts[i];
    if (i >= reading.n) return h("p", { class: "none" }, "Kept for the most active contexts only.");
    const own = reading === this.neuron.readings[0];
    const tokens = [...Array(n).keys()].map((k) => {
      const code = reading.codes[start + k];
      const known = code !== this.run.unknown;
      const at = first + k === position;
      const x = own && at ? activation : (code / this.run.levels) * reading.scale;
      const share = known ? Math.min(1, Math.abs(x) / (reading.full || 1)) : 0;
      const text = words.visible(this.texts[this.neuron.tokens[start + k]]);
      const kind = `t${at ? " at" : ""}${x < 0 ? " below" : ""}`;
      return { x, at, known, text, element: h("span", { class: kind, title: known ? `${words.token(text)} ${words.size(x, 2)}` : "not known", "--a": share.toFixed(3) }, text) };
    });
    const here = tokens.find(({ at }) => at);
    const value = here?.known ? words.size(here.x, own ? 3 : 2) : "–";
    return h(
      "p",
      { class: "window" },
      h("span", { class: "value", title: "activation at the underlined token" }, value),
      h("bdi", { class: "text" }, tokens.map(({ element }) => element)),
      h("span", { class: "hidden" }, ` Activation ${value} at ${here ? words.token(here.text) : "no token"}.`),
    );
  }
}

/** The scale of the colours. */
function legend() {
  const step = (a, below) => h("span", { class: below ? "t below" : "t", "--a": a });
  return h(
    "p",
    { class: "legend" },
    h("span", {}, "below 0 "),
    [1, 0.5].map((a) => step(a, true)),
    [0, 0.25, 0.5, 0.75, 1].map((a) => step(a, false)),
    h("span", {}, " its largest activation"),
  );
}
