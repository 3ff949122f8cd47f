"""The explorer in a browser: what its pages show is what the tables have, whatever the text is."""

from __future__ import annotations

import csv
import io
import re
import shutil
import time

import numpy as np
import pandas as pd
import pytest
from explored import HOSTILE, Size, explored
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import Select, WebDriverWait

from universal_neurons.explorer.rest import WEIGHTS

# Debian's packages chromium and chromium-driver (`make browser`).
CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(
    not (CHROMIUM and DRIVER), reason="no chromium here: make browser, as root, installs it"
)

SIZE = Size()
ODD = Size(seeds=("<b>1</b>", 'a/"b"&{c}', "\u202eright"), steps=(0, 7), d_mlp=20, chosen=3)


@pytest.fixture(scope="module")
def driver():
    """A browser of 1400 by 900 pixels."""
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for option in ("headless=new", "no-sandbox", "disable-gpu", "window-size=1400,900"):
        options.add_argument(f"--{option}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    found = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    yield found
    found.quit()


class Page:
    """The explorer in the browser."""

    def __init__(self, driver, index):
        self.driver = driver
        self.address = index.as_uri()

    def open(self, fragment="#/"):
        self.driver.get("about:blank")
        self.driver.get(self.address + fragment)
        self.until(lambda: self.all(".count, .page h1, .failed") and not self.all(".wait"))
        if self.all(".list"):
            self.until(lambda: self.text(".count"))

    def until(self, holds):
        return WebDriverWait(self.driver, 10, 0.02).until(lambda _: holds())

    def all(self, selector):
        return self.driver.find_elements(By.CSS_SELECTOR, selector)

    def one(self, selector):
        return self.driver.find_element(By.CSS_SELECTOR, selector)

    def text(self, selector):
        return self.one(selector).get_property("textContent")

    def fragment(self):
        return self.run("return location.hash")

    def run(self, script, *arguments):
        return self.driver.execute_script(script, *arguments)

    def neurons(self):
        """Seeds' places and rows of all that the list has, in order."""
        return [tuple(each) for each in self.run("return list.found.map(([s, r]) => [s, r])")]

    def filtered(self, **fields):
        """The list's neurons once its fields are filled in."""
        before = self.run("return list.turn")
        for name, value in fields.items():
            field = self.one(f"[name={name}]")
            if field.tag_name == "select":
                Select(field).select_by_value(value)
            else:
                field.clear()
                field.send_keys(value)
        self.until(lambda: self.run("return list.turn") > before)
        time.sleep(0.3)  # what was typed last is waited for
        return self.neurons()


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return explored(tmp_path_factory.mktemp("made"), SIZE)


@pytest.fixture
def page(driver, made):
    """The explorer of an ordinary run; no test may leave anything on the console."""
    found = Page(driver, made)
    driver.get_log("browser")
    yield found
    assert [entry for entry in driver.get_log("browser") if entry["level"] == "SEVERE"] == []


@pytest.fixture(scope="module")
def tables(made):
    def read(name):
        found = pd.read_parquet(made.parent.parent / f"{name}.parquet")
        return found.assign(seed=found["seed"].astype(str))

    return read


def rows(table):
    """Places of seeds and rows of a table's neurons."""
    seed = table["seed"].map(SIZE.seeds.index)
    return list(zip(seed, table["layer"] * SIZE.d_mlp + table["neuron"], strict=True))


def of_last(table):
    return table[table["step"] == SIZE.steps[-1]]


def address(row, step=SIZE.steps[-1]):
    return f"#/{row['seed']}/{step}/{row['layer']}/{row['neuron']}"


def chosen(tables):
    """Keys of the first neuron with contexts."""
    return tables("examples")[["seed", "layer", "neuron"]].iloc[0]


def own(table, key):
    """A table's rows of a neuron."""
    same = [table[name] == key[name] for name in ("seed", "layer", "neuron")]
    return table[np.all(same, axis=0)]


def texts_of(made):
    """Text of every token."""
    vocabulary = pd.read_parquet(made.parent.parent / "vocabulary.parquet")
    return dict(zip(vocabulary["token_id"], vocabulary["text"], strict=True))


def test_the_list_has_all_neurons_by_excess(page, tables):
    page.open()
    last = of_last(tables("universality"))
    assert page.text(".count") == f"{len(last)} neurons"
    # In half precision, which the pages hold, some are alike.
    last = last.assign(excess_corr=last["excess_corr"].astype(np.float16))
    ordered = last.sort_values("excess_corr", ascending=False, kind="stable")
    assert page.neurons()[:50] == rows(ordered)[:50]
    best = ordered.iloc[0]
    first = page.one(".row")
    assert f"{best['layer']}.{best['neuron']}" in first.text
    assert f"{best['excess_corr']:.2f}".removeprefix("0") in first.text


def test_a_head_sorts_and_sorts_back(page, tables):
    page.open()
    last = of_last(tables("universality"))
    head = page.one(".head .q button")
    for way in ("ascending", "descending"):
        head.click()
        page.until(lambda way=way: page.one(".head .q").get_attribute("aria-sort") == way)
        q = last.set_index(pd.MultiIndex.from_tuples(rows(last)))["q_value"]
        found = q.loc[page.neurons()].astype(np.float16).to_numpy()
        assert (np.diff(found if way == "ascending" else found[::-1]) >= 0).all()


def test_filters_leave_what_they_say(page, tables):
    page.open()
    last = of_last(tables("universality"))
    roles, families = of_last(tables("roles")), of_last(tables("families"))
    assert sorted(page.filtered(role="prediction")) == rows(roles[roles["role"] == "prediction"])
    page.open()
    letters = families[families["family"] == "letter"]
    assert sorted(page.filtered(family="letter", layer="1")) == rows(letters[letters["layer"] == 1])
    page.open()
    best = last[(last["excess_corr"] >= 0.2) & (last["q_value"] <= 0.01) & (last["seed"] == "1")]
    assert sorted(page.filtered(excess="0.2", q="0.01", seed="=1")) == rows(best)
    early = tables("universality").query("step == 0 and universal")
    page.open()
    assert sorted(page.filtered(step="0", universal="1")) == rows(early)


def test_a_search_finds_indices_tokens_and_text(page, tables, made):
    page.open()
    last = of_last(tables("universality"))
    layer, neuron = last["layer"] == 1, last["neuron"].astype(str)
    assert sorted(page.filtered(find="1.3")) == rows(last[layer & neuron.str.startswith("3")])
    texts = texts_of(made)
    examples = tables("examples")
    top = examples[examples["band"] == "top"]
    said = top["token_ids"].map(lambda ids: "".join(texts[i] for i in ids))
    page.open()
    with_text = set(rows(top[said.str.contains("of the", regex=False)]))
    assert with_text
    assert with_text <= set(page.filtered(find="of the"))
    assert len(page.all(".row mark")) > 0
    page.open()
    tokens = tables("activating_tokens")
    war = tokens[tokens["token_id"].map(texts) == " war"]
    assert set(rows(war)) <= set(page.filtered(find='"war"'))


def test_a_row_opens_its_neuron_and_back_is_the_same_list(page):
    page.open()
    listed = page.filtered(universal="1")
    where = page.fragment()
    page.one(".row a").click()
    page.until(lambda: page.all(".page h1"))
    seed, row = listed[0]
    step = SIZE.steps[-1]
    layer, neuron = divmod(row, SIZE.d_mlp)
    assert page.fragment() == f"#/{SIZE.seeds[seed]}/{step}/{layer}/{neuron}"
    assert page.text("h1") == f"Neuron {layer}.{neuron}"
    page.driver.back()
    page.until(lambda: page.all(".list") and page.fragment() == where)
    page.until(lambda: page.neurons() == listed)
    page.driver.forward()
    page.until(lambda: page.all(".page h1"))


def test_the_page_of_a_neuron_says_what_the_tables_have(page, tables):
    key = chosen(tables)
    page.open(address(key))
    row = own(of_last(tables("universality")), key).iloc[0]
    words = page.text(".words")
    assert f"{row['n_matched']} of {len(SIZE.seeds) - 1} other seeds" in words
    assert f"{row['excess_corr']:.2f}".removeprefix("0") in words
    assert words.startswith("Universal" if row["universal"] else "Not universal")
    matches = own(of_last(tables("matches")), key).sort_values("other_seed")
    partners = page.all("[aria-labelledby=p] tbody a")
    assert [link.text for link in partners] == [
        f"{m.best_layer}.{m.best_neuron}" for m in matches.itertuples()
    ]


def test_the_slider_goes_through_training(page, tables):
    key = chosen(tables)
    page.open(address(key))
    page.one("input[type=range]").send_keys(Keys.LEFT)
    step = SIZE.steps[-2]
    page.until(lambda: page.fragment() == address(key, step))
    row = own(tables("universality").query(f"step == {step}"), key).iloc[0]
    page.until(lambda: f"{row['excess_corr']:.2f}".removeprefix("0") in page.text(".words"))
    assert page.text("tr[aria-current] td") == str(step)
    assert f"step {step}" in page.text(".heads .own")
    # The slider itself stays: one drag goes through all steps.
    assert page.run("return document.activeElement.type") == "range"


@pytest.mark.parametrize("step", SIZE.steps)
def test_contexts_are_coloured_by_each_neuron_s_own_activation(page, tables, step):
    key = chosen(tables)
    page.open(address(key, step))
    examples, contexts = own(tables("examples"), key), own(tables("contexts"), key)
    first = examples[(examples["band"] == "top") & (examples["rank"] == 0)].iloc[0]
    same = contexts[(contexts["band"] == "top") & (contexts["rank"] == 0)]
    seeds = ["other_seed", "other_layer", "other_neuron"]
    expected = [first["activations"]]
    if step != SIZE.steps[-1]:
        expected = [same.query(f"other_step == {step}").iloc[0]["activations"]]
    partners = same[same["other_seed"] != key["seed"]].sort_values("other_seed")
    expected += list(partners["activations"])
    models = [(key["seed"], step, key["layer"], key["neuron"])]
    models += [(p[0], SIZE.steps[-1], p[1], p[2]) for p in partners[seeds].itertuples(index=False)]
    neurons = tables("neurons").set_index(["seed", "step", "layer", "neuron"])
    windows = page.all(".context:nth-child(2) .text")
    assert len(windows) == len(SIZE.seeds)
    for window, activations, model in zip(windows, expected, models, strict=True):
        full = neurons.loc[model, ["min", "max"]].abs().max()
        drawn = page.run(
            "return [...arguments[0].children].map(t => +t.style.getPropertyValue('--a'))", window
        )
        signs = page.run("return [...arguments[0].children].map(t => t.matches('.below'))", window)
        half_a_level = np.abs(activations).max() / full / 31 / 2 + 1e-3
        assert np.abs(np.minimum(np.abs(activations) / full, 1) - drawn).max() <= half_a_level
        assert not (np.array(signs) & (activations > 0)).any()


def test_downloads_have_the_neuron_s_rows(page, tables, made):
    key = chosen(tables)
    page.open(address(key))
    page.run("window.kept = []; download = (name, text) => window.kept.push(text)")
    for button in page.all(".steps button"):
        button.click()
    steps, contexts = (list(csv.DictReader(io.StringIO(text))) for text in page.run("return kept"))
    scores = own(tables("universality"), key).sort_values("step")
    assert [int(row["step"]) for row in steps] == list(SIZE.steps)
    assert np.allclose(
        [float(row["excess_corr"]) for row in steps], scores["excess_corr"], rtol=1e-3
    )
    mine = [r for r in contexts if (r["seed"], int(r["step"])) == (key["seed"], SIZE.steps[-1])]
    windows = own(tables("examples"), key)["token_ids"]
    assert len(mine) == windows.map(len).sum()
    texts = texts_of(made)
    assert [row["token"] for row in mine[:16]] == [texts[i] for i in windows.iloc[0]]


def test_a_neuron_without_contexts_has_its_numbers(page, tables):
    last = of_last(tables("universality")).sort_values("excess_corr").iloc[0]
    page.open(address(last))
    assert "kept of chosen neurons only" in page.text(".page")
    page.until(lambda: len(page.all(".course tbody tr")) == len(SIZE.steps))
    steps = ".course tbody td:nth-child(2)"
    page.until(lambda: "–" not in [cell.text for cell in page.all(steps)])
    first = own(tables("universality").query("step == 0"), last).iloc[0]
    shown = page.all(steps)[0].text
    assert abs(float(shown.split()[0].replace("−", "-")) - first["excess_corr"]) < 0.006


def test_a_neuron_without_contexts_has_its_partners_at_the_last_step_and_its_course(page, tables):
    last = of_last(tables("universality")).sort_values("excess_corr").iloc[0]
    page.open(address(last))
    matches = own(of_last(tables("matches")), last).sort_values("other_seed")
    found = page.all("[aria-labelledby=p] tbody tr")
    for row, match in zip(found, matches.itertuples(), strict=True):
        cells = [cell.text for cell in row.find_elements(By.CSS_SELECTOR, "td")]
        numbers = [float(text.replace("−", "-")) for text in cells[2:5]]
        expected = [match.best_corr, match.baseline_corr, match.best_corr - match.baseline_corr]
        assert cells[:2] == [match.other_seed, f"{match.best_layer}.{match.best_neuron}"]
        assert numbers == pytest.approx(expected, abs=0.006)
        assert cells[5] == ("yes" if match.mutual else "no")
    label = own(of_last(tables("trajectories")), last).iloc[0]["label"]
    assert {"never": "at no step", "emergent": "the last step only"}[label] in page.text(".words")
    page.one("input[type=range]").send_keys(Keys.LEFT)
    page.until(lambda: "are known at step 400 alone" in page.text("[aria-labelledby=p]"))


def test_a_neuron_without_contexts_has_its_group_its_tokens_and_what_its_weights_say(
    page, tables, made
):
    roles = of_last(tables("roles"))
    with_page = set(rows(tables("examples")))
    groups = of_last(tables("groups"))
    bare = groups[[row not in with_page for row in rows(groups)]].iloc[0]
    page.open(address(bare))
    members = groups[groups["group"] == bare["group"]].sort_values("seed")
    assert [chip.get_attribute("href").split("#")[1] for chip in page.all(".group a")] == [
        address(member).removeprefix("#") for _, member in members.iterrows()
    ]
    row, texts = own(roles, bare).iloc[0], texts_of(made)
    for name in ("promoted", "suppressed"):
        by_cosine = np.argsort(-np.abs(row[f"{name}_cos"]), kind="stable")
        shown = [f"“{texts[i]}”".replace(" ", "␣") for i in row[f"{name}_ids"][by_cosine]]
        assert [token.text for token in page.all(f".{name} .token")] == shown
    page.one(".all summary").click()
    numbers = dict(
        zip(
            [name.text for name in page.all(".numbers dt")],
            [value.text for value in page.all(".numbers dd")],
            strict=True,
        )
    )
    for name in WEIGHTS:
        assert float(numbers[name].replace("−", "-")) == pytest.approx(row[name], rel=1e-3), name
    score = own(of_last(tables("universality")), bare).iloc[0]
    page.run("window.kept = []; download = (name, text) => window.kept.push(text)")
    page.one(".steps button").click()
    [*_, kept] = csv.DictReader(io.StringIO(page.run("return kept[0]")))
    assert float(kept["vocab_kurt"]) == float(f"{np.float16(row['vocab_kurt']):.4g}")
    assert float(numbers["max_corr"]) == pytest.approx(score["max_corr"], abs=1e-3)
    page.one("input[type=range]").send_keys(Keys.LEFT)
    earlier = tables("groups").query(f"step == {SIZE.steps[-2]}")
    page.until(lambda: bool(page.all(".group a")) == bool(len(own(earlier, bare))))


def test_what_is_printed_is_as_wide_as_its_paper_and_has_its_partners(page, tables):
    """A page of A4 is 718 pixels wide; of a long list the rows on the screen are printed."""
    size = {"width": 718, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    page.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    media = "Emulation.setEmulatedMedia"
    try:
        page.open()
        page.driver.execute_cdp_cmd(media, {"media": "print"})
        assert page.run("return document.documentElement.scrollHeight") < 5000
        page.open(address(chosen(tables)))
        assert page.run("return document.documentElement.scrollWidth") <= 718
        context = page.one(".context")
        ends = [
            each.rect["x"] + each.rect["width"]
            for each in context.find_elements(By.CSS_SELECTOR, ".of")
        ]
        assert len(ends) == len(SIZE.seeds)
        assert max(ends) <= context.rect["x"] + context.rect["width"]
        assert page.one(".numbers dl").rect["height"] > 0
        assert not page.one("input[type=range]").is_displayed()
    finally:
        page.driver.execute_cdp_cmd(media, {"media": ""})
        page.driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_keys_do_what_the_links_do(page):
    page.open()
    listed = page.neurons()
    body = page.one("body")
    body.send_keys("/")
    assert page.run("return document.activeElement.name") == "find"
    page.run("document.activeElement.blur()")
    page.one(".row a").send_keys(Keys.ARROW_DOWN)
    page.run("document.activeElement.click()")
    page.until(lambda: page.all(".page h1"))
    seeds = [SIZE.seeds[seed] for seed, _ in listed]
    there = [
        f"#/{seed}/{SIZE.steps[-1]}/{row // SIZE.d_mlp}/{row % SIZE.d_mlp}"
        for seed, (_, row) in zip(seeds, listed, strict=True)
    ]
    assert page.fragment() == there[1]
    for key, where in (("j", there[2]), ("k", there[1]), ("k", there[0])):
        page.one("body").send_keys(key)
        page.until(lambda where=where: page.fragment() == where)
    page.one("body").send_keys(Keys.ARROW_LEFT)
    page.until(lambda: page.fragment().split("/")[2] == str(SIZE.steps[-2]))
    page.one("body").send_keys("u")
    page.until(lambda: page.all(".list"))
    page.one("body").send_keys("?")
    assert page.one("dialog").is_displayed()


def test_an_address_that_is_none_says_so(page):
    for wrong in ("#/nobody/400/0/0", "#/0/400/0/9999", "#/0/1/0/0", "#/%/400"):
        page.open(wrong)
        assert "has no neuron" in page.text(".failed")


def test_nothing_is_wider_than_a_phone(page, tables):
    page.driver.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": 390, "height": 844, "deviceScaleFactor": 1, "mobile": True},
    )
    try:
        for fragment in ("#/", address(chosen(tables))):
            page.open(fragment)
            assert page.run("return document.documentElement.scrollWidth") <= 390
            inside = "return [...document.querySelectorAll('.scroll')]"
            assert page.run(f"{inside}.filter(e => e.scrollWidth > e.clientWidth).length") == 0
    finally:
        page.driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_nothing_is_fetched_but_its_own_files(page, tables, made):
    page.open(address(chosen(tables)))
    loaded = page.run("return performance.getEntriesByType('resource').map(entry => entry.name)")
    folder = made.parent.as_uri()
    assert [name for name in loaded if not name.startswith((folder, "data:"))] == []
    for file in made.parent.glob("*.*"):
        there = file.read_text().replace("http://www.w3.org/2000/svg", "")
        assert "http:" not in there, file
        assert "https:" not in there, file


def test_ten_thousand_neurons_are_as_smooth_as_few(driver, tmp_path):
    size = Size(seeds=("0", "1"), steps=(0, 100), n_layers=2, d_mlp=2600, chosen=5)
    page = Page(driver, explored(tmp_path, size))
    page.open()
    assert page.text(".count") == "10,400 neurons"
    assert len(page.all(".row")) < 60
    page.run("list.scroller.scrollTop = 1e9")
    page.until(lambda: page.all(f"[aria-rowindex='{10_400 + 1}']"))
    assert len(page.all(".row")) < 60
    # A frame for every tenth of the list.
    slowest = page.run(
        """
        let slowest = 0;
        for (let part = 0; part < 10; part++) {
          const start = performance.now();
          list.scroller.scrollTop = (part / 10) * list.scroller.scrollHeight;
          list.scroller.dispatchEvent(new Event("scroll"));
          list.scroller.offsetHeight;
          slowest = Math.max(slowest, performance.now() - start);
        }
        return slowest;
        """
    )
    assert slowest < 100  # ms; about 5 on a free machine


def test_neurons_of_models_without_a_head_have_pages_without_tokens(driver, tmp_path):
    size = Size(seeds=("0", "1"), steps=(0, 7), d_mlp=20, chosen=3, promoted=0)
    page = Page(driver, explored(tmp_path, size))
    page.open()
    bare = "[...Array(40).keys()].find(row => !run.places[0].has(row))"
    for row in page.run(f"return [run.chosen[0][0], {bare}]"):
        page.open(f"#/0/7/{row // 20}/{row % 20}")
        assert page.all(".words li")
        assert page.all(".promoted, .suppressed") == []


def test_hostile_text_is_shown_as_text(driver, tmp_path):
    name = "<script>window.hurt=1</script>"
    driver.get_log("browser")
    page = Page(driver, explored(tmp_path, ODD, name=name, words=HOSTILE))
    page.open()
    assert page.text("#run") == name
    page.filtered(find="<img src")
    assert "<img src" in page.text(".row mark")
    page.open()
    page.one(".row a").click()
    page.until(lambda: page.all(".text"))
    shown = page.text(".page")
    assert HOSTILE[0] in shown
    assert "‹202E›" in shown
    assert "\u202e" not in shown
    for seed in ODD.seeds[:2]:
        assert seed in shown
    scripts = page.run("return [...document.scripts].map(s => s.textContent).join('')")
    assert scripts == ""
    assert page.run("return window.hurt") is None
    assert page.all("main img, main script, main b") == []
    assert [e for e in driver.get_log("browser") if e["level"] == "SEVERE"] == []
    # Every shard is one call, whose text has neither quotes nor ends of lines of its own.
    call = re.compile(rb'explorer\.put\("[a-z0-9-]+", "([^"\\\r\n]|\\["\\rn])*"\);\n')
    shards = list((tmp_path / "explorer/data").iterdir())
    assert [file for file in shards if not call.fullmatch(file.read_bytes())] == []
