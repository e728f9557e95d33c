"""The rewards of tasks, in the form that TRL calls, and the data-set rows that they need. Does not import TRL."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from antiphase.data.chat_template import ChatOptions
from antiphase.data.prompt_rendering import PromptFormat
from antiphase.errors import InvalidInputError
from antiphase.tasks.pool import DEFAULT_TIMEOUT, VerifierPool
from antiphase.tasks.problem import Problem

_TAGS = ("<think>", "</think>", "<answer>", "</answer>")


class AccuracyReward:
    """1 for a right completion, 0 for a wrong one, verified in killable processes.

    Args:
        timeout: seconds for one completion; what takes longer is wrong.
        pool: the pool that verifies; by default a new one with two processes.
    """

    __name__ = "accuracy"

    def __init__(self, timeout: float = DEFAULT_TIMEOUT, pool: VerifierPool | None = None) -> None:
        self.timeout = timeout
        self.pool = VerifierPool() if pool is None else pool

    def __call__(
        self,
        prompts: Sequence[Any],
        completions: Sequence[Any],
        completion_ids: Sequence[Any] | None = None,
        *,
        answer: Sequence[str],
        task: Sequence[str],
        problem_id: Sequence[str],
        metadata: Sequence[str],
        question: Sequence[str] | None = None,
        log_metric: Callable[[str, float], None] | None = None,
        **kwargs: Any,
    ) -> list[float]:
        """The rewards of a batch.

        Args:
            prompts: not read, since the other columns say what the problem is.
            completions: the completions, each a text or a list of chat messages, of which the assistant's last counts.
            completion_ids: not read.
            answer: the reference answer of each problem. This and the next four are columns that `rows` made.
            task: the spec of each problem's task.
            problem_id: the id of each problem.
            metadata: the metadata of each problem.
            question: each problem's own prompt, without template and system prompt; older data sets lack this column.
            log_metric: is called with `accuracy/timeouts`, `accuracy/errors` and `accuracy/no_answer`, each a share of
                the batch.
            kwargs: other columns, not read.
        """
        problems = [
            Problem(problem_id=i, task=t, prompt=q, answer=a, metadata=m)
            for i, t, q, a, m in zip(problem_id, task, question or [""] * len(task), answer, metadata, strict=True)
        ]
        texts = [completion_text(completion) for completion in completions]
        verdicts = self.pool.check(list(zip(texts, problems, strict=True)), self.timeout)
        if log_metric is not None and verdicts:
            for name, outcome in (("timeouts", "timeout"), ("errors", "error"), ("no_answer", "no answer")):
                log_metric(f"accuracy/{name}", sum(v.outcome == outcome for v in verdicts) / len(verdicts))
        return [float(verdict.correct) for verdict in verdicts]


def format_reward(completions: Sequence[Any], **kwargs: Any) -> list[float]:
    r"""1 for a completion that is exactly `<think>…</think> <answer>…</answer>`, with each tag once; 0 for any other.

    >>> format_reward(["<think>1+1</think>\n<answer>2</answer>", "<answer>2</answer>"])
    [1.0, 0.0]
    """
    return [float(_has_format(completion_text(completion))) for completion in completions]


def _has_format(text: str) -> bool:
    text = text.strip()
    if any(text.count(tag) != 1 for tag in _TAGS):
        return False
    _, _, rest = text.partition("</think>")
    return text.startswith("<think>") and text.endswith("</answer>") and rest.lstrip().startswith("<answer>")


def completion_text(completion: Any) -> str:
    """The text of a completion, which is a text already or a chat, of which the assistant's last message counts.

    Raises:
        InvalidInputError: the completion is neither a text nor chat messages.
    """
    if isinstance(completion, str):
        return completion
    if isinstance(completion, list) and all(isinstance(message, Mapping) for message in completion):
        said = [message.get("content") for message in completion if message.get("role") == "assistant"]
        return _content_text(said[-1]) if said else ""
    raise InvalidInputError(
        f"a completion must be text or a list of chat messages; got {type(completion).__name__} "
        f"{str(completion)[:40]!r}."
    )


def _content_text(content: Any) -> str:
    if isinstance(content, list):  # parts, as in multimodal chats
        return "".join(str(part.get("text") or "") for part in content if isinstance(part, Mapping))
    return content if isinstance(content, str) else ""


def rows(
    problems: Sequence[Problem],
    *,
    system_prompt: str | None = None,
    prompt_template: str | None = None,
    chat: bool,
    fold_system: bool = False,
) -> list[dict[str, Any]]:
    """Data-set rows with the columns prompt, question, answer, task, problem_id and metadata.

    Args:
        problems: the problems; each becomes one row.
        system_prompt: the text before the prompt: a message of its own if `chat`, else followed by a blank line.
        prompt_template: a text with `{prompt}` in it; None leaves the prompt as it is.
        chat: whether prompts become lists of messages.
        fold_system: whether the system prompt is put into the first user message; see `ChatOptions`.

    Raises:
        InvalidInputError: the template lacks `{prompt}`.
    """
    form = PromptFormat(prompt_template, system_prompt, chat=ChatOptions(fold_system=fold_system))
    return [
        {
            "prompt": form.wrapped(problem.prompt, f"problem {problem.problem_id}", chat=chat),
            "question": problem.prompt,
            "answer": problem.answer,
            "task": problem.task,
            "problem_id": problem.problem_id,
            "metadata": problem.metadata,
        }
        for problem in problems
    ]
