"""Read YAML files that users write."""

from pathlib import Path
from typing import Any

from pipeline.errors import InputError

_MAX_YAML_BYTES = 1 << 20


def read_yaml(path: Path, named: str) -> Any:
    """Return the contents of a YAML file.

    Args:
        path: the file.
        named: field that names the file, with its value, for messages.

    Raises:
        InputError: the file cannot be read, is not YAML, or is larger than a megabyte.
    """
    import yaml

    try:
        with path.open("rb") as file:  # maybe a pipe, so its size is not known before
            text = file.read(_MAX_YAML_BYTES + 1)
        if len(text) > _MAX_YAML_BYTES:
            raise InputError(f"{named}: larger than {_MAX_YAML_BYTES:,} bytes")
        return yaml.safe_load(text.decode())
    except InputError:
        raise
    except RecursionError as error:
        raise InputError(f"{named}: cannot be read as YAML: nested too deeply") from error
    except Exception as error:  # PyYAML raises anything: AttributeError, say, for `!!timestamp x`
        reason = " ".join(str(error).split())
        raise InputError(f"{named}: cannot be read as YAML: {reason}") from error
