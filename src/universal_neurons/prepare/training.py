"""Train small GPT-2 models from different seeds, saved at several steps.

Everything is first made in a work directory that outlives a killed job: a finished model and the
optimiser's state for every saved step. A run that is started again goes on from the last of them,
to the same bits.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
import shutil
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from numpy.typing import NDArray
from tokenizers import ByteLevelBPETokenizer
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast
from transformers.utils import logging as transformers_logging

from universal_neurons.errors import UserError
from universal_neurons.prepare.pieces import pieces
from universal_neurons.prepare.text import Document
from universal_neurons.store.files import replacing
from universal_neurons.store.place import mark_model

logger = logging.getLogger(__name__)
transformers_logging.disable_progress_bar()

END_OF_TEXT = "<|endoftext|>"
# Between two lines of progress.
LOG_SECONDS = 5.0


def train_tokenizer(documents: Iterable[Document], vocab_size: int, out: str | Path) -> None:
    """Train a byte-level BPE tokenizer and save it as a Hugging Face directory.

    Parameters
    ----------
    documents
        Texts to learn the merges from; long ones are counted in pieces, to the same effect.
    vocab_size
        Number of tokens, among them the 256 bytes and the end-of-text token.
    out
        Directory to make.
    """
    # A tokenizer in training is locked: the words are another's.
    bpe, words_of = ByteLevelBPETokenizer(), ByteLevelBPETokenizer().pre_tokenizer

    def words(text: str) -> list[str]:
        return [word for word, _ in words_of.pre_tokenize_str(text)]

    def splits(left: str, right: str) -> bool:
        return words(left + right) == words(left) + words(right)

    texts = (piece.text for piece in pieces(documents, splits))
    bpe.train_from_iterator(
        texts, vocab_size=vocab_size, special_tokens=[END_OF_TEXT], show_progress=False
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe._tokenizer, bos_token=END_OF_TEXT, eos_token=END_OF_TEXT
    )
    with replacing(Path(out)) as temporary:
        tokenizer.save_pretrained(temporary)


def train(
    sequences: NDArray[np.integer],
    *,
    seed: str,
    steps: Sequence[int],
    options: Mapping[str, Any],
    tokenizer: Path | None,
    work_dir: str | Path,
    outputs: Mapping[int, Path],
) -> None:
    """Train one seed and save it at the given steps.

    Initialisation and data order depend on the seed alone, so a run with the same options on the
    same machine gives the same bits, interrupted or not. AdamW with a linear warm-up and cosine
    decay to zero at ``total_steps``, whichever steps are saved: a step added later lies on the same
    trajectory.

    Sets torch's number of threads and its deterministic mode for the whole process.

    Parameters
    ----------
    sequences
        Token ids to train on, shape (sequences, context length); may be a memory map.
    seed
        The model's label.
    steps
        Training steps to save, ascending; 0 is the untrained model.
    options
        The resolved section ``models.train`` of the configuration: ``vocab_size``, ``layers``,
        ``width``, ``heads``, ``d_mlp``, ``activation``; ``learning_rate`` (peak),
        ``weight_decay`` (on matrices), ``warmup_steps``, ``total_steps``, ``batch_size``
        (sequences); ``threads``.
    tokenizer
        Directory whose files are copied beside every saved model; None for models without one.
    work_dir
        Where finished steps and optimiser states are kept. What an earlier run with the same
        options, sequences and library versions left there is used, anything else is deleted.
    outputs
        Directory to make for every step, in Hugging Face format.

    Raises
    ------
    UserError
        If a step lies beyond the schedule, there are no sequences, or the loss is not finite.
    """
    if max(steps) > options["total_steps"]:
        raise UserError(
            f"models.train.total_steps: {options['total_steps']} is less than the last step to "
            f"save, {max(steps)}; the schedule of the learning rate ends there"
        )
    if not len(sequences):
        raise UserError("corpus.path: the corpus leaves no sequence to train on")
    torch.use_deterministic_algorithms(True)
    # The deterministic mode also fills every new tensor, at 6 % of the time, for the sake of code
    # that reads what it has not written.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.set_num_threads(options["threads"])
    work_dir = Path(work_dir)
    _start_work(work_dir, _fingerprint(sequences, seed, options))
    trainer = None
    for step in steps:
        if not _saved(work_dir, step):
            if trainer is None:
                trainer = _Trainer(sequences, seed, options)
                earlier = [s for s in range(step) if _saved(work_dir, s)]
                if earlier:
                    trainer.load(work_dir, earlier[-1])
            trainer.train_to(step, last=steps[-1])
            trainer.save(work_dir, tokenizer)
        elif trainer is not None:
            # Already there from an earlier run with other steps: go on from it.
            trainer.load(work_dir, step)
        with replacing(outputs[step]) as temporary:
            shutil.copytree(_model_dir(work_dir, step), temporary, copy_function=_link)
            mark_model(temporary, outputs[step])


def _link(source: str, target: str) -> None:
    """Hard link a file, or copy it where the file system can't."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def _fingerprint(sequences: NDArray[np.integer], seed: str, options: Mapping[str, Any]) -> str:
    """What the weights of a run depend on, as a digest."""
    versions = [torch.__version__, transformers.__version__, np.__version__]
    about = [seed, dict(options), sequences.shape, versions]
    sha = hashlib.sha256(json.dumps(about, sort_keys=True).encode())
    for start in range(0, len(sequences), 65536):
        sha.update(np.ascontiguousarray(sequences[start : start + 65536]).data)
    return sha.hexdigest()


