"""Asking Great Expectations: a version's stored counts as a batch, its policy as a suite, the verdicts as arrays."""

from __future__ import annotations

from monitoring_assets.assets.history import History
from monitoring_assets.expectations.batch import CountHistory
from monitoring_assets.expectations.suite import SuitePolicy, SuiteVerdict, build_suite, validate
from monitoring_assets.partitions import windows_for
from monitoring_assets.stability.profile import WHOLE
from monitoring_assets.stability.psi import FloatArray, IntArray
from monitoring_assets.stability.significance import alpha
from monitoring_assets.stability.windows import Thresholds, WindowVerdicts
from monitoring_assets.version import ModelVersion


def thresholds(version: ModelVersion, kind: str) -> Thresholds:
    """The version's thresholds of net PSI, for ``psi`` or ``csi``."""
    limits = version.manifest.policy.psi if kind == "psi" else version.manifest.policy.csi
    return Thresholds(limits.warn, limits.critical)


def suite_policy(version: ModelVersion) -> SuitePolicy:
    """What the version's suite is built from, besides its reference."""
    features = version.manifest.features or ()
    return SuitePolicy(
        psi=thresholds(version, "psi"),
        csi=thresholds(version, "csi"),
        lengths=windows_for(version.manifest.partitions.every),
        level=alpha(len(version.profile.columns)),
        max_null_rates={each.name: each.max_null_rate for each in features if each.max_null_rate is not None},
    )


def batch_of(history: History, measures: dict[str, FloatArray]) -> CountHistory:
    """The whole population's counts as Great Expectations gets them."""
    return CountHistory(
        partitions=history.partitions,
        present=history.present,
        counts=history.bins[WHOLE],
        tails=history.tails[WHOLE],
        rows=history.rows,
        measures=measures,
    )


def judge_population(
    version: ModelVersion, kind: str, history: History, targets: IntArray
) -> dict[str, WindowVerdicts]:
    """Verdicts of psi or csi for the whole population, by column, as Great Expectations decided them."""
    return judge(version, batch_of(history, {}), targets, kind).psi


def judge(
    version: ModelVersion, batch: CountHistory, targets: IntArray, kind: str, weekday_history: IntArray | None = None
) -> SuiteVerdict:
    """Validate a batch with the expectations of one kind of the version's suite."""
    suite = build_suite(version.profile, suite_policy(version))
    return validate(suite, version.profile, batch, targets, {kind}, weekday_history)
