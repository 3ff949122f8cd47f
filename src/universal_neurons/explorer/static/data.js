// The data of the run: shards, which are scripts that call explorer.put (see shards.py), and which
// neuron is where in them.
"use strict";

const explorer = (() => {
  const waiting = new Map(); // shards that were asked for, by name
  const shards = new Map(); // promises of all that were, by name

  /** Called by every shard with its deflated bytes. */
  function put(name, text) {
    waiting.get(name)?.(text);
  }

  /** A shard: its facts, and its arrays by name. */
  function load(name) {
    if (!shards.has(name)) {
      const loaded = script(name).then(inflate).then(unpack);
      loaded.catch(() => shards.delete(name)); // so that it is tried again
      shards.set(name, loaded);
    }
    return shards.get(name);
  }

  function script(name) {
    return new Promise((resolve, reject) => {
      const element = document.createElement("script");
      const end = () => {
        waiting.delete(name);
        element.remove();
      };
      waiting.set(name, (text) => {
        resolve(text);
        end();
      });
      element.onerror = () => {
        reject(new Error(`data/${name}.js is missing: the explorer is a folder, copy all of it.`));
        end();
      };
      element.src = `data/${name}.js`;
      document.head.append(element);
    });
  }

  async function inflate(text) {
    if (!window.DecompressionStream) throw new Error("The explorer needs a browser of 2023 or newer.");
    const stream = new Blob([unpacked(text)]).stream().pipeThrough(new DecompressionStream("deflate"));
    return new Uint8Array(await new Response(stream).arrayBuffer());
  }

  /** The bytes of a text with seven bits in every character, the lowest first. */
  function unpacked(text) {
    const found = new Uint8Array((text.length * 7) >> 3);
    let [held, n, at] = [0, 0, 0]; // bits of the byte to come, and how many
    for (let i = 0; i < text.length; i++) {
      held |= text.charCodeAt(i) << n;
      n += 7;
      if (n < 8) continue;
      found[at++] = held; // its low byte
      held >>= 8;
      n -= 8;
    }
    return found;
  }

  function unpack(bytes) {
    const length = bytes[0] | (bytes[1] << 8) | (bytes[2] << 16) | (bytes[3] << 24);
    const header = JSON.parse(new TextDecoder().decode(bytes.subarray(4, 4 + length)));
    const arrays = {};
    let at = 4 + length;
    for (const [name, type, n] of header.arrays) {
      arrays[name] = READERS[type](bytes.subarray(at, at + n * type[1]), n);
      at += n * type[1];
    }
    return { facts: header.facts, arrays };
  }

  // Arrays of more than one byte per value have all low bytes first.
  const join = (Kind) => (bytes, n) => {
    const found = new Kind(n);
    for (let plane = 0; plane * n < bytes.length; plane++)
      for (let i = 0; i < n; i++) found[i] |= bytes[plane * n + i] << (8 * plane);
    return found;
  };
  const READERS = {
    u1: (bytes) => bytes,
    i1: (bytes) => new Int8Array(bytes.buffer, bytes.byteOffset, bytes.length),
    u2: join(Uint16Array),
    u4: join(Uint32Array),
    f2: (bytes, n) => Float32Array.from(join(Uint16Array)(bytes, n), (bits) => halves[bits]),
  };

  /** The value of the bits of a half-precision number. */
  function half(bits) {
    const sign = bits & 0x8000 ? -1 : 1;
    const exponent = (bits >> 10) & 31;
    const fraction = (bits & 1023) / 1024;
    if (exponent === 31) return fraction ? NaN : sign * Infinity;
    return sign * (exponent ? 2 ** (exponent - 15) * (1 + fraction) : 2 ** -14 * fraction);
  }

  const halves = Float32Array.from({ length: 1 << 16 }, (_, bits) => half(bits));

  return { put, load };
})();

/** What is known of the run, and of its neurons, each of which is a row of its seed. */
class Run {
  constructor(facts) {
    Object.assign(this, facts);
    // First row of every layer, and the number of rows, by seed.
    this.starts = facts.widths.map((widths) => widths.reduce((all, n) => [...all, all.at(-1) + n], [0]));
    this.places = facts.chosen.map((rows) => new Map(rows.map((row, i) => [row, i])));
  }

