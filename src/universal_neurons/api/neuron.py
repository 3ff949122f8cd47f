"""A neuron of a run, which shows its card where it is printed or looked at in a notebook."""

from __future__ import annotations

from universal_neurons.api.card import as_html, as_text
from universal_neurons.api.neuron_rows import NeuronRows


class Neuron(NeuronRows):
    """A neuron: see `NeuronRows` for what is known of it; `print` shows its card."""

    def __str__(self) -> str:
        return as_text(self)

    def _repr_html_(self) -> str:
        return as_html(self)

    def __repr__(self) -> str:
        return f"<neuron {self.layer}.{self.neuron} of seed {self.seed}, step {self.step}>"
