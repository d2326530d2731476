"""The sections of a manifest, each checked by itself: strict, frozen, no unknown keys, no file opened.

`examples` holds a line of YAML for a key that has no default; it is shown to whoever left the key out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from datetime import date, datetime
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator

from monitoring_assets import uri_template
from monitoring_assets.manifest_types import (
    ColumnName,
    FileName,
    ImageDigest,
    LabelValue,
    Memory,
    RelativePath,
    ScoreRange,
    SpecialValue,
    UriTemplate,
    refuse,
)
from monitoring_assets.partitions import Frequency, PartitionCalendar, calendar_problems
from monitoring_assets.problems import Problem, shown

LONGEST_SLA_HOURS = 366 * 24
LONGEST_MATURITY_DAYS = 3_660
SMALLEST_THRESHOLD = 0.02  # smaller shifts are not recorded per window


class Part(BaseModel):
    """A mapping in the manifest."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid", allow_inf_nan=False)


class Partitions(Part):
    """How time is cut. `start` is a date in `timezone`: a Monday for weeks, the first of a month for months."""

    every: Frequency = Field(examples=["every: day"])
    timezone: str = "UTC"
    start: date = Field(examples=["start: 2026-01-01"])

    @model_validator(mode="after")
    def _is_a_calendar(self) -> Self:
        problems = calendar_problems(self.every, self.timezone, self.start)
        if problems:
            refuse(*problems)
        return self

    @property
    def calendar(self) -> PartitionCalendar:
        """The keys and windows of these partitions."""
        return PartitionCalendar(self.every, self.timezone, self.start)


class Source(Part):
    """Where a partition's applications are, one row each, with `key` as their identity."""

    uri: UriTemplate = Field(examples=['uri: "s3://lake/applications/{partition:%Y/%m/%d}/*.parquet"'])
    key: ColumnName = Field(examples=["key: application_id"])
    ready: FileName | None = None
    sla_hours: Annotated[float, Field(gt=0, le=LONGEST_SLA_HOURS)] | None = None

    def uri_for(self, start_local: datetime) -> str:
        """The URI of the partition that begins at this wall-clock time; its last part may hold `*`, `?` and `[…]`."""
        return uri_template.render(self.uri, start_local)


class Feature(Part):
    """A column that the model reads. Each special value has a bin of its own."""

    name: ColumnName = Field(examples=["name: income"])
    kind: Literal["numeric", "categorical"] = Field(examples=["kind: numeric"])
    special_values: Annotated[tuple[SpecialValue, ...], Field(strict=False, max_length=100)] = ()
    max_null_rate: Annotated[float, Field(ge=0, le=1)] | None = None

    @model_validator(mode="after")
    def _special_values_fit_the_kind(self) -> Self:
        wanted, fix = (float, "write numbers") if self.kind == "numeric" else (str, "write each in quotes")
        wrong = [value for value in self.special_values if not isinstance(value, wanted)]
        if wrong:
            message = f"{shown(wrong[0])} cannot occur in a {self.kind} feature"
            refuse(Problem("special_values", message, f"{fix}, or change kind"))
        refuse_repeated("special_values", self.special_values)
        return self


class Cutoff(Part):
    """The score at which applications are decided from a date on."""

    from_: date = Field(alias="from", examples=["from: 2026-01-01"])
    value: float = Field(examples=["value: 0.12"])

    @field_validator("from_", mode="before")
    @classmethod
    def _json_has_no_dates(cls, value: Any, info: ValidationInfo) -> Any:
        # Pydantic reads them by itself everywhere but below a validator in Python, as Score's is.
        return date.fromisoformat(value) if info.mode == "json" and isinstance(value, str) else value


class Score(Part):
    """How rows get their score and how the score is to be read. For `scale: pd`, range is [0, 1] and higher is risk."""

    kind: Literal["onnx", "precomputed", "container"] = Field(examples=["kind: onnx"])
    artefact: RelativePath | None = None
    image: ImageDigest | None = None
    column: ColumnName = "score"
    scale: Literal["pd", "logodds", "points"] = "pd"
    higher_is: Literal["risk", "safety"] = Field(examples=["higher_is: safety"])
    range: ScoreRange = Field(examples=["range: [300, 850]"])
    cutoffs: Annotated[tuple[Cutoff, ...], Field(strict=False, max_length=1_000)] = ()

    @model_validator(mode="before")
    @classmethod
    def _a_probability_explains_itself(cls, data: Any) -> Any:
        if isinstance(data, dict) and data.get("scale", "pd") == "pd":
            return {"range": [0.0, 1.0], "higher_is": "risk", **data}
        return data

    @model_validator(mode="after")
    def _is_consistent(self) -> Self:
        problems = [*self._kind_problems(), *self._range_problems()]
        if problems:
            refuse(*problems)
        return self

    def _kind_problems(self) -> Iterable[Problem]:
        if self.kind == "onnx" and self.artefact is None:
            yield Problem("artefact", "is missing, and kind: onnx needs it", "write artefact: model.onnx")
        if self.kind != "onnx" and self.artefact is not None:
            yield Problem("artefact", f"belongs to kind: onnx, not to kind: {self.kind}", "leave artefact out")
        if self.kind == "container" and self.image is None:
            fix = "write image: name@sha256: and the 64 hex digits of the digest"
            yield Problem("image", "is missing, and kind: container needs it", fix)
        if self.kind != "container" and self.image is not None:
            yield Problem("image", f"belongs to kind: container, not to kind: {self.kind}", "leave image out")

    def _range_problems(self) -> Iterable[Problem]:
        low, high = self.range
        if self.scale == "pd" and not 0 <= low < high <= 1:
            fix = "write range: [0, 1], or another scale"
            yield Problem("range", f"{list(self.range)} holds values that are no probability", fix)
        for number, cutoff in enumerate(self.cutoffs):
            if not low <= cutoff.value <= high:
                message = f"{shown(cutoff.value)} is outside range {list(self.range)}"
                yield Problem(f"cutoffs.{number}.value", message, "write a score inside the range")
            if number and cutoff.from_ <= self.cutoffs[number - 1].from_:
                message = f"{cutoff.from_} is not after {self.cutoffs[number - 1].from_}, the cut-off before it"
                yield Problem(f"cutoffs.{number}.from", message, "write the cut-offs oldest first, one a date")


