"""What storage costs, for the report of it."""

from typing import Annotated

from pydantic import Field

from sbh_pipelines.settings.section import Section

Price = Annotated[float, Field(ge=0)]


class PriceSettings(Section):
    """A price list. Without one, `sbh report storage` names bytes and no cost."""

    currency: str = Field("USD", max_length=12, description="In which prices are given.")
    gib_month: dict[str, Price] = Field(
        {},
        description="By S3 storage class, the price of a GiB for a month; `*`: of every class that is not named, and of `local`.",
        examples=[{"STANDARD": 0.023, "STANDARD_IA": 0.0125, "GLACIER_IR": 0.004}],
    )

    def cost(self, by_class: dict[str, int]) -> float | None:
        """Of so many bytes of each storage class for a month; None where a class has no price."""
        total = 0.0
        for name, size in by_class.items():
            price = self.gib_month.get(name, self.gib_month.get("*"))
            if price is None:
                return None
            total += price * size / 2**30
        return round(total, 4) if self.gib_month else None
