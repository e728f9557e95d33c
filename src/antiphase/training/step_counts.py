"""Count the operations, bytes and kernels of each part of a training step, from the sizes of a model alone.

The parts are forward and backward passes, sampling, the head (the output layer) with its entropies, and the estimators
`own`, `last` and `full`. `step_cost` computes seconds from these counts. The module needs no PyTorch, and it measures
nothing.

In the arguments, a row is one sequence of a batch. A target is a generated token whose logit or strength is computed.

What is counted, and what is not, is in docs/scaling.md. The formulas are those of a dense transformer decoder with
grouped attention and a gated feed-forward part (Llama, Qwen, Mistral). A multiplication with its addition is two
operations.

A function that returns several `Counts` returns phases, which follow one another. In a phase, a GPU works while the
CPU starts its kernels. So the phase takes the longer of two times: the GPU's work, or the starting of kernels.
"""

import math
from collections.abc import Sequence

from antiphase.training.model_shape import Counts, Machine, ModelShape

Phases = tuple[Counts, ...]

# The products of n × n matrices in which `signals/gram_root.py` takes the trace of a square root.
_ROOT_PRODUCTS = 45
# The attention weights of one block of the frozen attention (`signals/attention_blocks.py`), on a CPU and on a GPU.
_BLOCK_ELEMENTS = {False: 1 << 19, True: 1 << 26}
_LEAST_ROWS = 16
# On a GPU, `full` computes the norms of several layers together, with at most this many elements.
_GROUP_ELEMENTS = 1 << 27
# The tokens up to which a GPU computes the factor of the inputs by Cholesky in place of QR (`signals/norms.py`).
_CHOLESKY_TOKENS = 512
# The rows from which a GPU multiplies float64 matrices at its full rate. In the stored rows `norm` of an H100,
# matrices of 32, 256, 1,024 and 2,048 rows reach 1, 8, 44 to 93 and 100 % of the rate.
_FULL_RATE = 600.0
# How many bytes are read and written for one attention weight: by the frozen attention, forward and backward, and by
# an attention that keeps its weights in the cache. And for one logit: by the head, and by the loss of the update.
_FROZEN_FORWARD, _FROZEN_BACKWARD, _HEAD, _LOSS = 60.0, 90.0, 110.0, 60.0
# Kernels that one layer starts in a forward pass, and in a backward pass.
_FORWARD_CALLS, _BACKWARD_CALLS = 45.0, 90.0


def forward(shape: ModelShape, rows: int, length: int, machine: Machine, past: int = 0) -> Counts:
    """Count the work of a forward pass through the layers, without the head (the output layer).

    Args:
        shape: the sizes of the model.
        rows: number of sequences in the batch.
        length: number of positions that are computed in each sequence.
        machine: the machine that does the work.
        past: number of earlier positions of each sequence, whose keys and values are known already.
    """
    tokens = rows * length
    pairs = rows * (length * (length + 1) / 2 + length * past)
    # Reads and writes of one token in one layer: norms, residual sums, inputs and outputs of the products, rotation.
    touched = 45 * shape.hidden + 12 * (shape.queries + shape.keys) + 9 * shape.intermediate
    return Counts(
        products=2 * shape.body * tokens + 4 * shape.layers * shape.queries * pairs,
        bytes=machine.element
        * (shape.body + shape.layers * (tokens * touched + 2 * shape.keys * rows * (length + past))),
        calls=_FORWARD_CALLS * shape.layers,
    )


def backward(
    shape: ModelShape, rows: int, length: int, machine: Machine, *, weights: bool = False, layers: int | None = None
) -> Counts:
    """Count the work of a backward pass for `rows` sequences of `length` positions.

    The pass computes the gradients of the activations, and of the weights if `weights` is True. It runs through the
    last `layers` layers; by default through all.
    """
    share = 1.0 if layers is None else layers / shape.layers
    once = forward(shape, rows, length, machine)
    pairs = rows * length * (length + 1) / 2
    # The attention has five products: scores, gradients at weights, values, queries and keys.
    products = 2 * shape.body * rows * length * (2 if weights else 1) + 10 * shape.layers * shape.queries * pairs
    return Counts(products, bytes=2 * once.bytes, calls=_BACKWARD_CALLS * shape.layers) * share


def head(shape: ModelShape, targets: int, machine: Machine) -> Counts:
    """Count the work of the head (the output layer) for some generated tokens.

    It computes their logits, entropies and log-probabilities. `targets` is the number of these tokens.
    """
    logits = targets * shape.vocabulary
    tiles = max(1.0, logits / (1 << (24 if machine.gpu else 21)))
    # On a CPU, a tile stays in the cache.
    touched = _HEAD if machine.gpu else 16.0
    return Counts(
        2.0 * shape.hidden * logits,
        bytes=touched * logits + machine.element * shape.hidden * shape.vocabulary,
        calls=30 * tiles,
    )


