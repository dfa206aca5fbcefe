"""Cleaning rules: what a document must pass between its file and the tokenizer.

A rule is a pure function `TextDocument -> TextDocument | Rejection` (`Rule` in `rule.py`). It lets
the document pass, returns it with another text or language and counts the change, or rejects it.
`build.py` makes the ordered rules that `Cleaning` (`settings.py`) asks for; without a setting there
is none, and the bytes of a dataset are those of a corpus that is not cleaned. The first rule that
rejects a document is the only one that counts it, so documents in = documents used + documents
rejected by each rule, exactly.

The path of a document through the jobs:

1. `pipeline.corpus.cleaning.DocumentCleaner`, one per worker, decodes a document's bytes and
   applies the rules. `vocab` and `preprocess` both use it. The text after the rules identifies a
   document without an id column, hence determines its split and shard.
2. `TokenizeDocuments` (`pipeline.jobs.preprocess`) tokenizes what passed. A document without
   pieces, or with too few, becomes a `Rejection` there.
3. `ShardMaker.select` (`pipeline.records.shard`) sees all documents of a shard. It returns those
   that it keeps and (document, `Rejection`) for each other one: duplicates, near-duplicates,
   documents that no pair can be made of. A rule that compares documents belongs here.

`Rejection.rule` is the name under which the manifest counts the document (`dropped_documents`).
`value` is what was measured and `threshold` the limit that it missed; None where there is none.
A document carries a `label` (its id and the beginning of its text as read) to the last stage if
rejections are written; otherwise the label is empty.
"""
