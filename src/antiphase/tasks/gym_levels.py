"""Turn a difficulty level of a reasoning_gym curriculum into options of its generator."""

from typing import Any

from antiphase.errors import InvalidInputError
from antiphase.tasks.specs import Spec


def level_options(name: str, level: int, spec: Spec) -> dict[str, Any]:
    """The options that a generator's curriculum sets at a level.

    Every attribute of the curriculum is set to the level, or to its last level if it has fewer. A range goes from the
    lowest level to this one, which is reasoning_gym's default.

    Raises:
        InvalidInputError: the generator has no curriculum, or the curriculum has fewer levels.
    """
    from reasoning_gym.coaching.attributes import RangeAttributeDefinition
    from reasoning_gym.coaching.base_curriculum import DefaultCurriculumContext
    from reasoning_gym.factory import create_curriculum, has_curriculum

    if not has_curriculum(name):
        raise InvalidInputError(
            f"task {spec.text!r}: reasoning_gym's {name} has no curriculum, so no levels. Set its options one by one."
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
