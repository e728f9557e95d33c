"""Rewards that verify completions of tasks and follow TRL's protocol, and the data-set rows that these rewards need.

This module does not import TRL. Any trainer that calls reward functions as TRL does can use these rewards.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from antiphase.data.chat_template import ChatOptions
from antiphase.data.prompt_rendering import PromptFormat
from antiphase.errors import InvalidInputError
from antiphase.steps.thoughts import TAGS, closing_spans, opens, with_opening
from antiphase.tasks.pool import DEFAULT_TIMEOUT, VerifierPool
from antiphase.tasks.problem import Problem
from antiphase.tasks.verdict import Outcome

_ANSWER = ("<answer>", "</answer>")
# Where chat templates keep the thought of a message that the trainer has parsed.
_THOUGHTS = ("reasoning_content", "reasoning", "thinking")


class ReadingReward:
    """A reward that reads what completions say: their thoughts with tags, and their answers.

    Two kinds of tags can be missing in the texts that a trainer such as TRL's gives to rewards:

    1. a tag that is a special token, because the trainer decodes completions without special tokens;
    2. an opening tag that the chat template wrote at the end of the prompt, because it is not part of the completion.

    `CorRPOTrainer` decodes the token ids itself, so its texts contain both kinds of tags. With another
    trainer, tags of kind 1 stay missing. This class recovers a tag of kind 2 from the end of the prompt, if the prompt
    is a text, or a chat whose last message is the assistant's.

    Args:
        tags: pairs of the tag that opens a thought and the tag that closes it; see `thoughts.thought_tags`.
    """

    __name__ = "reading"

    def __init__(self, tags: Sequence[tuple[str, str]] = TAGS) -> None:
        self.tags = tuple(tags)

    def texts(self, completions: Sequence[Any], prompts: Sequence[Any] | None = None) -> list[str]:
        """Return the texts of completions, each with the opening tag of a thought if its prompt ends with that tag.

        Args:
            completions: the completions, each a text or a list of chat messages. If it is a list, only the assistant's
                last message is read.
            prompts: the prompt of each completion, a text or a list of chat messages; None if they are not known.
        """
        texts = [completion_text(completion) for completion in completions]
        if prompts is None:
            return texts
        return [
            with_opening(text, _prompt_end(prompt), self.tags) for text, prompt in zip(texts, prompts, strict=True)
        ]


class AccuracyReward(ReadingReward):
    """Reward of 1 for a right completion and 0 for a wrong one. Completions are verified in processes of their own.

    Only the text after the thought is verified. A completion whose thought does not end is wrong.

    Args:
        timeout: the seconds that the verification of one completion may take. If it takes longer, the completion is
            wrong and the process is killed.
        pool: the pool of processes that verify. It also knows the tags of thoughts. None makes a new pool.
    """

    __name__ = "accuracy"

    def __init__(self, timeout: float = DEFAULT_TIMEOUT, pool: VerifierPool | None = None) -> None:
        self.timeout = timeout
        self.pool = VerifierPool() if pool is None else pool
        super().__init__(self.pool.tags)

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
        finishes: Sequence[str] | None = None,
        log_metric: Callable[[str, float], None] | None = None,
        **kwargs: Any,
    ) -> list[float]:
        """Return the rewards of a batch: 1 for each right completion, 0 for each wrong one.

        Args:
            prompts: the prompts. Only an opening tag at the end of a prompt is read.
            completions: the completions, each a text or a list of chat messages. If it is a list, only the assistant's
                last message is read.
            completion_ids: not read.
            answer: the reference answer of each problem. The function `rows` makes the columns `answer`, `task`,
                `problem_id`, `metadata` and `question`.
            task: the spec of each problem's task.
            problem_id: the id of each problem.
            metadata: the metadata of each problem.
            question: each problem's prompt, without template and system prompt. None for older data sets, which lack
                this column.
            finishes: how each completion ended: `length` if it reached its length limit, else `stop`. None if the
                trainer does not say it; `CorRPOTrainer` does.
            log_metric: a function that logs a metric, called with its name and value. The metrics are
                `accuracy/timeouts`, `accuracy/errors` and `accuracy/no_answer`, each a share of the batch. If
                `finishes` is given, `accuracy/cut_off` is logged too.
            kwargs: other columns, not read.
        """
        problems = [
            Problem(problem_id=i, task=t, prompt=q, answer=a, metadata=m)
            for i, t, q, a, m in zip(problem_id, task, question or [""] * len(task), answer, metadata, strict=True)
        ]
        texts = self.texts(completions, prompts)
        verdicts = self.pool.check(list(zip(texts, problems, strict=True)), self.timeout, finishes)
        if log_metric is not None and verdicts:
            shares = failure_shares([verdict.outcome for verdict in verdicts])
            if finishes is None:
                del shares["cut_off"]
            for name, share in shares.items():
                log_metric(f"accuracy/{name}", share)
        return [float(verdict.correct) for verdict in verdicts]


def failure_shares(outcomes: Sequence[Outcome]) -> dict[str, float]:
    """Return the share of completions with each outcome that is a failure: no answer, cut off, timeout or error.

    Args:
        outcomes: the outcome of each completion, at least one.

    >>> failure_shares(["right", "wrong", "no answer", "cut off"])
    {'timeouts': 0.0, 'errors': 0.0, 'no_answer': 0.25, 'cut_off': 0.25}
    """
    names: dict[str, Outcome] = {
        "timeouts": "timeout", "errors": "error", "no_answer": "no answer", "cut_off": "cut off"
    }  # fmt: skip
    return {name: sum(found == outcome for found in outcomes) / len(outcomes) for name, outcome in names.items()}


class FormatReward(ReadingReward):
    r"""Reward of 1 for a thought followed by an answer, as in `<think>…</think> <answer>…</answer>`, else 0.

    The tags of the thought are any pair in `thoughts.TAGS` or any pair that the user added. The opening tag may stand
    at the end of the prompt instead. A completion gets 1 only if it also keeps these rules:

    * Nothing but white space stands before the thought, between thought and answer, and after the answer.
    * There is one answer. After the thought, each of the two answer tags occurs once, and tags of thoughts do not
      occur.
    * The thought is not blank, and contains no other thought. So between its two tags there is no closing tag, except
      in quotation marks, and no opening tag at the beginning of the text or of a line.
    * Answer tags inside the thought are ignored, since the answer is what follows the thought.

    The answer may be wrong or blank: another reward judges it.

    >>> reward = FormatReward()
    >>> reward(["<think>1+1</think>\n<answer>2</answer>", "<answer>2</answer>"])
    [1.0, 0.0]
    >>> reward(["1+1</think><answer>2</answer>"], prompts=["How much is 1+1? <think>"])
    [1.0]
    """

    __name__ = "format_reward"

    def __call__(self, completions: Sequence[Any], prompts: Sequence[Any] | None = None, **kwargs: Any) -> list[float]:
        """Return the reward of each completion, 1 or 0. Other arguments from the trainer (`kwargs`) are not read."""
        return [float(_has_format(text.strip(), self.tags)) for text in self.texts(completions, prompts)]


format_reward = FormatReward()


def _has_format(text: str, tags: Sequence[tuple[str, str]]) -> bool:
    begun = [pair for pair in tags if text.startswith(pair[0])]
    if not begun:
        return False
    opening, close = max(begun, key=lambda pair: len(pair[0]))
    spans = closing_spans(text, close)
    if len(spans) != 1:
        return False
    thought, rest = text[len(opening) : spans[0][0]], text[spans[0][1] :].strip()
    if not thought.strip() or opens(thought, tags) or any(closing_spans(thought, other) for _, other in tags):
        return False
    if not rest.startswith(_ANSWER[0]) or not rest.endswith(_ANSWER[1]) or any(tag in rest for p in tags for tag in p):
        return False
    return all(rest.count(tag) == 1 for tag in _ANSWER)


def completion_text(completion: Any) -> str:
    """Return the text of a completion. If the completion is a chat, return the assistant's last message.

    Some trainers move the thought from the text of the message into another field. The thought is then put back before
    the text, in `<think>` tags. If nothing follows the thought, the closing tag is left out, since the thought may not
    have ended.

    Raises:
        InvalidInputError: the completion is neither a text nor chat messages.
    """
    if isinstance(completion, str):
        return completion
    if isinstance(completion, list) and all(isinstance(message, Mapping) for message in completion):
        message = last_message(completion)
        return "" if message is None else _message_text(message)
    raise InvalidInputError(
        f"a completion must be text or a list of chat messages; got {type(completion).__name__} "
        f"{str(completion)[:40]!r}."
    )


def last_message(messages: Sequence[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """Return the assistant's last message of a chat, or None if the assistant has said nothing."""
    return next((message for message in reversed(messages) if message.get("role") == "assistant"), None)