def own(
    shape: ModelShape, rows: int, prompt: int, completion: int, machine: Machine, *, passes: int = 1, step: int = 0
) -> Phases:
    """Count the work of the estimator `own` for rollouts of one prompt, with the head (the output layer).

    Args:
        shape: the sizes of the model.
        rows: number of rollouts.
        prompt: number of tokens of the prompt. The prompt has one forward pass for all rollouts, and no backward pass.
        completion: number of tokens of each completion. All of them are measured.
        machine: the machine that does the work.
        passes: number of measuring passes into which the rollouts are divided.
        step: number of tokens of each sentence, if the joint strengths of sentences are measured; 0 if they are not.
    """
    # The products of the attention: scores and sums forward; scores, gradients at weights and at queries backward.
    pairs = _pairs(shape, rows / passes, completion, prompt, machine) * passes
    attention = Counts(
        2 * 5 * shape.queries * pairs,
        bytes=(_FROZEN_FORWARD + _FROZEN_BACKWARD if machine.gpu else 30.0) * shape.heads * pairs,
    )
    tokens = rows * completion
    plain = forward(shape, rows, completion, machine)
    layers = Counts(
        4 * shape.body * tokens,
        bytes=3 * plain.bytes,
        calls=passes * (1.5 * (_FORWARD_CALLS + _BACKWARD_CALLS) + 20) * shape.layers,
    )
    return (
        forward(shape, 1, prompt, machine),
        layers + attention * shape.layers + _joint_own(shape, tokens, step, machine),
        head(shape, rows * completion, machine),
    )


def _joint_own(shape: ModelShape, tokens: float, step: int, machine: Machine) -> Counts:
    """Count the work of the joint strengths of sentences with the estimator `own`.

    `tokens` is the number of all tokens. `step` is the number of tokens of a sentence; 0 means that no joint strength
    is measured.
    """
    if not step:
        return Counts()
    total = Counts()
    for inputs, outputs in _projections(shape):
        rank = min(step, inputs, outputs)
        one = _roots(rank, rank, machine) + Counts(wide=2.0 * step**2 * (inputs + outputs))
        total += one * (tokens / step)
        # Inputs and gradients are gathered and widened.
        total += Counts(bytes=60.0 * tokens * (inputs + outputs), calls=15.0)
    return total * shape.layers


def last(shape: ModelShape, rows: int, length: int, completion: int, targets: int, machine: Machine) -> Phases:
    """Count the work of the estimator `last` for some tokens of each rollout, with the head (the output layer).

    Args:
        shape: the sizes of the model.
        rows: number of rollouts.
        length: number of tokens of a prompt and its completion together.
        completion: number of tokens of each completion. The entropies of all of them are computed.
        targets: number of tokens of each completion whose strength is measured.
        machine: the machine that does the work.
    """
    pairs = _pairs(shape, rows, length, 0, machine)
    touched = (_FROZEN_FORWARD if machine.gpu else 15.0) * shape.heads * pairs * shape.layers
    once = forward(shape, rows, length, machine) + Counts(bytes=touched)
    seen = length - completion / 2
    rank, width = min(seen, shape.hidden), shape.keys
    key = Counts(
        # Gradients at keys pass through rotation and norms, in float32.
        8.0 * shape.queries * seen,
        wide=2 * seen * width * rank if machine.gpu else 0.0,
        bytes=80.0 * length * width + 40.0 * shape.heads * seen,
        calls=2.0,
    ) + _roots(width, rank, machine)
    if not machine.gpu:
        key += Counts(2 * seen * width * rank)
    value = Counts(2.0 * shape.heads * seen * shape.hidden) + _factor(shape.heads, shape.hidden, machine)
    value += _roots(shape.heads, width, machine)
    return (
        once + backward(shape, rows, length, machine, layers=1),
        head(shape, rows * completion, machine),
        (key + value) * (rows * targets) + _factor(length, shape.hidden, machine) * rows,
    )


def full(
    shape: ModelShape, rows: int, length: int, completion: int, reaches: Sequence[float], machine: Machine
) -> Phases:
    """Count the work of the estimator `full` for some tokens or sentences of each rollout, with the head.

    The head is the output layer.

    Args:
        shape: the sizes of the model.
        rows: number of rollouts.
        length: number of tokens of a prompt and its completion together.
        completion: number of tokens of each completion. The entropies of all of them are computed.
        reaches: for each measured token of a rollout, the number of positions that it sees. For a sentence, it is the
            number of positions that the sentence's last token sees.
        machine: the machine that does the work.
    """
    factors = _factor(length, shape.hidden, machine) + _factor(length, shape.queries, machine)
    phases = [
        forward(shape, rows, length, machine),
        head(shape, rows * completion, machine),
        factors * (rows * shape.layers),
        # Targets share a forward pass. About one is enough for neighbouring ones; see signals/target_blocks.py.
        forward(shape, rows, int(max(reaches, default=0)), machine),
    ]
    for reach in reaches:
        phases += [backward(shape, rows, int(reach), machine), _norms(shape, rows, reach, machine)]
    return tuple(phases)


