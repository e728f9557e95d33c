"""Turn a level of difficulty into options of a reasoning_gym generator, as its curriculum defines the levels."""

from typing import Any

from antiphase.errors import InvalidInputError
from antiphase.tasks.specs import Spec


def level_options(name: str, level: int, spec: Spec) -> dict[str, Any]:
    """Return the options that the curriculum of a reasoning_gym generator sets at a level of difficulty.

    A curriculum is a set of attributes, such as the number of terms, and each attribute has a list of levels. Every
    attribute is set to the wanted level, or to its last level if it has fewer levels. If an attribute is a range, the
    range begins at its lowest level and ends at the wanted level, as in reasoning_gym.

    Args:
        name: the name of the generator.
        level: the wanted level; 0 is the easiest.
        spec: the spec of the task, for the error messages.

    Raises:
        InvalidInputError: the generator has no curriculum, the level is negative, or no attribute has this level.
    """
    from reasoning_gym.coaching.attributes import RangeAttributeDefinition
    from reasoning_gym.coaching.base_curriculum import DefaultCurriculumContext
    from reasoning_gym.factory import create_curriculum, has_curriculum

    if not has_curriculum(name):
        raise InvalidInputError(
            f"task {spec.text!r}: reasoning_gym's {name} has no curriculum, so it has no levels. Set its options "
            "one by one."
        )
    curriculum = create_curriculum(name)
    highest = max(len(attribute.levels) for attribute in curriculum.attributes.values()) - 1
    if not 0 <= level <= highest:
        raise InvalidInputError(f"task {spec.text!r}: level must be 0 to {highest}; got {level}.")
    context = DefaultCurriculumContext()
    options: dict[str, Any] = {}
    for attribute in curriculum.attributes.values():
        curriculum.set_attr_level(attribute.name, min(level, len(attribute.levels) - 1))
        value = context.get_attr_value(curriculum, attribute)
        if isinstance(attribute, RangeAttributeDefinition):
            ends = list(value) if isinstance(value, list | tuple) else [value]
            options |= {attribute.lower_field_name: min(ends), attribute.upper_field_name: max(ends)}
        else:
            options[attribute.field_name] = value
    return options
