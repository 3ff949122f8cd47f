// Small pictures, drawn as SVG, each with its meaning in a title for screen readers.
"use strict";

const charts = (() => {
  // Pixels that a picture has, so that its text is of one size on all screens.
  const room = () => Math.min(660, window.innerWidth - 34);

  /** Excess correlation over the steps, with errors, the threshold and the step that is looked at. */
  function course(run, steps) {
    const wide = room();
    const height = 190;
    const [left, right, top, bottom] = [44, 14, 12, 30];
    const n = run.steps.length;
    const values = steps.excess_corr;
    const errors = steps.excess_se.map((error) => error ?? 0);
    const highs = values.map((value, i) => (value ?? 0) + errors[i]);
    const lows = values.map((value, i) => (value ?? 0) - errors[i]);
    const high = Math.min(1, Math.max(run.threshold * 1.2, ...highs) + 0.05);
    const low = Math.max(-1, Math.min(0, ...lows));
    const x = (i) => (n === 1 ? wide / 2 : left + (i * (wide - left - right)) / (n - 1));
    const y = (value) => top + ((high - value) * (height - top - bottom)) / (high - low);
    const known = [...values.keys()].filter((i) => words.known(values[i]));
    const ticks = [...new Set([0, run.threshold, Math.floor(high * 10) / 10])];
    const every = Math.ceil(n / (wide / 60));
    const cursor = svg("line", { class: "cursor", y1: top, y2: height - bottom });
    const dot = svg("circle", { class: "here", r: 6 });
    const picture = svg(
      "svg",
      { viewBox: `0 0 ${wide} ${height}`, class: "chart", role: "img" },
      svg("title", {}, "Excess correlation by training step; the table below has the numbers."),
      ticks.map((value) => [
        svg("line", { class: value === run.threshold ? "limit" : "rule", x1: left, x2: wide - right, y1: y(value), y2: y(value) }),
        svg("text", { class: "tick end", x: left - 8, y: y(value) + 4 }, words.share(value, 1)),
      ]),
      run.steps.map((step, i) =>
        i % every && i !== n - 1 ? null : svg("text", { class: "tick middle", x: x(i), y: height - 8 }, short(step)),
      ),
      cursor,
      svg("polyline", { class: "line", points: known.map((i) => `${x(i)},${y(values[i])}`).join(" ") }),
      known.map((i) => [
        svg("line", { class: "error", x1: x(i), x2: x(i), y1: y(values[i] - errors[i]), y2: y(values[i] + errors[i]) }),
        svg("circle", { class: "dot", cx: x(i), cy: y(values[i]), r: 3.5 }),
      ]),
      dot,
    );
    const show = (i) => {
      cursor.setAttribute("x1", x(i));
      cursor.setAttribute("x2", x(i));
      dot.setAttribute("cx", x(i));
      dot.setAttribute("cy", y(values[i] ?? 0));
    };
    return { picture, show, inset: [left / wide, right / wide] };
  }

  const short = (step) => (step >= 10000 && step % 1000 === 0 ? `${step / 1000}k` : String(step));

  /** How often the neuron has which activation; the heights are logarithmic. */
  function histogram({ low, high, counts }) {
    const wide = room();
    const height = 150;
    const [top, bottom] = [8, 22];
    const tallest = Math.log1p(Math.max(...counts));
    const total = counts.reduce((sum, count) => sum + count, 0);
    const width = wide / counts.length;
    const x = (value) => ((value - low) / (high - low)) * wide;
    return svg(
      "svg",
      { viewBox: `0 0 ${wide} ${height}`, class: "chart", role: "img" },
      svg("title", {}, `Histogram of ${total.toLocaleString("en")} activations from ${words.size(low)} to ${words.size(high)}; logarithmic heights.`),
      counts.map((count, i) => {
        const tall = count ? Math.max(1, (Math.log1p(count) / tallest) * (height - top - bottom)) : 0;
        const kind = low + ((i + 0.5) * (high - low)) / counts.length < 0 ? "bar below" : "bar";
        return svg("rect", { class: kind, x: i * width, y: height - bottom - tall, width: width * 0.86, height: tall });
      }),
      svg("line", { class: "rule", x1: 0, x2: wide, y1: height - bottom, y2: height - bottom }),
      [low, 0, high]
        .filter((value, i, all) => i !== 1 || (x(0) > 50 && x(0) < wide - 50) || all[0] === 0)
        .map((value) => {
          const side = value === high ? "end" : value === low ? "start" : "middle";
          return svg("text", { class: `tick ${side}`, x: x(value), y: height - 5 }, words.size(value));
        }),
    );
  }

  return { course, histogram };
})();
