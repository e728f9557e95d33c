"""The folder of an evaluation. It has the files of a probe's folder, which `run_folder` lists."""

from antiphase.runs.folder_kinds import EVALUATION
from antiphase.runs.run_folder import RunFolder


class EvalFolder(RunFolder):
    """The folder that an evaluation writes to and reads from."""

    KIND = EVALUATION
