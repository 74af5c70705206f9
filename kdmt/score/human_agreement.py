"""How often people agree with a difference of two systems' scores (Kocmi et al. 2024).

The share of pairs of systems for which people prefer the same system as a metric, as a function of the difference d of
the scores, is fitted by a / (1 + exp(-b d)). The values of a (percent) and b are those of mt-thresholds 1.0.4
(https://github.com/kocmitom/MT-Thresholds), from the judgements of WMT for systems on test sets of some hundred
segments and more. They say nothing about the significance of a difference.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from kdmt.choices import AgreementMetric


@dataclass(frozen=True)
class _Fit:
    highest: float  # percent
    slope: float
    scale: float = 1.0  # factor of a score: those from 0 to 1 are compared in hundredths


_FITS: dict[AgreementMetric, _Fit] = {
    "bleu": _Fit(88.33333333333225, 0.9663926931178954),
    "chrf": _Fit(92.999999999972, 1.1142732157139852),
    "spbleu101": _Fit(84.58445492823891, 1.262507595109315),
    "spbleu200": _Fit(90.99999999998793, 0.8079046528617078),
    "comet20": _Fit(97.33333333332897, 0.7266990738678005, 100),
    "comet22": _Fit(96.22374133884283, 2.8359194570556636, 100),
    "cometkiwi22": _Fit(98.88141616584615, 2.719280643871758, 100),
    "cometkiwi23-xl": _Fit(96.39080593943235, 1.8888877927713834, 100),
    "xcomet-xl": _Fit(96.56738237041118, 1.4535595865214588, 100),
    "xcomet-xxl": _Fit(98.93432477039522, 1.1629533711748128, 100),
    "bleurt20": _Fit(98.33333333332963, 1.3727206190931929, 100),
    "metricx-23-large": _Fit(93.60777624544488, 26.277850179370947),
    "metricx-23-qe-large": _Fit(97.99999999782683, 15.541455989240491),
}


def agreement(difference: float, metric: AgreementMetric) -> float:
    """Return the percentage of pairs of systems with this difference for which people agree with the metric."""
    fit = _FITS[metric]
    return fit.highest / (1 + math.exp(-fit.slope * fit.scale * abs(difference)))
