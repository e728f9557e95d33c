"""The folder of an evaluation: the same files and rules as a probe's."""

from antiphase.evaluation.evaluation_config import EVALUATION
from antiphase.probing.run_folder import RunFolder


class EvalFolder(RunFolder):
    """The folder that an evaluation writes to and reads from."""

    KIND = EVALUATION