class Reference(Part):
    """The population that the model is compared with. `sample` says how it relates to the data of the training."""

    uri: RelativePath = "reference.parquet"
    sample: Literal["holdout", "oot", "production", "train"] = Field(examples=["sample: holdout"])
    population: Literal["applied", "booked"] = "applied"
    label: ColumnName | None = None
    timestamp: ColumnName | None = None
    score: ColumnName | None = None


class LabelStates(Part):
    """Labels that are neither good nor bad."""

    indeterminate: Annotated[tuple[LabelValue, ...], Field(strict=False, max_length=100)] = ()
    excluded: Annotated[tuple[LabelValue, ...], Field(strict=False, max_length=100)] = ()


class Outcomes(Part):
    """Where the labels of a partition's booked loans arrive, one row a loan; a label may be null until it is known."""

    uri: UriTemplate = Field(examples=['uri: "s3://lake/outcomes/{partition}.parquet"'])
    key: ColumnName = Field(examples=["key: application_id"])
    label: ColumnName = Field(examples=["label: defaulted"])
    bad_value: LabelValue = Field(examples=["bad_value: 1"])
    states: LabelStates = LabelStates()
    month_on_book: Annotated[int, Field(ge=1, le=120)] | None = None
    matures_after_days: Annotated[int, Field(ge=1, le=LONGEST_MATURITY_DAYS)] = Field(
        examples=["matures_after_days: 60"]
    )
    partition_is: Literal["scoring_date"] = "scoring_date"

    @model_validator(mode="after")
    def _a_label_has_one_meaning(self) -> Self:
        everything = [self.bad_value, *self.states.indeterminate, *self.states.excluded]
        refuse_repeated("states", everything)
        return self

    def uri_for(self, start_local: datetime) -> str:
        """The URI of the partition that begins at this wall-clock time; its last part may hold `*`, `?` and `[…]`."""
        return uri_template.render(self.uri, start_local)


class Thresholds(Part):
    """Net PSI at which a column warns and at which it is critical."""

    warn: Annotated[float, Field(ge=SMALLEST_THRESHOLD)] = 0.10
    critical: float = 0.25

    @model_validator(mode="after")
    def _warn_comes_first(self) -> Self:
        if self.warn >= self.critical:
            message = f"{self.warn} is not below critical, which is {self.critical}"
            refuse(Problem("warn", message, "write a lower warn or a higher critical"))
        return self


class EpisodeRules(Part):
    """When episodes open and close: a warning opens one at `warnings` of the last `among` partitions, `calm` clear ones
    in a row close it, and for `cooldown` partitions after that a warning opens nothing.
    """

    warnings: Annotated[int, Field(ge=1, le=5)] = 2
    among: Annotated[int, Field(ge=1, le=5)] = 3
    calm: Annotated[int, Field(ge=1, le=30)] = 2
    cooldown: Annotated[int, Field(ge=0, le=366)] = 3

    @model_validator(mode="after")
    def _can_be_met(self) -> Self:
        if self.warnings > self.among:
            message = f"{self.warnings} is more than among, which is {self.among}"
            refuse(Problem("warnings", message, "write at most as many as among"))
        return self


class Policy(EpisodeRules):
    """When to speak up. `model_fields_set` tells what the manifest says from what the fleet's defaults may fill in."""

    psi: Thresholds = Thresholds()
    csi: Thresholds = Thresholds()

    @model_validator(mode="before")
    @classmethod
    def _warnings_are_among_something(cls, data: Any) -> Any:
        # With the fleet's number for the other one it might be a rule that nothing can meet.
        stated = [key for key in ("warnings", "among") if isinstance(data, dict) and key in data]
        if len(stated) == 1:
            other = "among" if stated == ["warnings"] else "warnings"
            fix = "write both, such as warnings: 2 and among: 3, or neither"
            refuse(Problem(other, f"is missing, and {stated[0]} is stated", fix))
        return data


class Resources(Part):
    """What a stage of this version runs on."""

    cpu: Annotated[float, Field(ge=0.1, le=64)] = 1.0
    memory: Memory = "2Gi"
    engine: Literal["polars", "spark"] = "polars"

    @property
    def memory_mib(self) -> int:
        """The memory in MiB."""
        return int(self.memory[:-2]) * (1024 if self.memory.endswith("Gi") else 1)


def refuse_repeated(key: str, values: Iterable[object]) -> None:
    """Ends a validator with a problem at `key` if a value occurs twice."""
    repeated = [value for value, count in Counter(values).items() if count > 1]
    if repeated:
        refuse(Problem(key, f"{shown(repeated[0])} occurs more than once", "write it once"))
