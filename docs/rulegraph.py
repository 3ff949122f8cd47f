"""Sort the rules of `snakemake --rulegraph`, read from standard input, by stage: make rulegraph."""

from __future__ import annotations

import re
import sys

from snakemake_logger_plugin_stages import STAGES, stage_of

COLOURS = (
    *("#56b4e9", "#e69f00", "#009e73", "#f0e442"),
    *("#d55e00", "#cc79a7", "#0072b2", "#999999"),
)

graph = sys.stdin.read()
rules = dict(re.findall(r'(\d+)\[label = "(\w+)"', graph))
edges = [
    (a, b)
    for a, b in re.findall(r"(\d+) -> (\d+)", graph)
    if a != b
    and rules[b] != "all"  # a later step's training and scores follow from an earlier one's
]
print("digraph rules {")
print('  graph [fontname="sans-serif", fontsize=13, ranksep=0.35, style="rounded,filled"];')
print('  node [fontname="sans-serif", fontsize=11, shape=box, style="rounded,filled"];')
print("  node [fillcolor=white];")
print('  edge [color="#777777"];')
for stage, colour in zip(STAGES, COLOURS, strict=True):
    members = [node for node, rule in rules.items() if stage_of(rule) == stage and rule != "all"]
    print(
        f'  subgraph cluster_{stage} {{ label="{stage}"; fillcolor="{colour}30"; color="{colour}";'
    )
    print("".join(f'    {node} [label="{rules[node]}"];\n' for node in members) + "  }")
print("\n".join(f"  {a} -> {b};" for a, b in edges))
print("}")
