"""A metric of your own: Cohen's kappa, agreement beyond chance (Cohen 1960), of classifiers.

--config.metrics="('accuracy', 'examples.metric')"
"""

import numpy as np

from mapjax import Metric, Source


def make(source: Source) -> Metric:
    """Make the metric against the truth of a source; its counts are a confusion matrix, rows are truth."""
    classes = len(source.classes)

    def measure(result, batch):
        real = np.asarray(batch["mask"])  # rows that fill up the last batch do not count
        truth = np.asarray(batch["label"])[real]
        found = np.asarray(result["probabilities"]).argmax(-1)[real]
        counts = np.zeros((classes, classes), np.int64)
        np.add.at(counts, (truth, found), 1)
        return counts

    def merge(one, other):
        return one + other

    def summarize(counts):
        total = counts.sum()
        agreed = np.trace(counts) / total
        chance = (counts.sum(0) * counts.sum(1)).sum() / total**2
        return {"kappa": float((agreed - chance) / (1 - chance)) if chance < 1 else -1.0}

    return Metric(measure, merge, summarize, files=lambda counts: {}, best="kappa")
