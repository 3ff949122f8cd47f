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
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import ByteLevelBPETokenizer
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from universal_neurons.errors import UserError
from universal_neurons.jobs import progress
from universal_neurons.store import replacing

logger = logging.getLogger(__name__)

END_OF_TEXT = "<|endoftext|>"


def train_tokenizer(documents: Iterable[str], vocab_size: int, out: str | Path) -> None:
    """Train a byte-level BPE tokenizer and save it as a Hugging Face directory.

    Parameters
    ----------
    documents
        Texts to learn the merges from.
    vocab_size
        Number of tokens, among them the 256 bytes and the end-of-text token.
    out
        Directory to make.
    """
    bpe = ByteLevelBPETokenizer()
    bpe.train_from_iterator(
        documents, vocab_size=vocab_size, special_tokens=[END_OF_TEXT], show_progress=False
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
    tokenizer: Path,
    work_dir: Path,
    outputs: Mapping[int, Path],
) -> None:
    """Train one seed and save it at the given steps.

    Initialisation and data order depend on the seed alone, so a run with the same options on the
    same machine gives the same bits, interrupted or not. AdamW with a linear warm-up and cosine
    decay to zero at ``total_steps``, whichever steps are saved: a step added later lies on the same
    trajectory.

    Parameters
    ----------
    sequences
        Token ids to train on, shape (sequences, context length); may be a memory map.
    seed
        The model's label.
    steps
        Training steps to save, ascending; 0 is the untrained model.
    options
        The resolved section ``models.train`` of the configuration.
    tokenizer
        Directory whose files are copied beside every saved model.
    work_dir
        Where finished steps and optimiser states are kept.
    outputs
        Directory to make for every step, in Hugging Face format.

    Raises
    ------
    UserError
        If the loss is not finite.
    """
    torch.use_deterministic_algorithms(True)
    torch.set_num_threads(options["threads"])
    _start_work(work_dir, _fingerprint(sequences, seed, options))
    trainer = None
    for step in steps:
        if not _saved(work_dir, step):
            if trainer is None:
                trainer = _Trainer(sequences, seed, options)
                earlier = [s for s in range(step) if _saved(work_dir, s)]
                if earlier:
                    trainer.load(work_dir, earlier[-1])
            trainer.train_to(step)
            trainer.save(work_dir, tokenizer)
        elif trainer is not None:
            # Already there from an earlier run with other steps: go on from it.
            trainer.load(work_dir, step)
        with replacing(outputs[step]) as temporary:
            shutil.copytree(_model_dir(work_dir, step), temporary, copy_function=os.link)


def _fingerprint(sequences: NDArray[np.integer], seed: str, options: Mapping[str, Any]) -> str:
    """What the weights of a run depend on, as a digest."""
    about = [seed, dict(options), sequences.shape, torch.__version__]
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

    def save(self, work_dir: Path, tokenizer: Path) -> None:
        """Save the model and the optimiser's state at the present step."""
        with replacing(_state_file(work_dir, self.step)) as temporary:
            torch.save(self.optimiser.state_dict(), temporary)
        with replacing(_model_dir(work_dir, self.step)) as temporary:
            self.model.save_pretrained(temporary)
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

    def train_to(self, step: int) -> None:
        """Train until `step` steps have been made."""
        loss = torch.tensor(math.nan)
        for _ in progress(range(self.step, step), f"steps towards {step}", every=5):
            for group in self.optimiser.param_groups:
                group["lr"] = self._learning_rate()
            tokens = self._batch()
            logits = self.model(input_ids=tokens[:, :-1], use_cache=False).logits
            loss = torch.nn.functional.cross_entropy(
                logits.flatten(0, 1).float(), tokens[:, 1:].flatten()
            )
            self.optimiser.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
            self.optimiser.step()
            self.step += 1
            if not torch.isfinite(loss):
                raise UserError(
                    f"seed {self._seed}, step {self.step}: the training loss is {loss.item()}; "
                    "lower models.train.learning_rate"
                )
        logger.info("seed %s, step %d: training loss %.3f", self._seed, self.step, loss)
