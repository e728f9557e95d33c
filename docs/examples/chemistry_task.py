"""Masses of amounts of substance, right within a relative tolerance and in any unit of mass.

antiphase eval MODEL --tasks docs/examples/chemistry_task.py:SubstanceMass:tolerance=0.005
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from antiphase.tasks import Problem, QuestionTask

WEIGHTS = {  # g/mol
    "H": 1.008, "C": 12.011, "N": 14.007, "O": 15.999, "Na": 22.990, "Mg": 24.305, "P": 30.974, "S": 32.06,
    "Cl": 35.45, "K": 39.098, "Ca": 40.078, "Fe": 55.845, "Cu": 63.546,
}  # fmt: skip
FORMULAS = (
    "H2O", "CO2", "NaCl", "NH3", "CaCO3", "Ca(OH)2", "H2SO4", "HNO3", "C6H12O6", "Fe2O3", "Mg3(PO4)2", "KNO3", "CuSO4",
    "C2H5OH", "(NH4)2SO4",
)  # fmt: skip
AMOUNTS = ("0.25", "0.5", "2", "3.5", "12")  # mol
GRAMS = {"kg": 1000.0, "g": 1.0, "mg": 0.001}
_QUANTITY = re.compile(r"([-+]?\d+(?:\.\d+)?(?:e-?\d+)?)(kg|mg|g)")


def molar_mass(formula: str) -> float:
    """In g/mol.

    >>> round(molar_mass("Ca(OH)2"), 3)
    74.092
    """
    flat = re.sub(r"\(([^()]*)\)(\d+)", lambda group: group[1] * int(group[2]), formula)
    return sum(WEIGHTS[element] * int(number or 1) for element, number in re.findall(r"([A-Z][a-z]?)(\d*)", flat))


def grams(answer: str) -> float | None:
    r"""A mass in grams; None where there is no single number with a unit of mass.

    >>> grams(r"0.05~\text{kg}"), grams("50 g"), grams("50"), grams("50 g or 60 g")
    (50.0, 50.0, None, None)
    """
    plain = re.sub(r"\\[ ,;]|[~\s$]", "", re.sub(r"\\(?:text|mathrm)\{([^{}]*)\}", r"\1", answer))
    match = _QUANTITY.fullmatch(plain.removesuffix("."))
    return None if match is None else float(match[1]) * GRAMS[match[2]]


@dataclass(frozen=True)
class SubstanceMass(QuestionTask):
    """`What is the mass of 2 mol of Ca(OH)2?`; a number without its unit is wrong."""

    tolerance: float = 0.005

    def questions(self) -> Iterator[tuple[str, str]]:
        """Every formula with every amount."""
        for formula in FORMULAS:
            for amount in AMOUNTS:
                mass = float(amount) * molar_mass(formula)
                yield f"What is the mass of {amount} mol of {formula}? Give the unit in \\boxed{{}}.", f"{mass:.4g} g"

    def is_right(self, answer: str, problem: Problem) -> bool:
        """Whether it is the reference's mass, within the tolerance."""
        given, wanted = grams(answer), grams(problem.answer)
        return given is not None and wanted is not None and abs(given - wanted) <= self.tolerance * wanted
