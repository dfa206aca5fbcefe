"""A vocabulary has one writer at a time."""

import os
from pathlib import Path

import pytest

from pipeline import make_vocabulary
from pipeline.configs import VocabularyConfig
from pipeline.errors import InputError


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_second_job_with_the_same_output_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, overwrite: bool
) -> None:
    (tmp_path / "a.txt").write_text("The boat sees the sea.")
    output = tmp_path / "new" / "vocab.txt"
    config = VocabularyConfig(
        input=(str(tmp_path / "a.txt"),), output=output, size=20, overwrite=overwrite
    )
    learn = make_vocabulary.learn_vocabulary

    def meanwhile(*arguments: object) -> list[str]:
        message = rf"`output` .*new/vocab\.txt: is being written by process {os.getpid()}"
        with pytest.raises(InputError, match=message):
            make_vocabulary.make_vocabulary(config)
        return learn(*arguments)

    monkeypatch.setattr(make_vocabulary, "learn_vocabulary", meanwhile)
    assert make_vocabulary.make_vocabulary(config).path.is_file()
    assert [path.name for path in output.parent.iterdir()] == ["vocab.txt"]
