"""Slow oracles of language models, in loops over plain numbers; they share no code with the product."""

import math
from collections.abc import Mapping, Sequence

Vector = list[float]


def _product(matrix: Sequence[Vector], vector: Vector) -> Vector:
    return [sum(weight * value for weight, value in zip(row, vector, strict=True)) for row in matrix]


def _normed(vector: Vector, weight: Vector) -> Vector:
    scale = 1 / math.sqrt(sum(value * value for value in vector) / len(vector) + 1e-6)
    return [value * scale * gain for value, gain in zip(vector, weight, strict=True)]


def _rotated(head: Vector, position: int) -> Vector:
    """Rotary positions (Su et al. 2021): dimension i turns with dimension i + half."""
    half = len(head) // 2
    turned = list(head)
    for i in range(half):
        angle = position / 10000.0 ** (i / half)
        turned[i] = head[i] * math.cos(angle) - head[i + half] * math.sin(angle)
        turned[i + half] = head[i + half] * math.cos(angle) + head[i] * math.sin(angle)
    return turned


def _attended(queries: list[Vector], keys: list[Vector], values: list[Vector], heads: int) -> list[Vector]:
    """Causal attention of one utterance; every argument has one vector a step."""
    width = len(queries[0]) // heads
    mixed: list[Vector] = []
    for place, query in enumerate(queries):
        row: Vector = []
        for head in range(heads):
            part = slice(head * width, (head + 1) * width)
            turned = _rotated(query[part], place)
            scores = [
                sum(a * b for a, b in zip(turned, _rotated(keys[past][part], past), strict=True)) / math.sqrt(width)
                for past in range(place + 1)
            ]
            top = max(scores)
            weights = [math.exp(score - top) for score in scores]
            for i in range(width):
                total = sum(weight * values[past][part][i] for past, weight in enumerate(weights))
                row.append(total / sum(weights))
        mixed.append(row)
    return mixed


def llama_logits(
    weights: Mapping[str, list[Vector]], steps: Sequence[Sequence[int]], *, heads: int, blocks: int
) -> list[list[Vector]]:
    """Logits of every column after every step of one utterance.

    Args:
        weights: as UnitLm.state_dict has them, as nested lists.
        steps: one list of column values a step.
        heads: attention heads.
        blocks: transformer blocks.
    """
    columns = len(steps[0])
    hidden = [
        [sum(parts) for parts in zip(*(weights[f"tables.{c}.weight"][step[c]] for c in range(columns)), strict=True)]
        for step in steps
    ]
    for block in range(blocks):
        name = f"body.layers.{block}."
        normed = [_normed(vector, weights[name + "input_layernorm.weight"]) for vector in hidden]  # type: ignore[arg-type]
        queries, keys, values = (
            [_product(weights[f"{name}self_attn.{part}_proj.weight"], vector) for vector in normed] for part in "qkv"
        )
        for place, mixed in enumerate(_attended(queries, keys, values, heads)):
            added = _product(weights[name + "self_attn.o_proj.weight"], mixed)
            hidden[place] = [a + b for a, b in zip(hidden[place], added, strict=True)]
        for place, vector in enumerate(hidden):
            normed_one = _normed(vector, weights[name + "post_attention_layernorm.weight"])  # type: ignore[arg-type]
            gates = _product(weights[name + "mlp.gate_proj.weight"], normed_one)
            ups = _product(weights[name + "mlp.up_proj.weight"], normed_one)
            inner = [gate / (1 + math.exp(-gate)) * up for gate, up in zip(gates, ups, strict=True)]
            added = _product(weights[name + "mlp.down_proj.weight"], inner)
            hidden[place] = [a + b for a, b in zip(vector, added, strict=True)]
    last = [_normed(vector, weights["body.norm.weight"]) for vector in hidden]  # type: ignore[arg-type]
    return [[_product(weights[f"heads.{c}.weight"], vector) for c in range(columns)] for vector in last]


def nats(logits: Sequence[Sequence[Vector]], targets: Sequence[Sequence[int]], ignored: int) -> tuple[float, int]:
    """Negative log probability of targets, and how many count."""
    total, count = 0.0, 0
    for step, wanted in zip(logits, targets, strict=True):
        for values, target in zip(step, wanted, strict=True):
            if target != ignored:
                total += math.log(sum(math.exp(value) for value in values)) - values[target]
                count += 1
    return total, count


def loop_end(tokens: Sequence[int], rounds: int) -> int | None:
    """Tokens up to the end of the first round where `tokens` ends with so many equal rounds of at least 2 tokens."""
    for cycle in range(2, len(tokens) // rounds + 1):
        last = list(tokens[-cycle:])
        if len(set(last)) > 1 and all(
            list(tokens[len(tokens) - (i + 1) * cycle : len(tokens) - i * cycle]) == last for i in range(rounds)
        ):
            begin = len(tokens) - rounds * cycle
            while begin > 0 and tokens[begin - 1] == tokens[begin - 1 + cycle]:
                begin -= 1
            return begin + cycle
    return None
