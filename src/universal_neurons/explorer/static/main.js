// Which view an address shows, and the keys.
"use strict";

const main = document.getElementById("main");
let list, page; // the list, and the neuron's page if there is one
let run;

async function start() {
  run = new Run((await explorer.load("run")).facts);
  list = new List(run);
  document.getElementById("run").textContent = words.visible(run.run);
  document.getElementById("summary").textContent = `${run.seeds.length} seeds, ${run.steps.length} steps`;
  document.getElementById("origin").append(
    h("span", {}, "Run ", h("bdi", {}, words.visible(run.run))),
    h("span", { title: run.tokens }, `tokens ${run.tokens.slice(0, 12)}`),
    h("span", {}, `configuration ${run.configuration}`),
    h("span", { id: "model" }),
    h("span", {}, `universal_neurons ${run.version}`),
  );
  window.addEventListener("hashchange", show);
  document.addEventListener("keydown", key);
  document.getElementById("help").addEventListener("click", help);
  await show();
}

/** Shows what the address says. */
async function show() {
  const address = location.hash || "#/";
  try {
    if (/^#\/?(\?|$)/.test(address)) await showList(address);
    else await showNeuron(address);
  } catch (error) {
    fail(error);
  }
}

async function showList(address) {
  const there = main.querySelector(".list");
  list.read(address);
  if (page) page.gone = true;
  page = null;
  if (!there) main.replaceChildren(list.view());
  await list.fill();
  if (location.hash !== address && address !== "#/") return;
  list.show();
  if (!there && list.top) list.scroller.scrollTop = list.top;
  else if (there) list.scroller.scrollTop = 0;
  origin(null, list.step);
  document.title = `${words.visible(run.run)}: neurons`;
}

async function showNeuron(address) {
  const found = run.find(address);
  if (!found) throw new Error(`This run has no neuron ${address.slice(1)}: an address is #/seed/step/layer/neuron.`);
  const { seed, step, row } = found;
  if (list.scroller?.isConnected) list.top = list.scroller.scrollTop;
  if (page?.seed === seed && page.row === row && page.element?.isConnected) {
    page.show(step);
  } else {
    const opened = await NeuronPage.of(run, seed, step, row);
    if (location.hash !== address) return; // another one since
    if (page) page.gone = true;
    page = opened;
    page.back = list.address;
    main.replaceChildren(page.view(step, (by) => list.neighbour(seed, row, by)));
    window.scrollTo(0, 0);
    main.focus({ preventScroll: true });
    say(`Neuron ${page.label}, seed ${run.seeds[seed]}, step ${run.steps[step]}`);
  }
  origin(seed, step);
  document.title = `${page.label} · seed ${words.visible(run.seeds[seed])} · step ${run.steps[step]}`;
}

/** Says at the foot which model it is. */
function origin(seed, step) {
  const model = seed === null ? null : run.models[seed][step];
  const text = model ? (model[0] ? `model's commit ${model[0].slice(0, 12)}` : `model's weights ${model[1].slice(0, 12)}`) : "";
  const element = document.getElementById("model");
  element.textContent = text;
  element.title = model ? (model[0] ?? model[1]) : "";
}

function fail(error) {
  main.replaceChildren(h("section", { class: "failed" }, h("h1", {}, "Nothing to show"), h("p", {}, error.message), h("p", {}, h("a", { href: "#/" }, "All neurons"))));
}

const KEYS_HELP = [
  ["/", "search"],
  ["↑ ↓", "from row to row; Enter opens"],
  ["j k", "next and previous neuron"],
  ["← →", "step before and after"],
  ["r", "a neuron at random"],
  ["u", "back to the list"],
  ["?", "this"],
];

function help() {
  const dialog = document.getElementById("keys");
  dialog.replaceChildren(
    h("h2", { id: "keys-title" }, "Keys and colours"),
    h("dl", {}, KEYS_HELP.map(([keys, text]) => [h("dt", {}, keys.split(" ").map((each) => h("kbd", {}, each))), h("dd", {}, text)])),
    legend(),
    h("p", {}, "Every token is coloured by its activation, in parts of the largest one of that neuron over the whole corpus; below 0 it is orange and has a dotted line."),
    h("form", { method: "dialog" }, h("button", {}, "Close")),
  );
  dialog.showModal();
}

function key(event) {
  if (event.altKey || event.ctrlKey || event.metaKey || event.target.closest("input, select, textarea, dialog")) return;
  const follow = (by) => main.querySelector(`[data-by="${by}"]`)?.click();
  const step = (by) => {
    const to = page.step + by;
    if (to >= 0 && to < run.steps.length) location.replace(run.address(page.seed, to, page.row));
  };
  const actions = {
    "/": () => main.querySelector("[name=find]")?.focus(),
    "?": help,
    ...(page && { j: () => follow(1), k: () => follow(-1), r: () => follow(0), u: () => follow("up") }),
    ...(page && { ArrowLeft: () => step(-1), ArrowRight: () => step(1) }),
    ...(!page && { r: random }),
  };
  if (!actions[event.key]) return;
  event.preventDefault();
  actions[event.key]();
}

function random() {
  const [seed, row] = list.neighbour(list.seeds[0], 0, 0);
  location.hash = run.address(seed, list.step, row);
}

start().catch(fail);
