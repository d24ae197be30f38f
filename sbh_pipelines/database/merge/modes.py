"""What each mode of a restore decides, of rows and of files alike. A new mode is a member of `MergeMode` and a line here.

A thing that the backup has and the live tenant lacks comes back in every mode.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum, auto

from sbh_pipelines.model import MergeMode


class Winner(Enum):
    """Which of two that differ stays: the backup's, the live one, or the one that was changed later."""

    BACKUP = auto()
    LIVE = auto()
    LATER = auto()


@dataclass(frozen=True, slots=True)
class ModeRules:
    """The decisions of one mode.

    Attributes:
        winner: of a live row or file and the backup's, where they differ.
        removes: whether live rows and files that the backup does not have go.
    """

    winner: Winner
    removes: bool

    @property
    def exact(self) -> bool:
        """The live side becomes the backup's, whole."""
        return self.winner is Winner.BACKUP and self.removes

    @property
    def by_time(self) -> bool:
        """Rows need a column, declared in `restore.newest`, that says when they were last changed."""
        return self.winner is Winner.LATER


RULES: Mapping[MergeMode, ModeRules] = {
    MergeMode.EXACT: ModeRules(Winner.BACKUP, removes=True),
    MergeMode.MISSING_ONLY: ModeRules(Winner.LIVE, removes=False),
    MergeMode.NEWEST_WINS: ModeRules(Winner.LATER, removes=False),
}
