"""The questions that the report answers, and what it shows for each.

A section is the paragraphs, figures and tables named here, in this order; a test holds every one of
them to be named once.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Question:
    """A section of the report.

    Attributes
    ----------
    anchor
        Its address in the page.
    title
        Its heading.
    topics
        Of `headlines`: their paragraphs; names that end in an asterisk stand for all that begin so.
    figures
        Names of `figures.registry`.
    tables
        Titles of `tables.short_tables`.
    """

    anchor: str
    title: str
    topics: tuple[str, ...]
    figures: tuple[str, ...]
    tables: tuple[str, ...]


QUESTIONS = (
    Question(
        "universal",
        "Which neurons are universal, and beyond what?",
        ("Universal neurons", "Against the nulls", "Groups"),
        (
            *("emergence", "excess_histogram", "threshold_curve"),
            "best_match_layers",
        ),
        (
            *("Published claims", "Top neurons", "Groups: one neuron of each seed"),
            *("Universal neurons by step and layer", "Notions of a universal neuron"),
            "Universal neurons and chance at every threshold",
        ),
    ),
    Question(
        "doing",
        "What do they do?",
        ("Roles and families",),
        ("functions", "functions_by_step"),
        (),
    ),
    Question(
        "lasting",
        "When do they appear, and do they stay?",
        ("Persistence", "Courses of neurons"),
        ("persistence", "persistence_layers", "survival", "emergence_layers", "moved"),
        ("Persistence, all layers",),
    ),
    Question(
        "needed",
        "Does the model need them?",
        ("Ablation*", "At equal perturbation", "Doses", "Single neurons"),
        ("ablation", "energy_response", "ablation_layers", "dose_curve", "single_effects"),
        ("Ablation",),
    ),
    Question(
        "subspace",
        "Neuron or subspace?",
        ("Neuron or subspace",),
        ("similarity",),
        (),
    ),
    Question(
        "measured",
        "What was measured, and how well?",
        ("Token noise", "Held-out loss"),
        ("token_budget", "loss"),
        (
            *("What the rotated baseline is made of", "Models", "Subsets of the corpus"),
            "Time and memory by rule",
        ),
    ),
)

# Beside the tiles and the first paragraph.
OPENING_FIGURE = "emergence_kinds"


def belongs(topic: str, question: Question) -> bool:
    """Whether a paragraph answers a question."""
    return any(
        topic.startswith(name[:-1]) if name.endswith("*") else topic == name
        for name in question.topics
    )
