"""Write the cells of a study as commands for a job scheduler: a list, a shell script, or a Slurm array.

A cell is one model, setting, method and seed. Every command is an `antiphase sweep --cell …`, which is a separate
process. All of them may run at the same time, on several machines that share the folder of the study. A last command
makes the tables.

This module runs nothing and writes no file. It only returns texts.
"""

import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from antiphase.errors import InvalidInputError
from antiphase.registry import did_you_mean

FORMS = ("list", "shell", "slurm")
# Options of sbatch that the script itself sets.
_OWN = ("array", "chdir", "dependency", "output", "error", "parsable", "wrap", "open-mode", "job-name")
_OWN_SHORT = ("a", "D", "d", "o", "e", "J")
# Options of sbatch that say where a job runs, and that the job of the tables needs too.
_SHARED = ("--account", "--partition", "--qos", "--reservation", "--clusters", "-A", "-p", "-q", "-M")
_PLACEHOLDERS = """\
# What a cell needs. Change the lines that you use, and remove one # from each:
##SBATCH --account=ACCOUNT
##SBATCH --partition=PARTITION
##SBATCH --gpus=1
##SBATCH --cpus-per-task=8
##SBATCH --mem=64G
##SBATCH --time=24:00:00"""


@dataclass(frozen=True)
class Commands:
    """The commands that run the unfinished cells of a study.

    Args:
        study: the study's name.
        path: the file STUDY.yaml.
        folder: the study's folder, as an absolute path.
        cells: the names of the cells that are not done.
        jobs: number of cells that a script runs at the same time. For a Slurm array, 1 means that there is no limit.
        launch: the launcher's command for every training. If None is given, no launcher is used.
        train: changes of the study's shared `train` keys, each of the form `KEY=VALUE`.
        keep_models: whether the trained models are kept.
        sbatch: options of sbatch for every cell, such as `--gpus=1 --time=4:00:00`.
    """

    study: str
    path: Path
    folder: Path
    cells: tuple[str, ...]
    jobs: int = 1
    launch: str | None = None
    train: tuple[str, ...] = ()
    keep_models: bool = False
    sbatch: str = ""

    def words(self) -> list[str]:
        """Return the words that all commands begin with, among them the absolute path of the study's file."""
        words = [sys.executable, "-m", "antiphase", "sweep", str(self.path.absolute()), "--out", str(self.folder)]
        words += [word for change in self.train for word in ("--train", change)]
        words += [] if self.launch is None else ["--launch", self.launch]
        return [*words, "--keep-models"] if self.keep_models else words

    def texts(self, form: str) -> list[str]:
        """Return the commands as texts.

        The form `list` gives one text for each cell. The forms `shell` and `slurm` give one text, which is a script.

        Raises:
            InvalidInputError: the form is unknown, options of sbatch are invalid or are given for another form, or a
                script would have no cell to run.
        """
        if form not in FORMS:
            hint = did_you_mean(form, FORMS)
            raise InvalidInputError(f"--print-commands must be one of {', '.join(FORMS)}; got {form!r}.{hint}")
        if self.sbatch and form != "slurm":
            raise InvalidInputError("--sbatch has options for Slurm, so it needs --print-commands slurm.")
        if form == "list":
            return [shlex.join([*self.words(), "--cell", cell]) for cell in self.cells]
        if not self.cells:
            raise InvalidInputError(f"all cells in {str(self.folder)!r} are done. Make the tables with --tables.")
        return [_shell(self) if form == "shell" else _slurm(self)]


def _shell(commands: Commands) -> str:
    """Return a script for bash that runs the cells, several at a time, and makes the tables."""
    logs, cells = shlex.quote(str(commands.folder / "logs")), _lines(commands.cells, after=" \\")
    return f"""\
#!/usr/bin/env bash
# Runs {len(commands.cells)} cells of the study {_one_line(commands.study)}, and then makes the tables.
# Run it by: bash THIS_FILE
# JOBS cells run at the same time: JOBS=4 bash THIS_FILE.
# A cell that fails does not stop the others. After an interruption (Ctrl-C), no further cell begins.
# To continue, run this file again: finished cells are skipped.
set -u
cd {shlex.quote(str(Path.cwd()))} || exit
export LOGS={logs}
mkdir -p "$LOGS" || exit
SWEEP=({shlex.join(commands.words())})

# A study that cannot run is refused here, before any cell begins.
"${{SWEEP[@]}}" --dry-run || exit

# The last word is the name of the cell. Status 255 tells xargs to begin no further cell.
run='
cell=${{!#}}
"$@" >>"$LOGS/$cell.log" 2>&1
status=$?
case $status in
  0) echo "done: $cell" ;;
  130 | 143) echo "interrupted: $cell" >&2; exit 255 ;;
  *) echo "FAILED: $cell (status $status; see $LOGS/$cell.log)" >&2; exit 1 ;;
esac
'
printf '%s\\n' \\
{cells} |
  xargs -n 1 -P "${{JOBS:-{commands.jobs}}}" bash -c "$run" cell "${{SWEEP[@]}}" --cell
status=$?
[ "$status" -ge 124 ] && exit "$status"
"${{SWEEP[@]}}" --tables || status=$?
exit "$status\""""