  get last() {
    return this.steps.length - 1;
  }

  /** Layer and index of a row of a seed. */
  where(seed, row) {
    const starts = this.starts[seed];
    let layer = 0;
    while (starts[layer + 1] <= row) layer++;
    return { layer, neuron: row - starts[layer] };
  }

  /** "layer.neuron" of a row of a seed. */
  label(seed, row) {
    const { layer, neuron } = this.where(seed, row);
    return `${layer}.${neuron}`;
  }

  /** The permanent address of a neuron at a step, both by their places. */
  address(seed, step, row) {
    const { layer, neuron } = this.where(seed, row);
    return `#/${encodeURIComponent(this.seeds[seed])}/${this.steps[step]}/${layer}/${neuron}`;
  }

  /** Places of the seed and step, and row, that an address names; null if there is none. */
  find(address) {
    const parts = address.replace(/^#\//, "").split("/");
    if (parts.length !== 4) return null;
    const seed = this.seeds.indexOf(decoded(parts[0]));
    const step = this.steps.indexOf(Number(parts[1]));
    const [layer, neuron] = parts.slice(2).map(Number);
    const width = this.widths[seed]?.[layer];
    if (step < 0 || !(neuron >= 0 && neuron < width)) return null;
    return { seed, step, row: this.starts[seed][layer] + neuron };
  }

  /** The list of all neurons of a model. */
  list(seed, step) {
    return explorer.load(`list-${seed}-${step}`);
  }

  /** What is known of any neuron beyond the lists: all but its groups and course are of the last step. */
  async rest(seed, row) {
    const { layer, neuron } = this.where(seed, row);
    const { facts, arrays } = await explorer.load(`rest-${seed}-${layer}`);
    const n = this.widths[seed][layer];
    const partners = facts.others.flatMap((other, i) => {
      const at = i * n + neuron;
      return arrays.best[at] ? [[other, arrays.best[at] - 1, arrays.corr[at], null, arrays.baseline[at], arrays.mutual[at]]] : [];
    });
    const tokens = ["promoted", "suppressed"].map((name) => {
      const each = (arrays[name]?.length ?? 0) / n;
      return [name, [...(arrays[name] ?? [])].slice(neuron * each, (neuron + 1) * each).map((id) => [id])];
    });
    const label = facts.labels[arrays.label[neuron] - 1];
    return {
      partners: this.steps.map((_, step) => (step === this.last ? partners : null)),
      course: label && [label, arrays.emergence[neuron] - 1],
      groups: facts.groups[neuron],
      steps: Object.fromEntries(facts.weights.map((name) => [name, this.steps.map((_, step) => (step === this.last ? number(arrays[name][neuron]) : null))])),
      ...Object.fromEntries(tokens),
    };
  }

  /** Texts of all tokens, by id. */
  async vocabulary() {
    return (await explorer.load("vocabulary")).facts.texts;
  }

  /** All that is known of a neuron: of a chosen one its shard's facts, tokens and codes. */
  async neuron(seed, row) {
    const place = this.places[seed].get(row);
    if (place === undefined) return null;
    const { facts, arrays } = await explorer.load(`neurons-${seed}-${Math.floor(place / this.perShard)}`);
    this.#cut(facts.neurons, arrays);
    return facts.neurons[place % this.perShard];
  }

  /** Gives every neuron of a shard its own tokens, and its readings their own codes. */
  #cut(neurons, arrays) {
    if (neurons[0].tokens) return;
    let token = 0;
    let code = 0;
    for (const neuron of neurons) {
      const starts = [0];
      for (const context of neuron.contexts) starts.push(starts.at(-1) + context.at(-1));
      neuron.starts = starts; // of every context in the neuron's tokens
      neuron.tokens = arrays.tokens.subarray(token, token + starts.at(-1));
      token += starts.at(-1);
      for (const reading of neuron.readings) {
        reading.codes = arrays.codes.subarray(code, code + starts[reading.n]);
        code += starts[reading.n];
      }
    }
  }
}

/** A number of a list, which has three digits, as a chosen neuron's facts have it. */
function number(value) {
  return Number.isNaN(value) ? null : Number(value.toPrecision(4));
}

function decoded(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return text; // a percent sign that somebody typed
  }
}
