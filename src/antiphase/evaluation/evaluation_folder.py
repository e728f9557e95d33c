"""The folder of an evaluation. It has the same files as the folder of a probe, with the same rules."""

from antiphase.runs.folder_kinds import EVALUATION
from antiphase.runs.run_folder import RunFolder


class EvalFolder(RunFolder):
    """The folder that an evaluation writes to and reads from."""

    KIND = EVALUATION