def _slurm(commands: Commands) -> str:
    """Return a script that bash runs: it submits itself as a Slurm array, and then a job that makes the tables."""
    options = _options(commands.sbatch)
    lines = "\n".join(f"#SBATCH {shlex.join(words)}" for words in options) or _PLACEHOLDERS
    shared = [word for words in options if words[0].partition("=")[0] in _SHARED for word in words]
    limit = f"%{commands.jobs}" if commands.jobs > 1 else ""
    logs, study = commands.folder / "logs", _one_line(commands.study)
    tables = shlex.quote(shlex.join([*commands.words(), "--tables"]))
    return f"""\
#!/usr/bin/env bash
#SBATCH --job-name={shlex.quote(study)}
#SBATCH --array=0-{len(commands.cells) - 1}{limit}
#SBATCH --chdir={shlex.quote(str(Path.cwd()))}
#SBATCH --output={shlex.quote(f"{logs}/slurm-%A_%a.log")}
#SBATCH --open-mode=append
#SBATCH --requeue
#SBATCH --signal=B:TERM@120
{lines}

# Runs {len(commands.cells)} cells of the study {study} as an array of jobs, and then makes the tables.
# Submit it by: bash THIS_FILE
# A cell that fails does not stop the others. A job that is put back into the queue continues its cell. Two minutes
# before the time limit, a training is told to finish its step, to save a checkpoint and to end. If this takes longer
# than 110 seconds, the cell continues from an earlier checkpoint. To continue, submit this file again, or print it
# anew: finished cells are skipped. For more than 1,000 jobs, the cluster may need a higher MaxArraySize.
set -u
LOGS={shlex.quote(str(logs))}
SWEEP=({shlex.join(commands.words())})
CELLS=(
{_lines(commands.cells)}
)

if [ -z "${{SLURM_ARRAY_TASK_ID:-}}" ]; then
  # bash runs this file. A study that cannot run is refused here, before any job is submitted.
  file=$(cd "$(dirname "$0")" && pwd)/$(basename "$0")
  cd {shlex.quote(str(Path.cwd()))} || exit
  mkdir -p "$LOGS" || exit
  "${{SWEEP[@]}}" --dry-run || exit
  array=$(sbatch --parsable "$file") || exit
  array=${{array%%;*}}
  # The tables are made when all jobs of the array have ended, also if some of them have failed.
  tables=$(sbatch --parsable --dependency=afterany:"$array" --job-name={shlex.quote(f"{study}-tables")} \\
    --output="$LOGS/slurm-%j-tables.log" {shlex.join(shared)}{" " if shared else ""}\\
    --wrap {tables}) || exit
  echo "job $array runs the cells, and job ${{tables%%;*}} makes the tables; their output is in $LOGS"
  exit
fi

# Slurm runs this file, once for each index. exec lets the signals of Slurm reach the cell.
exec "${{SWEEP[@]}}" --cell "${{CELLS[$SLURM_ARRAY_TASK_ID]}}\""""


def _one_line(name: str) -> str:
    """Return the name of a study without line breaks, which would end a comment in the script."""
    return " ".join(name.split())


def _lines(names: Sequence[str], after: str = "") -> str:
    """Return a text with one name on each line, quoted for a shell. All lines but the last end with `after`."""
    return f"{after}\n".join(f"  {shlex.quote(name)}" for name in names)


def _options(text: str) -> list[list[str]]:
    """Return the options of sbatch in a text, each as a list of words: `--gpus=1 -p main` has two options.

    Raises:
        InvalidInputError: the text is not a list of options, or the script itself sets one of them.
    """
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise InvalidInputError(f"--sbatch cannot be split into words ({error}); got {text!r}.") from None
    options: list[list[str]] = []
    for word in words:
        if word.startswith("-"):
            options.append([word])
        elif options and len(options[-1]) == 1 and "=" not in options[-1][0]:
            options[-1].append(word)
        else:
            raise InvalidInputError(f"--sbatch takes options, such as '--gpus=1 --time=4:00:00'; got {word!r}.")
        name = options[-1][0].partition("=")[0]
        if "\n" in word or name.removeprefix("--") in _OWN or name[:2] in {f"-{short}" for short in _OWN_SHORT}:
            raise InvalidInputError(f"--sbatch: the script itself sets {name}, so leave it out.")
    return options
