// The list of all neurons: filters, search, sorting, and only as many rows drawn as are seen.
"use strict";

const ROW = 38; // pixels, as in style.css
const SPARE = 12; // rows drawn above and below what is seen
const DEFAULTS = { seed: "", step: "", layer: "", role: "", family: "", universal: "", excess: "", q: "", find: "", sort: "-excess" };
const MANY = 20000; // neurons; of a larger run the first seed is shown first

// What can be sorted by: the number of a neuron, from the list's arrays and its row.
const KEYS = {
  neuron: (arrays, row, seed) => seed * 1e9 + row,
  excess: (arrays, row) => arrays.excess_corr[row],
  q: (arrays, row) => arrays.q_value[row],
  matched: (arrays, row) => arrays.n_matched[row] + arrays.n_mutual[row] / 100,
  role: (arrays, row) => arrays.role[row] || NaN,
  family: (arrays, row) => (arrays.family[row] ? arrays.family[row] - arrays.variance_reduction[row] / 10 : NaN),
  loss: (arrays, row) => words.loss({ delta_loss: arrays.delta_loss[row], attributed_delta_loss: arrays.attributed_delta_loss[row] }),
  active: (arrays, row) => arrays.sparsity[row],
};
const HEADS = [
  ["neuron", "Neuron", "Layer and index, and the seed"],
  ["excess", "Excess", "Excess correlation and its standard error"],
  ["q", "q", "q-value against random directions"],
  ["matched", "Seeds", "Other seeds with a match above the threshold; in brackets, mutual ones"],
  ["role", "Role", "What its output weights do"],
  ["family", "Explained by", "What its activations follow best, and the share of their variance"],
  ["loss", "Loss, nats", "Change of the loss when it is ablated, nats per token; ≈ estimated"],
  ["active", "Active", "Tokens with an activation above 0"],
];

class List {
  constructor(run) {
    this.run = run;
    this.found = []; // [seed, row] of the neurons listed, in order
    this.state = { ...DEFAULTS };
    this.snippets = new Map(); // by "seed/row", where a search found text
  }

  /** The address of the list with its filters. */
  get address() {
    const query = new URLSearchParams();
    for (const [key, value] of Object.entries(this.state)) if (value !== DEFAULTS[key]) query.set(key, value);
    const text = query.toString();
    return text ? `#/?${text}` : "#/";
  }

  get step() {
    const step = this.run.steps.indexOf(Number(this.state.step));
    return this.state.step === "" || step < 0 ? this.run.last : step;
  }

  /** Places of the seeds that are listed. */
  get seeds() {
    const all = [...this.run.seeds.keys()];
    if (this.state.seed === "all") return all;
    const one = this.run.seeds.indexOf(this.state.seed.replace(/^=/, ""));
    if (one >= 0) return [one];
    return this.#isMany ? [0] : all;
  }

