"""Load the prompts of a probe: the built-in GSM8K questions, a file, a hub data set, or a list of strings.

Prompts are read and checked here. `prompt_rendering` turns them into token ids.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from antiphase.data.tables import TableRow, read_table
from antiphase.errors import InvalidInputError, MissingExtraError, first_line

BUILT_IN = "gsm8k"
_COLUMNS = ("prompt", "question", "problem", "messages")
_SUFFIXES = (".jsonl", ".json", ".ndjson", ".parquet")
STEP_BY_STEP = "{prompt}\nPlease reason step by step, and put your final answer within \\boxed{}."

# Each message has the texts `role` and `content`. It may have more keys, which a chat template may read.
Messages = list[dict[str, Any]]


@dataclass(frozen=True)
class Prompt:
    """A prompt: plain text, or a chat as a list of `{"role", "content"}` messages."""

    prompt_id: str
    content: str | Messages


def load_prompts(
    source: str | Sequence[str], num_prompts: int | None, column: str | None = None, *, exact: bool = True
) -> list[Prompt]:
    """Load the first prompts of a source.

    Args:
        source: `gsm8k` (the test questions that are part of this package); a `.jsonl`, `.json`, `.ndjson` or
            `.parquet` file; a hub data set as `owner/name[:config[:split]]`; or a list of strings.
        num_prompts: how many prompts are loaded; None loads all.
        column: the column of the prompt; None takes the first of these that exists: prompt, question, problem,
            messages.
        exact: whether it is an error if the source has fewer than `num_prompts` prompts.

    Raises:
        InvalidInputError: the source does not exist, a row is empty or malformed (the message names the row), or the
            source has fewer prompts than were asked for.
        MissingExtraError: a hub data set needs the package `datasets`, which is not installed.
    """
    if num_prompts is not None and num_prompts < 1:
        raise InvalidInputError(f"num_prompts must be at least 1; got {num_prompts}.")
    prompts = _read(source, num_prompts, column)
    seen: set[str] = set()
    for prompt in prompts:
        if prompt.prompt_id in seen:
            raise InvalidInputError(f"the prompt id {prompt.prompt_id!r} stands twice; ids must be unique.")
        seen.add(prompt.prompt_id)
    if exact and num_prompts is not None and len(prompts) < num_prompts:
        raise InvalidInputError(f"asked for {num_prompts} prompts, but there are only {len(prompts)}.")
    return prompts


def _read(source: str | Sequence[str], num_prompts: int | None, column: str | None) -> list[Prompt]:
    if not isinstance(source, str):
        rows = [TableRow(f"prompt {i}", {"prompt": text}) for i, text in enumerate(source)]
        if not rows:
            raise InvalidInputError("the list of prompts is empty.")
        stem = "prompt"
    elif source == BUILT_IN:
        with resources.as_file(resources.files("antiphase.data") / "gsm8k_test.jsonl") as path:
            rows, stem = read_table(path), BUILT_IN
    elif source.endswith(_SUFFIXES) or Path(source).is_file():
        rows, stem = read_table(Path(source)), Path(source).stem
    elif source.count("/") == 1 and not Path(source).exists():
        rows, stem = _read_hub(source, num_prompts), source.partition(":")[0]
    else:
        raise InvalidInputError(
            f"unknown prompts {source!r}: expected '{BUILT_IN}', a .jsonl or .parquet file, or a hub data set "
            "as owner/name[:config[:split]]."
        )
    columns = _COLUMNS if column is None else (column,)
    return [_prompt(row, columns, f"{stem}-{index}") for index, row in enumerate(rows[:num_prompts])]


def _prompt(row: TableRow, columns: Sequence[str], default_id: str) -> Prompt:
    content = row.first_of(columns)
    if content is None:
        raise InvalidInputError(
            f"{row.place}: no prompt. Looked for the column {' or '.join(columns)}; found "
            f"{', '.join(row.values) or 'none'}. Name the prompt's column with --prompt-column."
        )
    prompt_id = row.first_of(("prompt_id", "id"))
    return Prompt(default_id if prompt_id is None else str(prompt_id), checked_content(content, row.place))


def checked_content(content: Any, place: str) -> str | Messages:
    """Check that a prompt is a non-empty string or a list of chat messages, and return it.

    The content of a message may be a text, or a list of text parts such as `{"type": "text", "text": "Hi"}`, which are
    joined. Other keys of a message, such as `reasoning_content`, are kept for the chat template.

    Raises:
        InvalidInputError: the prompt is neither a non-empty string nor a list of chat messages, or a message has a
            part that is not a text.
    """
    if isinstance(content, str) and content.strip():
        return checked_text(content, place)
    if isinstance(content, list) and content and all(_is_message(message) for message in content):
        return [_message(message, place) for message in content]
    raise InvalidInputError(
        f"{place}: the prompt must be a non-empty string or a list of messages with 'role' and 'content'; got "
        f"{type(content).__name__} {str(content)[:40]!r}."
    )


def _message(message: Mapping[str, Any], place: str) -> dict[str, Any]:
    content = message["content"]
    if not isinstance(content, str):
        others = [part for part in content if not _is_text_part(part)]
        if others:
            raise InvalidInputError(
                f"{place}: a message has a part of type {others[0].get('type')!r}; antiphase measures "
                'text only, so give parts as {"type": "text", "text": "…"}.'
            )
        content = "".join(part["text"] for part in content)
    # A table stores null for every key that one message lacks and another one has.
    more = {key: value for key, value in message.items() if value is not None}
    return {**more, "content": checked_text(content, place)}


def _is_message(message: Any) -> bool:
    if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
        return False
    content = message.get("content")
    return isinstance(content, str) or (
        isinstance(content, list) and bool(content) and all(isinstance(part, Mapping) for part in content)
    )


def _is_text_part(part: Mapping[str, Any]) -> bool:
    return part.get("type") == "text" and isinstance(part.get("text"), str)


def checked_text(text: str, place: str) -> str:
    """Check that a text can be encoded as UTF-8, and return it.

    JSON can contain half of a surrogate pair, which no tokenizer accepts.

    Raises:
        InvalidInputError: the text cannot be encoded.
    """
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise InvalidInputError(f"{place}: the text holds {text[error.start]!r}, which is no character.") from None
    return text


def _read_hub(source: str, num_prompts: int | None) -> list[TableRow]:
    try:
        import datasets
    except ImportError:
        raise MissingExtraError("datasets", "data", "reading a hub data set") from None
    name, _, rest = source.partition(":")
    config, _, split = rest.partition(":")
    try:
        rows = datasets.load_dataset(name, config or None, split=split or "test", streaming=num_prompts is not None)
        taken = rows if num_prompts is None else rows.take(num_prompts)
        return [TableRow(f"{source}, row {i}", dict(values)) for i, values in enumerate(taken)]
    except (OSError, ValueError) as error:
        raise InvalidInputError(f"the hub data set {source!r} could not be read ({first_line(error)}).") from error
