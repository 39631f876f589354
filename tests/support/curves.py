"""One configuration's load curve as plain numbers, for tests that look at one at a time."""

from __future__ import annotations

from tuner.model.load import LoadCurves, LoadPoint
from tuner.model.settings import EngineSettings
from tuner.model.table import HasCoefficients, StepTable
from tuner.space.workload import Workload


class LoadCurve:
    """`LoadCurves` of a single row."""

    def __init__(self, steps: HasCoefficients, settings: EngineSettings, workload: Workload, kv_tokens: int) -> None:
        self._curves = LoadCurves(StepTable([steps.coefficients]), [settings], workload, [kv_tokens])
        self.batch_cap = float(self._curves.batch_cap[0])

    def at(self, batch: float) -> LoadPoint:
        return _plain(self._curves.at(self._curves.batch_cap * 0 + batch))

    def at_share(self, point: LoadPoint, share: float) -> LoadPoint:
        return _plain(self._curves.at_share(point, share))

    def at_rate(self, rate: float) -> LoadPoint:
        return _plain(self._curves.at_rate(rate))

    def closed(self, concurrency: float) -> LoadPoint:
        return _plain(self._curves.closed(concurrency))


def _plain(point: LoadPoint) -> LoadPoint:
    return LoadPoint(*(value.tolist()[0] for value in point))
