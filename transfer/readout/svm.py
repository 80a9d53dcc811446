"""Multi-label classification by linear SVMs on fixed features: which classes does an image show?

In: features, labels of every image and class, `SvmConfig`. Out: `ClassResult`s. The solver is scikit-learn's LinearSVC (liblinear).

A label is PRESENT (an object that is not difficult), ABSENT (no object) or DIFFICULT (difficult ones alone), as VOC's own class
lists have 1, -1 and 0. Of a class, images where it is DIFFICULT are left out of the test, and stand among the negatives in training:
both as VISSL does.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from pretrain.base.errors import DataError
from transfer.data.records import DetectionData
from transfer.readout.svm_config import SvmConfig

PRESENT, ABSENT, DIFFICULT = 1, 0, -1
TOLERANCE = 1e-4  # liblinear's stopping criterion
SMALL = 1e-5  # added to lengths, so that a vector of zeros stays one


@dataclass(frozen=True)
class ClassResult:
    """One class. AP in percent.

    cost: C with the best mean AP of the folds. folds_ap: that mean for every C, by scikit-learn's average_precision_score (no
        interpolation). ap_area: area under the precision-recall curve made monotonic (VOC from 2010 on, and VISSL).
    ap_11_points: mean precision at recall 0, 0.1, ... 1 (VOC 2007's own). None: no test image shows the class.
    num_train, num_test: images that show it. num_left_out: test images where all its objects are difficult.
    converged: every fit within max_iterations.
    """

    name: str
    cost: float
    folds_ap: tuple[float, ...]
    ap_area: float | None
    ap_11_points: float | None
    num_train: int
    num_test: int
    num_left_out: int
    converged: bool

    def to_dict(self) -> dict[str, Any]:
        """For the record."""
        return asdict(self)


def image_labels(data: DetectionData, class_names: Sequence[str]) -> np.ndarray:
    """int64 (N, C): PRESENT, ABSENT or DIFFICULT, from the objects of each image. class_names: the order of the columns.

    Raises DataError for a class of `data` that is not among them.
    """
    unknown = sorted(set(data.class_names) - set(class_names))
    if unknown:
        raise DataError(
            f"the test images show classes that the training images do not: {', '.join(unknown)}; expected only "
            f"{', '.join(class_names)}"
        )
    column = {name: number for number, name in enumerate(class_names)}
    labels = np.full((len(data.records), len(class_names)), ABSENT, dtype=np.int64)
    for row, record in enumerate(data.records):
        for thing in record["annotations"]:
            if thing.get("iscrowd", 0):
                continue
            place = column[data.class_names[thing["category_id"]]]
            if not thing.get("difficult", 0):
                labels[row, place] = PRESENT
            elif labels[row, place] == ABSENT:
                labels[row, place] = DIFFICULT
    return labels


def unit_length(features: np.ndarray) -> np.ndarray:
    """float64 (N, D), each row of length 1; rows of zeros stay."""
    rows = features.astype(np.float64)
    return rows / (np.linalg.norm(rows, axis=1, keepdims=True) + SMALL)


def fitting_classes(labels: np.ndarray, class_names: Sequence[str], folds: int) -> tuple[list[int], list[str]]:
    """(columns of `labels` that can be cross-validated, a sentence on each of the others). Raises DataError where none can."""
    fit, left_out = [], []
    for column, name in enumerate(class_names):
        shown = int((labels[:, column] == PRESENT).sum())
        if min(shown, len(labels) - shown) >= folds:
            fit.append(column)
        else:
            left_out.append(
                f"class {name!r} is left out of the mean: {shown} training images show it (difficult objects do not count), "
                f"{len(labels) - shown} do not, and {folds}-fold cross-validation needs {folds} of each"
            )
    if not fit:
        raise DataError("\n".join(["no class can be read out:", *left_out]))
    return fit, left_out


def fit_classes(
    train: np.ndarray,
    train_labels: np.ndarray,
    test: np.ndarray,
    test_labels: np.ndarray,
    class_names: Sequence[str],
    config: SvmConfig,
    *,
    announce: Callable[[str], None],
) -> list[ClassResult]:
    """Choose C by cross-validation, fit and test every class of `fitting_classes`. train, test: float (N, D), (M, D). labels: of
    `image_labels`."""
    columns, left_out = fitting_classes(train_labels, class_names, config.folds)
    for text in left_out:
        announce(text)
    results = []
    for column in columns:
        result = _fit_class(train, train_labels[:, column], test, test_labels[:, column], class_names[column], config)
        area = "none in the test images" if result.ap_area is None else f"AP {result.ap_area:.2f} (area)"
        unsettled = "" if result.converged else f"; some fits did not converge in {config.max_iterations} iterations"
        announce(f"{result.name}: C={result.cost:g}, {area}{unsettled}")
        results.append(result)
    return results


def _fit_class(
    train: np.ndarray, labels: np.ndarray, test: np.ndarray, test_labels: np.ndarray, name: str, config: SvmConfig
) -> ClassResult:
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.model_selection import cross_val_score
    from sklearn.svm import LinearSVC

    target = np.where(labels == PRESENT, 1, -1)

    def machine(cost: float) -> LinearSVC:
        return LinearSVC(
            C=cost,
            class_weight={1: config.positive_weight, -1: 1.0},
            dual=True,
            tol=TOLERANCE,
            max_iter=config.max_iterations,
            random_state=config.seed,
        )

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ConvergenceWarning)
        folds = tuple(
            100
            * float(cross_val_score(machine(cost), train, target, cv=config.folds, scoring="average_precision").mean())
            for cost in config.costs
        )
        cost = config.costs[int(np.argmax(folds))]
        scores = machine(cost).fit(train, target).decision_function(test)
    counted = test_labels != DIFFICULT
    truth = test_labels[counted] == PRESENT
    area, points = average_precision(scores[counted], truth) if truth.any() else (None, None)
    return ClassResult(
        name,
        cost,
        folds,
        area,
        points,
        num_train=int((labels == PRESENT).sum()),
        num_test=int(truth.sum()),
        num_left_out=int((~counted).sum()),
        converged=not any(issubclass(warning.category, ConvergenceWarning) for warning in caught),
    )


def average_precision(scores: np.ndarray, truth: np.ndarray) -> tuple[float, float]:
    """(area, 11 points) in percent, of scores (n,) and truth bool (n,) with one positive or more. Equal scores count in the order
    given, as in VOC's code."""
    from detectron2.evaluation.pascal_voc_evaluation import voc_ap

    right = truth[np.argsort(-scores, kind="stable")]
    found = np.cumsum(right)
    precision, recall = found / np.arange(1, len(right) + 1), found / right.sum()
    area, points = (float(voc_ap(recall, precision, use_07_metric=by_points)) for by_points in (False, True))
    return 100 * area, 100 * points