def _start_work(work_dir: Path, fingerprint: str) -> None:
    """Keep what an earlier run with the same fingerprint left, and nothing else."""
    mark = work_dir / "fingerprint"
    if work_dir.exists() and not (mark.is_file() and mark.read_text() == fingerprint):
        logger.info("training starts afresh: the options or the corpus have changed")
        shutil.rmtree(work_dir)
    work_dir.mkdir(parents=True, exist_ok=True)
    for killed in work_dir.glob(".*.partial"):
        shutil.rmtree(killed) if killed.is_dir() else killed.unlink()
    mark.write_text(fingerprint)


def _model_dir(work_dir: Path, step: int) -> Path:
    return work_dir / f"step{step}"


def _state_file(work_dir: Path, step: int) -> Path:
    return work_dir / f"state{step}.pt"


def _saved(work_dir: Path, step: int) -> bool:
    # The model's directory is renamed into place last.
    return _model_dir(work_dir, step).is_dir()


def _key(*parts: object) -> int:
    """A number for a random generator, the same in every process."""
    digest = hashlib.sha256("\n".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


class _Trainer:
    """A model in training, at `step`."""

    def __init__(
        self, sequences: NDArray[np.integer], seed: str, options: Mapping[str, Any]
    ) -> None:
        self._sequences, self._seed, self._options = sequences, seed, options
        self.step = 0
        torch.manual_seed(_key("initialisation", seed))
        self.model = GPT2LMHeadModel(
            GPT2Config(
                vocab_size=options["vocab_size"],
                n_positions=sequences.shape[1],
                n_embd=options["width"],
                n_layer=options["layers"],
                n_head=options["heads"],
                n_inner=options["d_mlp"],
                activation_function=options["activation"],
                # GPT-2's 0.02 is for width 768. With it, models of width 64 are at a loss of 4.4
                # after 400 steps instead of 3.7.
                initializer_range=0.02 * math.sqrt(768 / options["width"]),
                # Dropout slows the CPU down, and a few hundred steps on this much text need none.
                resid_pdrop=0.0,
                embd_pdrop=0.0,
                attn_pdrop=0.0,
                bos_token_id=0,
                eos_token_id=0,
            )
        )
        weights = [p for p in self.model.parameters() if p.ndim > 1]
        others = [p for p in self.model.parameters() if p.ndim <= 1]
        self.optimiser = torch.optim.AdamW(
            [
                {"params": weights, "weight_decay": options["weight_decay"]},
                {"params": others, "weight_decay": 0.0},
            ],
            betas=(0.9, 0.99),
            fused=True,
        )

    def load(self, work_dir: Path, step: int) -> None:
        """Go to a saved step."""
        saved = GPT2LMHeadModel.from_pretrained(_model_dir(work_dir, step), dtype=torch.float32)
        self.model.load_state_dict(saved.state_dict())
        state = torch.load(_state_file(work_dir, step), weights_only=True)
        self.optimiser.load_state_dict(state)
        self.step = step
        logger.info("continuing from step %d", step)

    def save(self, work_dir: Path, tokenizer: Path | None) -> None:
        """Save the model and the optimiser's state at the present step."""
        with replacing(_state_file(work_dir, self.step)) as temporary:
            torch.save(self.optimiser.state_dict(), temporary)
        with replacing(_model_dir(work_dir, self.step)) as temporary:
            self.model.save_pretrained(temporary)
            if tokenizer is not None:
                shutil.copytree(tokenizer, temporary, dirs_exist_ok=True)

    def _learning_rate(self) -> float:
        peak, warmup = self._options["learning_rate"], self._options["warmup_steps"]
        if self.step < warmup:
            return peak * (self.step + 1) / warmup
        done = (self.step - warmup) / max(1, self._options["total_steps"] - warmup)
        return peak * 0.5 * (1 + math.cos(math.pi * done))

    def _batch(self) -> torch.Tensor:
        """Sequences of the present step: a function of seed and step alone."""
        rng = np.random.default_rng(_key("batch", self._seed, self.step))
        rows = rng.integers(len(self._sequences), size=self._options["batch_size"])
        return torch.from_numpy(self._sequences[np.sort(rows)].astype(np.int64))

    def _loss(self) -> torch.Tensor:
        """Mean next-token cross-entropy of the present step's batch, in nats."""
        tokens = self._batch()
        logits = self.model(input_ids=tokens[:, :-1], use_cache=False).logits
        return torch.nn.functional.cross_entropy(
            logits.flatten(0, 1).float(), tokens[:, 1:].flatten()
        )

    def train_to(self, step: int, *, last: int | None = None) -> None:
        """Train until `step` steps have been made; `last` is where the whole run ends."""
        start, begun = self.step, time.monotonic()
        logged = begun
        loss = torch.tensor(math.nan)
        while self.step < step:
            for group in self.optimiser.param_groups:
                group["lr"] = self._learning_rate()
            loss = self._loss()
            if not torch.isfinite(loss):
                raise UserError(
                    f"seed {self._seed}, step {self.step}: the training loss is {loss.item()}; "
                    "lower models.train.learning_rate"
                )
            self.optimiser.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
            self.optimiser.step()
            self.step += 1
            now = time.monotonic()
            if now - logged >= LOG_SECONDS or self.step == step:
                logged, rate = now, (self.step - start) / (now - begun)
                logger.info(
                    "seed %s: step %d of %d, training loss %.3f, %.0f tokens per second, "
                    "%.0f s left",
                    self._seed,
                    self.step,
                    last or step,
                    loss.item(),
                    rate * self._options["batch_size"] * self._sequences.shape[1],
                    ((last or step) - self.step) / rate,
                )