def _message_text(message: Mapping[str, Any]) -> str:
    content = _content_text(message.get("content"))
    thought = next(filter(str.strip, (_content_text(message.get(name)) for name in _THOUGHTS)), None)
    if thought is None:
        return content
    # A tag inside a thought that the trainer has parsed only mentions the tag, so it is put in quotation marks.
    for tag in (tag for pair in TAGS for tag in pair):
        thought = thought.replace(tag, f"`{tag}`")
    return f"<think>\n{thought}\n</think>\n\n{content}" if content.strip() else f"<think>\n{thought}"


def _prompt_end(prompt: Any) -> str:
    """Return the text that a completion continues: the prompt, or the assistant's message at the end of a chat."""
    if isinstance(prompt, str):
        return prompt
    last = prompt[-1] if isinstance(prompt, list) and prompt else None
    return _content_text(last.get("content")) if isinstance(last, Mapping) and last.get("role") == "assistant" else ""


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
    """Return data-set rows with the columns prompt, question, answer, task, problem_id and metadata.

    Args:
        problems: the problems; each becomes one row.
        system_prompt: the text before the prompt. It is a separate message if `chat` is true; otherwise a blank line
            follows it.
        prompt_template: a text with `{prompt}` in it; None leaves the prompt unchanged.
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
