"""What every section of the settings is made of."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, PrivateAttr, StringConstraints

QualifiedName = Annotated[str, StringConstraints(min_length=1, max_length=200)]


class Section(BaseModel):
    """A table of sbh.toml: frozen, and unknown fields are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    _home_region: str | None = PrivateAttr(None)

    @property
    def home_region(self) -> str | None:
        """The site's first region, in which its secrets are where nothing else says so."""
        return self._home_region

    def at_home_in(self, region: str) -> "Section":
        """The same section, of a site whose first region this is."""
        copy = self.model_copy()
        copy._home_region = region
        return copy
