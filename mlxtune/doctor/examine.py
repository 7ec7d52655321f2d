"""All checks in their order. What goes wrong while they are made is a check, too."""

from importlib import import_module

from mlxtune.checks import Check

SECTIONS = ("machine", "mac", "software", "backends", "disk", "network")


def examine() -> list[Check]:
    """Everything of this machine; takes some seconds."""
    return [check for name in SECTIONS for check in section(name)]


def section(name: str) -> list[Check]:
    """The checks of a module here. It is imported only now: a damaged library must not silence the other sections."""
    try:
        checks: list[Check] = import_module(f"mlxtune.doctor.{name}").checks()
    except Exception as error:  # whatever it is: this verb is run where something is wrong
        found = f"could not be examined: {type(error).__name__}: {error}"
        return [Check(name, "bad", found, "A run is likely to fail on the same.", "Mend or reinstall what is named.")]
    return checks
