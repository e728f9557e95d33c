"""Make the tables of the page that show which problems one model or method solves more often than another."""

from collections.abc import Mapping, Sequence

from antiphase.evaluation.comparison_formats import difference_text
from antiphase.evaluation.disagreements import FILE, Disagreements, Side, excerpt
from antiphase.page.document import Table
from antiphase.runs.table_text import signed

# The label of the subject on the page, by entrant, task and index of the seed.
Labels = Mapping[tuple[str, str, int], str]
_MOST_ROWS = 200
_READING = (
    "The table lists the problems that both answered with different shares of right completions. Click a share to "
    "read a rollout that shows the difference: a right one of the side that is right more often, or a wrong one of "
    "the other side."
)


def disagreement_tables(found: Sequence[Disagreements], labels: Labels) -> list[Table]:
    """Return a table for each pair of entrants. Its rows are the problems, of all tasks, on which the two disagree.

    An entrant is a model, or a method with its seeds. Two entrants disagree on a problem if they have different shares
    of right completions.

    Args:
        found: the disagreements, as `disagreements` returns them.
        labels: the label of each model on the page; the key is (name of the entrant, task, index of the seed). If a
            user clicks on a cell of the table, the page opens a rollout of the model with this label.
    """
    pairs: dict[tuple[str, str], list[Disagreements]] = {}
    for one in found:
        pairs.setdefault((one.reference, one.model), []).append(one)
    return [_table(own, labels) for own in pairs.values()]


def _table(found: Sequence[Disagreements], labels: Labels) -> Table:
    reference, model = found[0].reference, found[0].model
    whole = [(one.task, row) for one in found for row in one.problems]
    whole.sort(key=lambda pair: (-abs(pair[1].difference), -pair[1].difference))
    shown = whole[:_MOST_ROWS]
    header = ["problem", "task", f"right: {reference}", f"right: {model}", "difference", "prompt"]
    rows, links = [], {}
    for place, (task, row) in enumerate(shown):
        shares = (_share(row.reference), _share(row.model))
        rows.append([row.problem_id, task, *shares, signed(row.difference), excerpt(row.prompt)])
        for column, name, side in ((2, reference, row.reference), (3, model, row.model)):
            pairs = [
                (labels[name, task, seed], rollout) for seed, rollout in side.rollouts if (name, task, seed) in labels
            ]
            if pairs:
                links[place, column] = pairs
    notes = [note for one in found for note in _notes(one)]
    if len(whole) > len(shown):
        notes.append(
            f"The table shows the {len(shown)} largest of {len(whole):,} differences. The file {FILE} holds all."
        )
    return Table(f"{model} against {reference}, problem by problem", header, rows, [_READING, *notes], links)


def _share(side: Side) -> str:
    return f"{side.share:.2f} ({side.num_correct} of {side.num_samples})"


def _notes(one: Disagreements) -> list[str]:
    """Return sentences that say on how many problems two entrants differ, and on how many they would by chance."""
    more = sum(row.difference > 0 for row in one.problems)
    notes = [
        f"{one.task}: of {one.num_problems:,} problems, {one.model} solves {more:,} more often than {one.reference} "
        f"and {len(one.problems) - more:,} less often. The mean difference in accuracy is "
        f"{difference_text(one.paired)}: {one.paired['verdict']}."
    ]
    if one.by_chance is None:
        notes.append(
            f"{one.task}: with these numbers of completions (for example, with a single completion of each problem), "
            "it cannot be estimated how many problems would differ by chance. Only the mean difference can tell a "
            "real difference from chance."
        )
    else:
        seeds = max(one.paired["num_seeds_left"], one.paired["num_seeds_right"])
        notes.append(
            f"{one.task}: the shares differ on {len(one.problems):,} problems. If both solved every problem equally "
            f"often, {one.by_chance:,.1f} problems would still be expected to differ by chance."
            + (" This number assumes that all seeds are equally good." if seeds > 1 else "")
        )
    return notes
