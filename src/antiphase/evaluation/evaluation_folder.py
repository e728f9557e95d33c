"""The folder of an evaluation: the same files and rules as a probe's."""

from antiphase.runs.folder_kinds import EVALUATION
from antiphase.runs.run_folder import RunFolder


class EvalFolder(RunFolder):
    """The folder that an evaluation writes to and reads from."""

    KIND = EVALUATION
