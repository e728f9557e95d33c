"""The folder of an evaluation: the same files and rules as a probe's."""

from antiphase.evaluation.evaluation_config import FREE_ON_RESUME
from antiphase.probing.run_folder import RunFolder

FORMAT = "antiphase-eval"
FORMAT_VERSION = 1


class EvalFolder(RunFolder):
    """The folder that an evaluation writes to and reads from."""

    FORMAT = FORMAT
    FORMAT_VERSION = FORMAT_VERSION
    OWNER = "an evaluation"
    FREE = FREE_ON_RESUME
