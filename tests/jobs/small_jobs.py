"""A run of seconds, and what two runs are compared by."""

SMALL = [
    "runtime=local",
    "encoder=conv",
    "encoder.width=8",
    "method.projection=[8]",
    "trainer.epochs=3",
    "trainer.steps_per_epoch=4",
    "trainer.unlabelled_batch=16",
    "trainer.labelled_batch=20",
    "trainer.steps_per_call=3",
    "evaluation.protocols=[knn20,linear]",
]


def clean(rows):
    """Log rows without what a clock says."""
    return [{key: value for key, value in row.items() if "second" not in key} for row in rows]
