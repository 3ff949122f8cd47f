// The page of one neuron. What does not depend on the step is built once, the rest by `show`.
"use strict";

class NeuronPage {
  /** Loads what is known of a neuron: of one without contexts what the list and `Run.rest` have. */
  static async of(run, seed, step, row) {
    const [neuron, texts] = await Promise.all([run.neuron(seed, row), run.vocabulary()]);
    if (neuron) return new NeuronPage(run, seed, row, neuron, texts, false);
    const [list, rest] = await Promise.all([run.list(seed, step), run.rest(seed, row)]);
    const steps = { ...listed(run, step, row, list), ...rest.steps };
    return new NeuronPage(run, seed, row, { ...rest, row, steps, contexts: [] }, texts, true);
  }

  constructor(run, seed, row, neuron, texts, bare) {
    Object.assign(this, { run, seed, row, neuron, texts, bare });
    this.label = run.label(seed, row);
    if (bare) this.#follow();
  }

  /** Numbers of a neuron without contexts at the other steps, which come one after another. */
  async #follow() {
    for (let step = 0; step < this.run.steps.length; step++) {
      const list = await this.run.list(this.seed, step);
      if (this.gone) return;
      const found = listed(this.run, step, this.row, list);
      for (const [name, values] of Object.entries(found)) this.neuron.steps[name][step] = values[step];
    }
    if (this.element?.isConnected) {
      this.#course();
      this.show(this.step);
    }
  }

  /** The numbers at a step, by name. */
  at(step) {
    return Object.fromEntries(Object.entries(this.neuron.steps).map(([name, values]) => [name, values[step]]));
  }

  view(step, neighbours) {
    const { run, neuron, label } = this;
    this.words = h("div", { class: "words" });
    this.picture = h("div", { class: "course" });
    this.partners = h("div", {});
    this.group = h("div", {});
    this.title = h("p", { class: "place" });
    this.links = h("nav", { class: "steps", "aria-label": "Neurons" });
    this.neighbours = neighbours;
    const last = `at step ${run.steps[run.last]}`;
    const tokens = [
      this.#tokens("Promoted", neuron.promoted, `The ten tokens whose logits its output raises most ${last}, by cosine with the unembedding`),
      this.#tokens("Suppressed", neuron.suppressed, `The ten tokens whose logits it lowers most ${last}, by cosine with the unembedding`),
      this.#tokens("Activating", neuron.activating, "Tokens with the largest mean activation, of those that occur ten times or more"),
    ].filter(Boolean);
    this.contexts = neuron.contexts.length ? new Contexts(run, neuron, this.seed, this.texts) : null;
    this.element = h(
      "article",
      { class: "page" },
      h("div", { class: "title" }, h("div", {}, h("h1", {}, `Neuron ${label}`), this.title), this.links),
      h(
        "div",
        { class: "two" },
        h("section", { "aria-labelledby": "w" }, h("h2", { id: "w" }, "In words"), this.words),
        h("section", { "aria-labelledby": "c" }, h("h2", { id: "c" }, "Over training"), this.picture),
      ),
      h("section", { "aria-labelledby": "p" }, h("h2", { id: "p" }, "Partners in the other seeds"), this.partners, this.group),
      h(
        "section",
        { "aria-labelledby": "x" },
        h("h2", { id: "x" }, "The same contexts in every seed"),
        this.contexts ? this.contexts.view() : h("p", { class: "none" }, "Contexts were kept of chosen neurons only (explorer.neurons in the configuration): this is none of them."),
      ),
      tokens.length || neuron.histograms ? h("div", { class: "three" }, tokens, neuron.histograms ? this.#histogram() : null) : null,
      this.#details(),
    );
    this.#course();
    this.show(step);
    return this.element;
  }

  /** Shows what there is at a step. */
  show(step) {
    const { run, seed } = this;
    this.step = step;
    const n = this.at(step);
    const name = h("bdi", {}, words.visible(run.seeds[seed]));
    const { layer, neuron } = run.where(seed, this.row);
    this.title.replaceChildren(`Layer ${layer}, neuron ${neuron} of seed `, name, ` at step ${run.steps[step]}`);
    const { first, then } = words.sentences(run, n, this.neuron.course);
    this.words.replaceChildren(
      h("p", { class: n.universal ? "lead universal" : "lead" }, first[0]),
      h("p", {}, first.slice(1).join(" ")),
      h("ul", {}, then.map((text) => h("li", {}, text))),
    );
    this.partners.replaceChildren(this.#partners(step));
    this.group.replaceChildren(this.#group(step) ?? "");
    this.slider.value = step;
    this.slider.setAttribute("aria-valuetext", `step ${run.steps[step]}, excess ${words.share(n.excess_corr)}`);
    this.chart.show(step);
    [...this.picture.querySelectorAll("tbody tr")].forEach((tr, i) => (i === step ? tr.setAttribute("aria-current", "true") : tr.removeAttribute("aria-current")));
    this.contexts?.show(step);
    this.#detailed(n);
    this.#steer(step);
  }

  /** Links to neighbours, and the downloads. */
  #steer(step) {
    const { run } = this;
    const to = (by, text, title, key) => {
      const [seed, row] = this.neighbours(by);
      return h("a", { class: "button", href: run.address(seed, step, row), title: `${title} (${key})`, "data-by": by }, text);
    };
    this.links.replaceChildren(
      h("a", { class: "button", href: this.back ?? "#/", title: "Back to the list (u)", "data-by": "up" }, "List"),
      to(-1, "‹ Previous", "Previous neuron of the list", "k"),
      to(1, "Next ›", "Next neuron of the list", "j"),
      to(0, "Random", "A neuron of the list at random", "r"),
      h("button", { type: "button", class: "button", onclick: () => download(`${this.#file}-steps.csv`, csv(this.#stepRows())) }, "CSV of numbers"),
      this.contexts ? h("button", { type: "button", class: "button", onclick: () => download(`${this.#file}-contexts.csv`, csv(this.#contextRows())) }, "CSV of contexts") : "",
    );
  }

  get #file() {
    return `seed-${this.run.seeds[this.seed]}-neuron-${this.label}`.replace(/[^\w.-]+/g, "_");
  }

  #course() {
    const { run, seed, row } = this;
    const go = (step) => location.replace(run.address(seed, step, row));
    this.chart = charts.course(run, this.neuron.steps);
    this.slider = h("input", {
      type: "range",
      min: 0,
      max: run.steps.length - 1,
      step: 1,
      "aria-label": "Training step",
      disabled: run.steps.length === 1,
      oninput: (event) => go(Number(event.target.value)),
    });
    const rows = run.steps.map((step, i) => {
      const n = this.at(i);
      return [
        h("a", { href: run.address(seed, i, row), onclick: (event) => (event.preventDefault(), go(i)) }, String(step)),
        words.within(words.share(n.excess_corr), n.excess_se),
        this.#best(i),
        n.role ? words.visible(n.role) : "–",
        words.signed(words.loss(n)),
      ];
    });
    const [left, right] = this.chart.inset;
    this.picture.replaceChildren(
      this.chart.picture,
      h("div", { class: "slide", "--left": `${100 * left}%`, "--right": `${100 * right}%` }, this.slider),
      table("By training step", ["Step", "Excess", "Best partner", "Role", "Loss, nats"], rows, { current: this.step ?? -1 }),
    );
  }

  /** The partner with the largest correlation at a step. */
  #best(step) {
    const matches = this.neuron.partners[step] ?? [];
    if (!matches.length) return this.neuron.partners[step] ? "–" : h("small", {}, "not kept");
    const [seed, row, corr] = matches.reduce((best, match) => (match[2] > best[2] ? match : best));
    const { run } = this;
    return [h("a", { href: run.address(seed, step, row) }, run.label(seed, row)), h("small", {}, " seed ", h("bdi", {}, words.visible(run.seeds[seed])), `, ρ ${words.share(corr)}`)];
  }

  #partners(step) {
    const { run } = this;
    const matches = this.neuron.partners[step];
    if (!matches) return h("p", { class: "none" }, "Of neurons without contexts, partners are known at ", h("a", { href: run.address(this.seed, run.last, this.row) }, `step ${run.steps[run.last]}`), " alone.");
    if (!matches.length) return h("p", { class: "none" }, "It has no partner at this step.");
    const rows = matches.map(([seed, row, corr, error, baseline, mutual]) => [
      h("bdi", {}, words.visible(run.seeds[seed])),
      h("a", { href: run.address(seed, step, row) }, run.label(seed, row)),
      words.within(words.share(corr), error),
      words.share(baseline),
      h("span", { class: corr - baseline > run.threshold ? "above" : "" }, words.share(corr - baseline)),
      mutual ? "yes" : "no",
    ]);
    return table("Partners", ["Seed", "Best match", "Correlation", "With rotations", "Excess", "Mutual"], rows);
  }

  #group(step) {
    const { run } = this;
    const group = this.neuron.groups?.[step];
    if (!group) return null;
    const links = group.members.map(([seed, row]) => [
      h("a", { class: seed === this.seed ? "chip own" : "chip", href: run.address(seed, step, row) }, run.label(seed, row), h("small", {}, " seed ", h("bdi", {}, words.visible(run.seeds[seed])))),
      " ",
    ]);
    const [mean, least] = group.corr.map((corr) => words.share(corr));
    return h("p", { class: "group" }, `A group of ${group.members.length}, each the best match of all others (correlations: mean ${mean}, smallest ${least}): `, links);
  }

  #tokens(name, tokens, about) {
    if (!tokens?.length) return null;
    const largest = Math.max(...tokens.map(([, value]) => Math.abs(value)));
    // Of neurons without contexts only the order is known.
    const items = tokens.map(([id, value, count]) =>
      h(
        "li",
        { "--a": words.known(value) ? Math.abs(value) / (largest || 1) : 0, class: value < 0 ? "below" : "" },
        h("bdi", { class: "token" }, words.token(this.texts[id] ?? `#${id}`)),
        words.known(value) ? h("span", { class: "amount" }, words.size(value, 2), count ? h("small", {}, ` ×${count.toLocaleString("en")}`) : null) : null,
      ),
    );
    return h("section", { class: `tokens ${name.toLowerCase()}` }, h("h2", {}, name), h("p", { class: "about" }, about), h("ol", {}, items));
  }

  #histogram() {
    const histograms = this.neuron.histograms;
    const body = h("div", {}, charts.histogram(histograms[0]));
    const show = (event) => body.replaceChildren(charts.histogram(histograms[Number(event.target.value)]));
    const names = histograms.map(({ subset }, i) => h("option", { value: i }, subset === null ? "all scored tokens" : words.visible(subset)));
    const choice = histograms.length > 1 ? h("label", { class: "inline" }, "of ", h("select", { onchange: show }, names)) : null;
    const about = h("p", { class: "about" }, `At step ${this.run.steps[this.run.last]}; heights are logarithmic.`);
    return h("section", { class: "histogram", "aria-labelledby": "h" }, h("h2", { id: "h" }, "Activations"), h("div", { class: "bar" }, about, choice), body);
  }

  #details() {
    this.all = h("div", { class: "numbers" });
    return h("details", { class: "all" }, h("summary", {}, "All its numbers at this step"), this.all);
  }

  #detailed(n) {
    const items = Object.entries(n)
      .filter(([, value]) => value !== null && value !== undefined)
      .map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, typeof value === "number" ? words.size(value, 4) : words.visible(String(value)))));
    const model = this.run.models[this.seed][this.step];
    if (model) items.push(h("div", { class: "wide" }, h("dt", {}, model[0] ? "commit" : "weights (SHA-256)"), h("dd", {}, model[0] ?? model[1])));
    this.all.replaceChildren(h("dl", {}, items));
  }

  #stepRows() {
    const { run } = this;
    const names = Object.keys(this.neuron.steps);
    const { layer, neuron } = run.where(this.seed, this.row);
    const others = run.seeds.filter((_, i) => i !== this.seed);
    const head = ["step", "seed", "layer", "neuron", ...names, ...others.flatMap((seed) => [`best_match_${seed}`, `best_corr_${seed}`])];
    const rows = run.steps.map((step, i) => {
      const partners = others.flatMap((seed) => {
        const match = this.neuron.partners[i]?.find(([other]) => run.seeds[other] === seed);
        return match ? [run.label(match[0], match[1]), match[2]] : [null, null];
      });
      return [step, run.seeds[this.seed], layer, neuron, ...names.map((name) => this.neuron.steps[name][i]), ...partners];
    });
    return [head, ...rows];
  }

  #contextRows() {
    const { run, neuron } = this;
    const rows = [["band", "sequence", "position", "seed", "step", "neuron", "token_position", "token", "activation"]];
    for (const reading of neuron.readings) {
      neuron.contexts.slice(0, reading.n).forEach(([band, sequence, position, , first, n], i) => {
        for (let k = 0; k < n; k++) {
          const at = neuron.starts[i] + k;
          const code = reading.codes[at];
          const x = code === run.unknown ? null : Number(((code / run.levels) * reading.scale).toPrecision(3));
          const text = this.texts[neuron.tokens[at]];
          rows.push([run.bands[band], sequence, position, run.seeds[reading.seed], reading.step, run.label(reading.seed, reading.row), first + k, text, x]);
        }
      });
    }
    return rows;
  }
}

/** The numbers that a model's list has of a neuron, as its shard would have them. */
function listed(run, step, row, { facts, arrays }) {
  const found = {};
  const put = (name, value) => {
    found[name] = Array(run.steps.length).fill(null);
    found[name][step] = value;
  };
  for (const [name, values] of Object.entries(arrays)) put(name, number(values[row]));
  put("max_corr", number(arrays.excess_corr[row] + arrays.baseline_corr[row]));
  for (const name of ["role", "family"]) put(name, run.names[name][arrays[name][row] - 1] ?? null);
  put("explanation", facts.explanations[arrays.explanation[row] - 1] ?? null);
  for (const name of ["universal", "dead"]) put(name, Boolean(arrays[name][row]));
  return found;
}
