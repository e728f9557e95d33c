"""Tiny models that think as current families do: tokenizers with their control tokens and templates of their form."""

from conftest import byte_tokenizer, tiny_model

# Like Qwen3: a switch for thinking, control tokens for turns, and think tags that are added but not special.
QWEN3 = (
    "{%- for m in messages -%}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{%- endfor -%}"
    "{%- if add_generation_prompt -%}<|im_start|>assistant\n"
    "{%- if enable_thinking is defined and enable_thinking is false -%}<think>\n\n</think>\n\n{%- endif -%}"
    "{%- endif -%}"
).replace("\n{%-", "\n{%")
# Like DeepSeek-R1: the template writes BOS and opens the thought; the system message is written without a role.
R1 = (
    "{{ bos_token }}{% for m in messages %}"
    "{% if m.role == 'system' %}{{ m.content }}{% elif m.role == 'user' %}<|User|>{{ m.content }}"
    "{% else %}<|Assistant|>{{ m.content.split('</think>')[-1] }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|Assistant|><think>\n{% endif %}"
)
# Like Llama 3.2: the template reads the clock.
DATED = (
    "{% for m in messages %}<|im_start|>{{ m.role }} {{ strftime_now('%d %b %Y') }}\n{{ m.content }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# Like Gemma 2: no system role.
STRICT = "{% if messages[0].role == 'system' %}{{ raise_exception('no system role') }}{% endif %}" + QWEN3
# A template that passes over the system message without a word.
SILENT = "{% set messages = messages | rejectattr('role', 'equalto', 'system') | list %}" + QWEN3


def thinking_tokenizer(template: str = QWEN3):
    """A byte tokenizer with the control tokens of a template; `<think>` and `</think>` are single tokens."""
    tokenizer = byte_tokenizer(template)
    turns = [token for token in ("<|im_start|>", "<|im_end|>", "<|User|>", "<|Assistant|>") if token in template]
    tokenizer.add_special_tokens({"additional_special_tokens": turns})
    tokenizer.add_tokens(["<think>", "</think>"])
    return tokenizer


def save_thinking_model(folder, template: str = QWEN3, **changes):
    """Save a tiny random model with such a tokenizer. Its generation config ends a turn, its tokenizer a text."""
    tokenizer = thinking_tokenizer(template)
    model = tiny_model(vocab_size=len(tokenizer), **changes)
    ends = [tokenizer.convert_tokens_to_ids("<|im_end|>")] if "<|im_end|>" in template else [2]
    model.generation_config.eos_token_id = ends
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
