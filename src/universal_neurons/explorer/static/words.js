// Numbers and facts in words.
"use strict";

const words = (() => {
  const known = (x) => x !== null && x !== undefined && !Number.isNaN(x);
  const minus = (text) => text.replace("-", "−");

  /** A correlation, share or probability: two decimals, more where it is small, no leading zero. */
  function share(x, digits = 2) {
    if (!known(x)) return "–";
    return minus(x.toFixed(digits)).replace(/^(−?)0\./, "$1.").replace(/^−?\.0+$/, "0");
  }

  /** A probability: never plain 0. */
  function probability(x) {
    if (!known(x)) return "–";
    if (x < 0.0005) return "< .001";
    return share(x, x < 0.1 ? 3 : 2);
  }

  /** A number with its order of magnitude: three digits. */
  function size(x, digits = 3) {
    if (!known(x)) return "–";
    if (x === 0) return "0";
    const power = Math.floor(Math.log10(Math.abs(x)));
    if (power < -4 || power > 5) {
      const raised = String(power).replace(/./g, (c) => "⁰¹²³⁴⁵⁶⁷⁸⁹"[c] ?? "⁻");
      return `${minus((x / 10 ** power).toFixed(1))}\u00a0×\u00a010${raised}`;
    }
    return minus(x.toLocaleString("en", { maximumFractionDigits: Math.max(0, digits - 1 - power) }));
  }

  /** The same with its sign. */
  const signed = (x, digits = 2) => (known(x) && x > 0 ? "+" : "") + size(x, digits);

  const percent = (x) => (known(x) ? `${size(100 * x, x < 0.1 ? 2 : 3)} %` : "–");

  /** A number and its standard error, which is never plain 0. */
  const within = (text, error, form = (x) => share(x, x < 0.005 ? 3 : 2)) => (known(error) ? `${text}\u00a0±\u00a0${form(error)}` : text);

  /** What can't be seen in a text, or turns it around, by its number. */
  function visible(text) {
    return text
      .replaceAll("\n", "↵")
      .replaceAll("\t", "⇥")
      .replace(/[\u0000-\u001f\u007f-\u009f\u00ad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]/g, (c) =>
        `‹${c.codePointAt(0).toString(16).toUpperCase().padStart(4, "0")}›`,
      );
  }

  /** A token in quotes, its spaces seen. */
  const token = (text) => `“${visible(text).replaceAll(" ", "␣")}”`;

  const ROLES = {
    prediction: "its output raises a few tokens far above the others",
    suppression: "its output lowers a few tokens far below the others",
    partition: "its output raises some tokens and lowers others, many of both",
    entropy: "its output hardly turns the prediction, but makes it more or less sure",
    "token frequency": "its output moves the prediction to or from frequent tokens",
    attention: "its output turns heads to or from the first token",
  };

  const COURSES = {
    never: () => "It is universal at no step.",
    emergent: () => "It is universal at the last step only.",
    maintained: (step) => `It is universal from step ${step} to the last.`,
    lost: (step) => `It was universal from step ${step} on, for some steps, and no longer is.`,
    transient: (step) => `It is universal for the first time at step ${step}, and not at all steps after.`,
  };

  /** How universal a neuron is, as a sentence. */
  function universality(run, n, partners) {
    if (n.dead) return "Dead: it has the same activation at every token.";
    const others = run.seeds.length - 1;
    const matched = `a match above the threshold in ${n.n_matched} of ${others} other seeds`;
    const mutual = n.n_mutual ? ` (mutual in ${n.n_mutual})` : "";
    const excess = `excess correlation ${within(share(n.excess_corr), n.excess_se)}`;
    const parts = `correlation ${share(n.max_corr)} with its best matches, ${share(n.baseline_corr)} with random rotations${known(n.excess_se) ? "; ± is the standard error" : ""}`;
    const state = n.universal ? "Universal" : "Not universal at this step";
    return `${state}: ${matched}${mutual}; ${excess} (${parts}).`;
  }

  /** What chance does. */
  function chance(run, n) {
    if (!known(n.q_value)) return null;
    const q = `q\u00a0${n.q_value < 0.0005 ? "" : "=\u00a0"}${probability(n.q_value).replace(" ", "\u00a0")}`;
    if (!run.randomDirections) return `By the widest of the other nulls, p = ${probability(n.p_value)} (${q}).`;
    const where = "in the other seeds' MLP inputs";
    if (!(n.p_value > 0)) return `No random direction ${where} did as well (${q}).`;
    if (n.p_value < 0.001) return `Fewer than one in 1,000 random directions ${where} did as well (${q}).`;
    return `Of random directions ${where}, ${percent(n.p_value)} did as well (${q}).`;
  }

  /** What happens without the neuron. */
  function effect(n) {
    if (known(n.delta_loss)) {
      const rise = within(signed(n.delta_loss), n.delta_loss_se, (x) => size(x, 1));
      return `Ablated, it changes the loss by ${rise} nats per token (measured).`;
    }
    if (!known(n.attributed_delta_loss)) return null;
    return `Ablated, it would change the loss by about ${signed(n.attributed_delta_loss)} nats per token (estimated).`;
  }

  function role(n) {
    if (!n.role) return null;
    return `Role: ${n.role}${ROLES[n.role] ? ` – ${ROLES[n.role]}` : ""}.`;
  }

  function family(n) {
    if (!n.family) return null;
    const what = n.explanation ? `${n.family} ${token(n.explanation)}` : n.family;
    return `Best explained by: ${what}, ${percent(n.variance_reduction)} of its variance.`;
  }

  function activity(n) {
    return known(n.sparsity) ? `Active (above 0) at ${percent(n.sparsity)} of the tokens.` : null;
  }

  function given(n) {
    return known(n.excess_given_token) ? `Given the token, ${share(n.excess_given_token)} of the excess is left.` : null;
  }

  const course = (pair) => (pair && COURSES[pair[0]] ? COURSES[pair[0]](pair[1]) : null);

  /** All sentences on a neuron at a step, those on universality first. */
  function sentences(run, n, pair) {
    return {
      first: [universality(run, n), chance(run, n), given(n)].filter(Boolean),
      then: [course(pair), role(n), family(n), activity(n), effect(n)].filter(Boolean),
    };
  }

  /** The best number there is for the effect on the loss. */
  const loss = (n) => (known(n.delta_loss) ? n.delta_loss : n.attributed_delta_loss);

  return { known, share, probability, size, signed, percent, within, visible, token, sentences, loss };
})();
