"""Make the tables that compare ι (the inversion, ι = −ρ) with its rivals, for the page of a probe.

A rival is another number of a rollout that could say the same as ι, such as its length. The tables hold the
correlation of ι with each rival over the rollouts.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from antiphase.page.document import Table
from antiphase.page.wording import FEW_PROMPTS, few_prompts
from antiphase.runs.rivals import SCORES
from antiphase.runs.table_text import with_interval
from antiphase.runs.units import headline_of

HEADER = ("number of a rollout", "what it is", "source", "rank correlation with ι [95 %]", "rollouts")
NOTE = (
    "The table shows what else ranks the rollouts as ι does; intervals are over prompts. A probe knows no right "
    "answers, so it cannot say whether ι or one of these numbers tells right from wrong: an evaluation can. A rollout "
    "that is too short for a ρ of its own has no ι and is left out."
)


def rival_tables(results: Sequence[Mapping[str, Any]], names: Mapping[str, str]) -> list[Table]:
    """Return a table for each result of a probe, with the correlations of ι with its rivals.

    A result gets no table if it holds no such correlation. ι (ι = −ρ) is the inversion, and a rival is another number
    of a rollout, such as its length.

    Args:
        results: the entries of `results` in the summary.
        names: the name of each model on the page.
    """
    tables = []
    for result in results:
        known = {name: entry for name, entry in result.get("rivals", {}).items() if entry["value"] is not None}
        rows = [
            [name, SCORES[name].what, SCORES[name].source or "—", with_interval(entry), str(entry["num_rollouts"])]
            for name, entry in known.items()
        ]
        if rows:
            title = f"other numbers beside ι: {names[result['model']]}, {result['estimator']}"
            title += f"; ι over {headline_of(result)}s"
            prompts = result["num_prompts"]
            notes = [NOTE, f"{few_prompts(prompts).capitalize()}."] if prompts < FEW_PROMPTS else [NOTE]
            tables.append(Table(title, HEADER, rows, notes, beside=True))
    return tables