def _norms(shape: ModelShape, rows: int, reach: float, machine: Machine) -> Counts:
    """Count the work of the gradient norms of one token of each rollout in all layers.

    `reach` is the number of positions that the token sees.
    """
    total = Counts()
    for inputs, outputs in _projections(shape):
        rank = min(reach, inputs)
        factored = 2 * reach * outputs * rank
        one = _roots(outputs, rank, machine)
        one += Counts(wide=factored) if machine.gpu else Counts(factored)
        one += Counts(bytes=12.0 * reach * (outputs + rank))
        together = max(1.0, _GROUP_ELEMENTS / (rows * reach * (outputs + rank))) if machine.gpu else 1.0
        groups = math.ceil(shape.layers / min(together, shape.layers))
        total += one * (rows * shape.layers) + Counts(calls=4.0 * shape.layers + 60.0 * groups)
    return total


def update(shape: ModelShape, rows: int, prompt: int, completion: int, machine: Machine, *, again: bool) -> Phases:
    """Count the work of the update on some rollouts: forward pass, backward pass to all weights, and loss.

    `rows` is the number of rollouts. `prompt` and `completion` are numbers of tokens. `again` says whether gradient
    checkpointing runs each layer's forward pass a second time.
    """
    length, logits = prompt + completion, rows * completion * shape.vocabulary
    once = forward(shape, rows, length, machine) * (2 if again else 1)
    loss = Counts(6.0 * shape.hidden * logits, bytes=_LOSS * logits, calls=60.0)
    return once + backward(shape, rows, length, machine, weights=True), loss


def decode(shape: ModelShape, rows: int, prompt: int, completion: int, machine: Machine, *, graphs: bool) -> Phases:
    """Count the work of sampling completions token by token, after a forward pass over the prompts.

    `rows` is the number of rollouts. `prompt` and `completion` are numbers of tokens. `graphs` says whether CUDA
    graphs are used, as in vLLM; the time for starting kernels is then 0.
    """
    context = rows * (completion * prompt + completion * (completion - 1) / 2)
    weights = shape.body + shape.hidden * shape.vocabulary
    one = forward(shape, rows, 1, machine)
    steps = Counts(
        2.0 * weights * rows * completion + 4 * shape.layers * shape.queries * context,
        bytes=machine.element * (weights * completion + 2 * shape.keys * shape.layers * context)
        + (one.bytes - machine.element * shape.body) * completion,
        calls=0.0 if graphs else completion * (one.calls + 20),
    )
    return forward(shape, rows, prompt, machine), steps


def _projections(shape: ModelShape) -> tuple[tuple[int, int], ...]:
    """Return the input width and the output width of each of the projections Q, K, V and O."""
    return (
        (shape.hidden, shape.queries),
        (shape.hidden, shape.keys),
        (shape.hidden, shape.keys),
        (shape.queries, shape.hidden),
    )


def _pairs(shape: ModelShape, rows: float, length: int, past: int, machine: Machine) -> float:
    """Return how many pairs of a query and a key one attention head computes in the frozen attention.

    The frozen attention is the attention with which the estimators measure. It works in blocks.
    """
    block = _BLOCK_ELEMENTS[machine.gpu] / (rows * shape.heads * max(1, length + past))
    block = min(float(length), max(float(_LEAST_ROWS), block))
    return rows * length * (past + (length + block) / 2)


def _roots(rows: float, columns: float, machine: Machine) -> Counts:
    """Count the work of the nuclear norm of a matrix.

    A GPU computes the norm by the square root of the smaller Gram matrix. A CPU uses the eigenvalues of this matrix.
    """
    small, large = min(rows, columns), max(rows, columns)
    if machine.gpu:
        # Products of small matrices do not reach the full rate.
        slower = max(1.0, (_FULL_RATE / small) ** 1.4)
        return Counts(wide=slower * (2 * small**2 * large + 2 * _ROOT_PRODUCTS * small**3))
    # Only the blocks on and below the diagonal of the Gram matrix are computed.
    return Counts(wide=1.25 * small**2 * large, solver=4 / 3 * small**3, calls=10.0)


def _factor(tokens: int, width: int, machine: Machine) -> Counts:
    """Count the work of the factor L in A = L Q, by QR or by Cholesky. A holds the inputs of a projection.

    On a GPU, a QR decomposition is slow, since it processes one column after another.
    """
    small, large = min(tokens, width), max(tokens, width)
    if not machine.gpu:
        return Counts(solver=2 * small**2 * (large - small / 3), calls=10.0)
    if tokens <= min(width, _CHOLESKY_TOKENS):
        return Counts(wide=2.0 * tokens**2 * width + tokens**3 / 3, calls=4.0)
    return Counts(columns=small, calls=4.0)
