"""How good a model is: likelihoods that have to be estimated, and measures of its samples.

A likelihood (in nats) is the measure where there is one. What has none is judged by samples: their Parzen-window density,
and what a classifier of digits, trained with this engine, sees in them.
"""

from tinygen.evaluation.classifier import DigitClassifier, digit_classifier
from tinygen.evaluation.features import Balance, class_balance, frechet_distance, frechet_of_moments, moments, precision_recall
from tinygen.evaluation.likelihood import SIGMAS, Parzen, bits_per_dim, importance_log_prob, log_densities, parzen
from tinygen.evaluation.mmd import Discrepancy, mmd
from tinygen.evaluation.samples import DIGITS, balance_of, sample_figures

__all__ = [
    "DIGITS",
    "SIGMAS",
    "Balance",
    "DigitClassifier",
    "Discrepancy",
    "Parzen",
    "balance_of",
    "bits_per_dim",
    "class_balance",
    "digit_classifier",
    "frechet_distance",
    "frechet_of_moments",
    "importance_log_prob",
    "log_densities",
    "mmd",
    "moments",
    "parzen",
    "precision_recall",
    "sample_figures",
]
