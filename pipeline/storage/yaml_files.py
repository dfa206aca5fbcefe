"""Read YAML files that users write."""

import re
from functools import cache
from pathlib import Path
from typing import Any

from pipeline.errors import InputError, reason, unreadable
from pipeline.storage.encodings import decoded

_MAX_YAML_BYTES = 1 << 20

_OCTAL = re.compile(r"[-+]?0[0-9_]+")
_SEXAGESIMAL = re.compile(r"[-+]?[0-9][0-9_]*(?::[0-9.]+)+")


def read_yaml(path: Path, named: str) -> Any:
    """Return the contents of a YAML file.

    Args:
        path: the file.
        named: field that names the file, with its value, for messages.

    Raises:
        InputError: the file cannot be read, is not YAML, is larger than a megabyte, has a key
            twice, or a number that means another one than it shows.
        JobError: the machine fails to read the file.
    """
    import yaml

    try:
        with path.open("rb") as file:  # maybe a pipe, so its size is not known before
            text = file.read(_MAX_YAML_BYTES + 1)
        if len(text) > _MAX_YAML_BYTES:
            raise InputError(f"{named}: larger than {_MAX_YAML_BYTES:,} bytes")
        return yaml.load(decoded(text, named), _loader())
    except InputError:
        raise
    except OSError as error:
        raise unreadable(named, error) from error
    except RecursionError as error:
        raise InputError(f"{named}: cannot be read as YAML: nested too deeply") from error
    except Exception as error:  # PyYAML raises anything: AttributeError, say, for `!!timestamp x`
        raise InputError(f"{named}: cannot be read as YAML: {reason(error)}") from error


@cache
def _loader() -> Any:
    """Return PyYAML's safe loader, made strict where YAML 1.1 surprises or PyYAML is silent."""
    import yaml

    class Strict(yaml.SafeLoader):
        """Refuses keys that occur twice, and numbers with the bases 8 and 60; dates are texts."""

        def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
            lines: dict[str, int] = {}
            for key, _ in node.value:
                line = key.start_mark.line + 1
                if isinstance(key, yaml.ScalarNode):
                    if key.value in lines:
                        first = lines[key.value]
                        raise ValueError(f"line {line}: {key.value} stands in line {first}, too")
                    lines[key.value] = line
            return dict(super().construct_mapping(node, deep))

        def construct_number(self, node: Any) -> Any:
            text = node.value
            if _OCTAL.fullmatch(text) or _SEXAGESIMAL.fullmatch(text):
                base = 60 if ":" in text else 8
                raise ValueError(
                    f"line {node.start_mark.line + 1}: {text} is a number with the base {base}; "
                    "put it in quotes, or write it without leading zeros and colons"
                )
            is_integer = node.tag.endswith(":int")
            return self.construct_yaml_int(node) if is_integer else self.construct_yaml_float(node)

        def construct_date(self, node: Any) -> str:
            self.construct_yaml_timestamp(node)
            return str(node.value)

    for kind in ("int", "float"):
        Strict.add_constructor(f"tag:yaml.org,2002:{kind}", Strict.construct_number)
    Strict.add_constructor("tag:yaml.org,2002:timestamp", Strict.construct_date)
    return Strict