  get #isMany() {
    return this.run.starts.reduce((sum, starts) => sum + starts.at(-1), 0) > MANY;
  }

  /** Reads the filters of an address. */
  read(address) {
    const query = new URLSearchParams(address.split("?")[1] ?? "");
    this.state = { ...DEFAULTS };
    for (const key of Object.keys(DEFAULTS)) if (query.has(key)) this.state[key] = query.get(key);
  }

  /** The elements of the view; its rows follow. */
  view() {
    this.body = h("div", { class: "rows", role: "rowgroup" });
    this.space = h("div", { class: "space", role: "presentation" }, this.body);
    this.count = h("p", { class: "count", role: "status" });
    this.head = h("div", { class: "head", role: "row" }, HEADS.map((column) => this.#header(...column)));
    this.scroller = h(
      "div",
      { class: "neurons", role: "table", "aria-label": "Neurons", onscroll: () => this.#draw(), onkeydown: (event) => this.#move(event) },
      h("div", { role: "rowgroup", class: "sticky" }, this.head),
      this.space,
    );
    new ResizeObserver(() => this.#draw()).observe(this.scroller);
    return h("section", { class: "list" }, h("h1", { class: "hidden" }, "Neurons"), this.#filters(), this.count, this.scroller);
  }

  #header(key, text, title) {
    const sort = () => {
      const first = key === "neuron" || key === "q" || key === "role" || key === "family" ? key : `-${key}`;
      this.change({ sort: this.state.sort === first ? (first === key ? `-${key}` : key) : first });
    };
    return h("div", { role: "columnheader", class: `cell ${key}`, "data-key": key }, h("button", { type: "button", title, onclick: sort }, text));
  }

  #filters() {
    const { run, state } = this;
    const select = (key, label, options) =>
      h(
        "label",
        {},
        h("span", {}, label),
        h(
          "select",
          { name: key, onchange: (event) => this.change({ [key]: event.target.value }) },
          options.map(([value, text]) => h("option", { value, selected: state[key] === value }, text)),
        ),
      );
    const number = (key, label, attributes) =>
      h(
        "label",
        {},
        h("span", {}, label),
        h("input", { name: key, type: "number", value: state[key], step: "any", ...attributes, oninput: (event) => this.change({ [key]: event.target.value }) }),
      );
    const any = (names) => [["", "any"], ...names.map((name) => [name, name])];
    const layers = Math.max(...run.widths.map((widths) => widths.length));
    const find = h("input", {
      name: "find",
      type: "search",
      value: state.find,
      placeholder: 'Search: 1.86, a word, or "token"',
      "aria-label": "Search by layer.neuron, text of contexts, or a token in quotes",
      oninput: (event) => {
        clearTimeout(this.typing);
        this.typing = setTimeout(() => this.change({ find: event.target.value }), 150);
      },
    });
    const first = this.#isMany ? run.seeds[0] : "all";
    const step = state.step || String(run.steps[run.last]);
    const seeds = [["all", "all"], ...run.seeds.map((seed) => [`=${seed}`, seed])];
    const seed = select("seed", "Seed", seeds);
    seed.querySelector("select").value = state.seed || (first === "all" ? "all" : `=${first}`);
    const steps = select("step", "Step", run.steps.map((each) => [String(each), String(each)]));
    steps.querySelector("select").value = step;
    this.form = h(
      "form",
      { class: "filters", role: "search", onsubmit: (event) => event.preventDefault(), onreset: () => this.change({ ...DEFAULTS }, true) },
      h("div", { class: "find" }, find),
      h(
        "details",
        { class: "more", open: window.innerWidth > 720 },
        h("summary", {}, "Filters"),
        h(
          "div",
          { class: "fields" },
          seed,
          steps,
          select("layer", "Layer", [["", "any"], ...[...Array(layers).keys()].map((i) => [String(i), String(i)])]),
          select("universal", "Universal", [["", "any"], ["1", "yes"], ["0", "no"]]),
          select("role", "Role", any(run.names.role)),
          select("family", "Explained by", any(run.names.family)),
          number("excess", "Excess ≥", { placeholder: "any" }),
          number("q", "q ≤", { placeholder: "any", min: 0 }),
          h("button", { type: "reset" }, "Clear"),
        ),
      ),
    );
    return this.form;
  }

  /** Changes filters, and the address with them; the list that was is not kept in the history. */
  change(filters, redraw = false) {
    Object.assign(this.state, filters);
    location.replace(this.address);
    if (redraw) requestAnimationFrame(() => this.form.replaceWith(this.#filters()));
  }

  /** Fills the list by its filters. */
  async fill() {
    const { state } = this;
    const seeds = this.seeds;
    const turn = (this.turn = (this.turn ?? 0) + 1);
    const lists = await Promise.all(seeds.map((seed) => this.run.list(seed, this.step)));
    const passes = await this.#searched(seeds, lists);
    if (turn !== this.turn) return; // another filter since
    this.lists = new Map(seeds.map((seed, i) => [seed, lists[i]]));
    const descending = state.sort.startsWith("-");
    const key = KEYS[state.sort.replace(/^-/, "")] ?? KEYS.excess;
    const found = [];
    seeds.forEach((seed, i) => {
      const { arrays } = lists[i];
      const keep = this.#filter(seed, arrays);
      for (let row = 0; row < arrays.excess_corr.length; row++)
        if (keep(row) && passes(seed, row)) found.push([seed, row, key(arrays, row, seed)]);
    });
    // Those without a value come last, whichever way.
    const sign = descending ? -1 : 1;
    found.sort((a, b) => Number.isNaN(a[2]) - Number.isNaN(b[2]) || sign * (a[2] - b[2]) || a[0] - b[0] || a[1] - b[1]);
    this.found = found;
  }

  #filter(seed, arrays) {
    const { state, run } = this;
    const layer = state.layer === "" ? -1 : Number(state.layer);
    const starts = run.starts[seed];
    const [low, high] = layer < 0 ? [0, Infinity] : [starts[layer] ?? Infinity, starts[layer + 1] ?? -1];
    const role = run.names.role.indexOf(state.role) + 1;
    const family = run.names.family.indexOf(state.family) + 1;
    const least = state.excess === "" ? null : Number(state.excess);
    const most = state.q === "" ? null : Number(state.q);
    return (row) =>
      row >= low &&
      row < high &&
      (state.universal === "" || arrays.universal[row] === Number(state.universal)) &&
      (!role || arrays.role[row] === role) &&
      (!family || arrays.family[row] === family) &&
      (least === null || arrays.excess_corr[row] >= least) &&
      (most === null || arrays.q_value[row] <= most);
  }

  /** A function that says of a seed's row whether the search finds it. */
  async #searched(seeds, lists) {
    const { run } = this;
    const sought = this.state.find.trim().toLowerCase();
    this.snippets.clear();
    if (!sought) return () => true;
    const place = /^(\d+)\.(\d*)$/.exec(sought);
    if (place) {
      return (seed, row) => {
        const { layer, neuron } = run.where(seed, row);
        return layer === Number(place[1]) && String(neuron).startsWith(place[2]);
      };
    }
    const quoted = /^["“](.+)["”]$/.exec(sought)?.[1].trim();
    const hit = (token) => (quoted ? token.trim().toLowerCase() === quoted : token.toLowerCase().includes(sought));
    const texts = await Promise.all(seeds.map((seed) => explorer.load(`search-${seed}`)));
    seeds.forEach((seed, i) => {
      for (const { row, tokens, contexts } of texts[i].facts.neurons) {
        const token = tokens.find(hit);
        const context = quoted ? undefined : contexts.find((text) => text.toLowerCase().includes(sought));
        if (context !== undefined) this.snippets.set(`${seed}/${row}`, context);
        else if (token !== undefined) this.snippets.set(`${seed}/${row}`, token);
      }
    });
    const explained = new Map(seeds.map((seed, i) => [seed, lists[i].facts.explanations.map(hit)]));
    const arrays = new Map(seeds.map((seed, i) => [seed, lists[i].arrays]));
    return (seed, row) => {
      const which = arrays.get(seed).explanation[row];
      return this.snippets.has(`${seed}/${row}`) || (which > 0 && explained.get(seed)[which - 1]);
    };
  }

  /** Shows what `fill` found. */
  show() {
    const n = this.found.length;
    const all = [...this.lists.values()].reduce((sum, list) => sum + list.arrays.excess_corr.length, 0);
    const text = n === all ? `${n.toLocaleString("en")} neurons` : `${n.toLocaleString("en")} of ${all.toLocaleString("en")} neurons`;
    this.count.textContent = n ? text : "No neuron passes these filters.";
    this.scroller.setAttribute("aria-rowcount", n + 1);
    this.space.style.height = `${n * ROW}px`;
    for (const head of this.head.children) {
      const sorted = this.state.sort.replace(/^-/, "") === head.dataset.key;
      const way = this.state.sort.startsWith("-") ? "descending" : "ascending";
      head.setAttribute("aria-sort", sorted ? way : "none");
    }
    this.drawn = null;
    this.#draw();
  }

  #draw() {
    if (!this.lists) return;
    const first = Math.max(0, Math.floor(this.scroller.scrollTop / ROW) - SPARE);
    const last = Math.min(this.found.length, Math.ceil((this.scroller.scrollTop + this.scroller.clientHeight) / ROW) + SPARE);
    if (this.drawn && this.drawn[0] === first && this.drawn[1] === last) return;
    const focused = this.body.contains(document.activeElement) ? document.activeElement.getAttribute("href") : null;
    this.drawn = [first, last];
    this.body.style.transform = `translateY(${first * ROW}px)`;
    this.body.replaceChildren(...this.found.slice(first, last).map(([seed, row], i) => this.#row(seed, row, first + i)));
    if (focused) this.#link(focused)?.focus({ preventScroll: true });
  }

  #link(address) {
    return [...this.body.querySelectorAll("a")].find((link) => link.getAttribute("href") === address);
  }

  #row(seed, row, i) {
    const { run } = this;
    const { facts, arrays } = this.lists.get(seed);
    const value = (name) => arrays[name][row];
    const address = run.address(seed, this.step, row);
    const cell = (key, ...children) => h("div", { role: "cell", class: `cell ${key}` }, children);
    const measured = words.known(value("delta_loss"));
    const loss = words.loss({ delta_loss: value("delta_loss"), attributed_delta_loss: value("attributed_delta_loss") });
    const explanation = value("explanation") ? words.token(facts.explanations[value("explanation") - 1]) : "";
    const family = value("family") ? run.names.family[value("family") - 1] : "";
    const snippet = this.snippets.get(`${seed}/${row}`);
    return h(
      "div",
      { role: "row", class: value("universal") ? "row universal" : "row", "aria-rowindex": i + 2, onclick: (event) => event.target.closest("a") || (location.hash = address) },
      cell("neuron", h("a", { href: address }, run.label(seed, row)), h("span", { class: "seed" }, "seed ", h("bdi", {}, words.visible(run.seeds[seed])))),
      cell(
        "excess",
        h("span", { class: "meter", "aria-hidden": "true", "--a": Math.max(0, value("excess_corr")) || 0 }),
        words.share(value("excess_corr")),
        h("small", {}, words.within("", value("excess_se"))),
      ),
      cell("q", words.probability(value("q_value"))),
      cell("matched", `${value("n_matched")} (${value("n_mutual")})`),
      cell("role", value("role") ? h("span", { class: "chip" }, words.visible(run.names.role[value("role") - 1])) : ""),
      cell(
        "family",
        snippet === undefined
          ? [words.visible(family), explanation ? h("bdi", { class: "what" }, ` ${explanation}`) : "", family ? h("small", {}, ` ${words.percent(value("variance_reduction"))}`) : ""]
          : h("bdi", { class: "snippet" }, this.#marked(snippet)),
      ),
      cell("loss", words.known(loss) ? `${measured ? "" : "≈\u00a0"}${words.signed(loss)}` : "–"),
      cell("active", words.percent(value("sparsity"))),
    );
  }

  /** Text with what was sought marked, and not much around it. */
  #marked(text) {
    const sought = this.state.find.trim().replace(/^["“](.+)["”]$/, "$1").trim();
    const at = text.toLowerCase().indexOf(sought.toLowerCase());
    if (at < 0) return words.visible(text);
    const from = Math.max(0, at - (window.innerWidth > 720 ? 16 : 4));
    const parts = [text.slice(from, at), text.slice(at, at + sought.length), text.slice(at + sought.length, at + 40)];
    return [from ? "…" : "", words.visible(parts[0]), h("mark", {}, words.visible(parts[1])), words.visible(parts[2])];
  }

  /** Arrow keys go from row to row. */
  #move(event) {
    const by = { ArrowDown: 1, ArrowUp: -1, PageDown: 12, PageUp: -12, Home: -Infinity, End: Infinity }[event.key];
    const row = event.target.closest(".row");
    if (by === undefined || !row) return;
    event.preventDefault();
    const here = Number(row.getAttribute("aria-rowindex")) - 2;
    const to = Math.min(this.found.length - 1, Math.max(0, here + by));
    const [top, seen] = [this.scroller.scrollTop, this.scroller.clientHeight - 2 * ROW];
    this.scroller.scrollTop = Math.min(to * ROW, Math.max(top, (to + 1) * ROW - seen));
    this.#draw();
    const [seed, number] = this.found[to];
    this.#link(this.run.address(seed, this.step, number))?.focus({ preventScroll: true });
  }

  /** The neuron before (−1), after (1) or anywhere (0) in the list; the seed's rows if it isn't in. */
  neighbour(seed, row, by) {
    const n = this.found.length;
    if (!by && n) return this.found[Math.floor(Math.random() * n)];
    const at = this.found.findIndex((each) => each[0] === seed && each[1] === row);
    if (at >= 0) return this.found[(at + by + n) % n];
    const all = this.run.starts[seed].at(-1);
    return [seed, by ? (row + by + all) % all : Math.floor(Math.random() * all)];
  }
}
