"""Cut rollouts into steps, such as sentences or lines, and find the step of each token (docs/method.md).

`sentences` finds where the sentences of a text begin. `splitter` offers all the ways to cut a text. `places` finds
where each token stands in the text. `assigning` uses these modules to find the step of each token. Nothing here
measures a signal.
"""

from typing import TYPE_CHECKING, Any

from antiphase.steps.splitter import DEFAULT_SPLITTER as DEFAULT_SPLITTER
from antiphase.steps.splitter import Splitter as Splitter

if TYPE_CHECKING:
    from antiphase.steps.assigning import batch_steps as batch_steps
    from antiphase.steps.assigning import token_steps as token_steps


def __getattr__(name: str) -> Any:
    # `assigning` is imported on first use, because it imports torch.
    if name in ("batch_steps", "token_steps"):
        from antiphase.steps import assigning

        return getattr(assigning, name)
    raise AttributeError(f"module 'antiphase.steps' has no attribute {name!r}")
