"""What no schema can say of a configuration: keys that must fit each other."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from typing import Any

from universal_neurons.models import hub, names
from universal_neurons.prepare.corpus import LEAST_TOKENS

SEED_LABEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def problems(config: Mapping[str, Any]) -> Iterator[str]:
    """What does not fit in a configuration with all defaults, each with its key.

    Parameters
    ----------
    config
        As `config.resolve` returns it.
    """
    yield from _models(config["models"])
    if config["models"]["source"] == "train":
        yield from _training(config["models"], config["corpus"])
    yield from _text(config["corpus"])
    yield from _lengths(config["corpus"])
    if config["corpus"]["align"] != "none":
        yield from _aligning(config)
    if not config["capture"]["store"] and config["correlate"]["mode"] == "screened":
        yield (
            "correlate.mode: screened looks at activations twice and needs capture.store: true; "
            "use exact"
        )
    if (
        config["universality"]["criterion"] == "q_value"
        and config["nulls"]["random_directions"]["draws"] == 0
        and config["baseline"]["draws"] < 2
    ):
        yield (
            "universality.criterion: q_value holds rotations against each other and needs "
            "baseline.draws of 2 or more (or nulls.random_directions.draws of 1 or more)"
        )
    yield from _leaving(config["persistence"]["exit_threshold"], config["universality"])


def _leaving(exit_threshold: float | None, universality: Mapping[str, Any]) -> Iterator[str]:
    if exit_threshold is None:
        return
    if universality["criterion"] != "excess":
        yield (
            "persistence.exit_threshold: is an excess correlation and can't be used with "
            f"universality.criterion: {universality['criterion']}, whose thresholds follow from "
            "the null of each step, seed and layer; use null, or criterion: excess"
        )
    elif exit_threshold > universality["excess_threshold"]:
        yield (
            f"persistence.exit_threshold: {exit_threshold:g} is above "
            f"universality.excess_threshold ({universality['excess_threshold']:g}); a neuron would "
            "leave before it enters"
        )


def _models(models: Mapping[str, Any]) -> Iterator[str]:
    seeds, steps = models["seeds"], models["steps"]
    for key, values in (("seeds", seeds), ("steps", steps)):
        for value, times in Counter(values).items():
            if times > 1:
                yield f"models.{key}: {value} is listed twice"
    for seed in seeds:
        if not SEED_LABEL.fullmatch(seed):
            yield f"models.seeds: {seed!r}: use letters, digits, '.', '_' and '-' only"
    if models["source"] == "local":
        given = {seed: one.items() for seed, one in models["paths"].items()}
        exceptions = [(f"{s}.{t}", path) for s, one in given.items() for t, path in one]
        yield from _places(models, ["path"], "paths", exceptions)
    if models["source"] == "hub":
        exceptions = [
            (f"{seed}.{step}.{key}", template)
            for seed, one in models["revisions"].items()
            for step, names_of in one.items()
            for key, template in names_of.items()
        ]
        yield from _places(models, ["repo", "revision"], "revisions", exceptions)


def _places(
    models: Mapping[str, Any],
    templates: Sequence[str],
    table: str,
    exceptions: Sequence[tuple[str, str]],
) -> Iterator[str]:
    """Whether every seed and step has a place of its own, by templates and exceptions."""
    seeds, steps = models["seeds"], models["steps"]
    for seed, given in models[table].items():
        if seed not in seeds:
            yield f"models.{table}: {seed} is not in models.seeds"
        for step in set(given).difference(map(str, steps)):
            yield f"models.{table}.{seed}: {step} is not in models.steps"
    wrong = [
        f"models.{key}: {template!r} {mistake}"
        for key, template in [
            *((key, models[key]) for key in templates),
            *((f"{table}.{key}", template) for key, template in exceptions),
        ]
        for mistake in names.mistakes(template, seeds)
    ]
    yield from wrong
    if wrong:
        return
    place_of = hub.name_of if models["source"] == "hub" else names.local
    seen: dict[Any, str] = {}
    for seed, step in product(dict.fromkeys(seeds), dict.fromkeys(steps)):
        place, cell = place_of(models, seed, step), f"seed {seed}, step {step}"
        if place in seen:
            keys = ", ".join(f"models.{key}" for key in templates)
            yield (
                f"{keys}: {seen[place]} and {cell} are both {place}; give "
                f"{{seed}} and {{step}} in it, or models.{table} an entry"
            )
            return
        seen[place] = cell


def _training(models: Mapping[str, Any], corpus: Mapping[str, Any]) -> Iterator[str]:
    train, last = models["train"], models["steps"][-1]
    if last > train["total_steps"]:
        yield f"models.steps: {last} is beyond models.train.total_steps ({train['total_steps']})"
    if train["width"] % train["heads"]:
        yield "models.train.heads: must divide models.train.width"
    if models["tokenizer"] is not None:
        yield "models.tokenizer: models that are trained have one of their own; use null"
    if corpus["source"] in ("tokens", "hub"):
        # The tokenizer learns from the text; of a data set only as much is streamed as is needed.
        yield f"corpus.source: {corpus['source']} can't be used with models.source: train; use text"


def _text(corpus: Mapping[str, Any]) -> Iterator[str]:
    source = corpus["source"]
    if source == "hub":
        wanted = corpus["tokens"] + corpus["heldout_tokens"]
        if not corpus["dataset"]:
            yield "corpus.dataset: missing; corpus.source hub needs it"
        if corpus["stream_tokens"] is not None and corpus["stream_tokens"] < wanted:
            yield (
                f"corpus.stream_tokens: {corpus['stream_tokens']} is less than the {wanted} asked "
                "for (corpus.tokens + corpus.heldout_tokens)"
            )
    for key, only in (("path", "text"), ("dataset", "hub")):
        if isinstance(corpus[key], Mapping) and source != only:
            yield f"corpus.{key}: several corpora need corpus.source: {only}; give one"
    if isinstance(corpus["path"], list) and source == "tokens":
        yield "corpus.path: a list of files needs corpus.source: text; give one .npy file"
    if corpus["subset_key"] is not None and source not in ("text", "hub"):
        yield f"corpus.subset_key: corpus.source {source} has no fields; use text or hub"
    if source in ("text", "tokens") and not corpus["path"]:
        yield f"corpus.path: missing; corpus.source {source} needs it"


def _aligning(config: Mapping[str, Any]) -> Iterator[str]:
    models, corpus, key = config["models"], config["corpus"], "corpus.align: bytes"
    if corpus["source"] == "tokens":
        yield f"{key} needs text; corpus.source tokens has the ids of one tokenizer"
    if models["source"] == "train":
        yield f"{key}: models that are trained share one tokenizer; use none"
    if models["tokenizer"] is not None:
        yield f"{key} takes the tokenizer of every seed, models.tokenizer names one; use null"
    if corpus["exclude_token_ids"] not in ("auto", []):
        yield (
            f"{key}: corpus.exclude_token_ids has ids, which mean other tokens to other "
            "tokenizers; use auto or []"
        )
    if own := sorted({*config["correlate"]["given"]} - {"token"}):
        yield (
            f"{key}: correlate.given has {', '.join(own)}, which differ between tokenizers; use "
            "[token] or []"
        )
    if not config["capture"]["store"]:
        yield f"{key} needs stored activations; use capture.store: true"


def _lengths(corpus: Mapping[str, Any]) -> Iterator[str]:
    length = corpus["context_length"]
    n_sequences = corpus["tokens"] // length
    if n_sequences == 0:
        yield (
            f"corpus.tokens: {corpus['tokens']} is less than one sequence "
            f"(corpus.context_length {length})"
        )
    elif n_sequences * length < LEAST_TOKENS:
        yield (
            f"corpus.tokens: {n_sequences * length} tokens in whole sequences are too few to "
            f"correlate; score at least {LEAST_TOKENS}"
        )
    elif n_sequences < corpus["shards"]:
        yield (
            f"corpus.shards: {corpus['shards']} shards of {n_sequences} sequences of "
            f"{length} tokens; use fewer shards or more tokens"
        )
    beyond = [position for position in corpus["exclude_positions"] if position >= length]
    if beyond:
        yield (
            f"corpus.exclude_positions: {beyond[0]} is no position of a sequence, which has 0 to "
            f"{length - 1} (corpus.context_length {length})"
        )
    if corpus["heldout_tokens"] < length:
        yield (
            f"corpus.heldout_tokens: {corpus['heldout_tokens']} is less than one sequence "
            f"(corpus.context_length {length})"
        )
